from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fairtune.models.precision import choose, cpu_flags, has_bf16

CPU = torch.device("cpu")


def taking(full: float, half: float) -> Callable[[torch.dtype], Callable[[], None]]:
    return lambda dtype: lambda: time.sleep(full if dtype == torch.float32 else half)


@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [(0.02, 0.005, "bf16"), (0.005, 0.02, "fp32"), (0.02, 0.0198, "fp32")],
)
def test_the_faster_one_is_chosen(
    full: float, half: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairtune.models.precision.has_bf16", lambda device: True)
    assert choose(CPU, taking(full, half)) == expected


def test_without_instructions_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairtune.models.precision.has_bf16", lambda device: False)

    def build_step(dtype: torch.dtype) -> Callable[[], None]:
        raise AssertionError("a step was built")

    assert choose(CPU, build_step) == "fp32"


def test_a_real_step_gives_one_of_the_two() -> None:
    layer, x = torch.nn.Linear(64, 64), torch.randn(32, 64)

    def build_step(dtype: torch.dtype) -> Callable[[], None]:
        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                layer(x).float().sum().backward()

        return step

    allowed = {"fp32", "bf16"} if has_bf16(CPU) else {"fp32"}
    assert choose(CPU, build_step) in allowed


def test_instruction_sets_are_read_from_the_processors_list(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor : 0\nflags\t\t: fpu avx512_bf16 amx_tile\nprocessor : 1\n")
    assert cpu_flags(listing) == {"fpu", "avx512_bf16", "amx_tile"}
    listing.write_text("processor : 0\n")
    assert cpu_flags(listing) == set()
    assert cpu_flags(tmp_path / "absent") == set()
    assert not has_bf16(torch.device("meta"))
