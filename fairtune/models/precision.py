"""Which precision is faster on this machine, measured once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

FP32, BF16 = "fp32", "bf16"
_ROUNDS = 5
# bf16 changes results, so a gain within the noise of the clock must not choose it.
_GAIN = 0.95
_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}


def choose(device: torch.device, build_step: Callable[[torch.dtype], Callable[[], None]]) -> str:
    """Return `bf16` when a step under bf16 autocast takes under 95 % of one in fp32, else `fp32`.

    Where the hardware has no bf16 instructions nothing is measured and the answer is `fp32`.
    The answer depends on the machine and its load, so the caller stores it with the study.

    Args:
        device: Where the step runs.
        build_step: Takes `torch.float32` or `torch.bfloat16` and returns one step to time.
    """
    if not has_bf16(device):
        return FP32
    steps = [build_step(torch.float32), build_step(torch.bfloat16)]
    for step in steps:
        _seconds(device, step)
    # Alternating, so that a change of the machine's load meets both alike.
    rounds = [[_seconds(device, step) for step in steps] for _ in range(_ROUNDS)]
    full, half = (statistics.median(column) for column in zip(*rounds))
    return BF16 if half < _GAIN * full else FP32


def has_bf16(device: torch.device) -> bool:
    """Tell whether `device` multiplies bfloat16 numbers in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(cpu_flags() & _FLAGS)


def has_tf32(device: torch.device) -> bool:
    """Tell whether `device` multiplies fp32 numbers rounded to TF32: NVIDIA's from Ampere on."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the instruction sets that Linux lists for the processor; elsewhere the empty set."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    listed = [line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features"))]
    return set(listed[0].split()) if listed else set()


def _seconds(device: torch.device, step: Callable[[], None]) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
