"""Compiled blocks: the same numbers up to rounding, one compilation for all that are alike."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe

from fairtune.config.settings import keep_compiled_code
from fairtune.errors import ModelError
from fairtune.training import compiled
from fairtune.training.compiled import check_compiler
from fairtune.training.lane import Lane
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session

# torch hides this one itself, which only works where warnings are no errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

MASK = "attn:last-2,norm:all"
SSF = {"mask": MASK, "method": {"attn": {"ssf": {}}}}
LORA = {"mask": MASK, "method": {"attn": {"lora": {"rank": 2}}}}


def lane(held: Session, **changes: Any) -> Lane:
    recipe = held.resolve(tiny_recipe(**({"optim__batch_size": 32} | changes)))
    return Lane(recipe, Seeds(data=3, init=4), held.ground(recipe))


def compilations() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def after_two_steps(one: Lane) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    batches = one.loader.epoch()
    first, second = next(batches), next(batches)
    one.step(first)
    one.step(second)
    gradients = {name: p.grad.clone() for name, p in one.trained.items() if p.grad is not None}
    rows = one.ground.fit_rows(one.recipe)[: compiled.CHUNK + 7]  # a full batch, and one not
    return gradients, one.score(rows)[0]


def assert_same(one: Lane, other: Lane, tolerance: float = 2e-4) -> None:
    (mine, scores), (theirs, expected) = after_two_steps(one), after_two_steps(other)
    assert set(mine) == set(theirs) == set(one.trained)
    for name, gradient in theirs.items():
        assert torch.allclose(mine[name], gradient, rtol=1e-3, atol=tolerance), name
    assert np.allclose(scores, expected, atol=tolerance)


@pytest.mark.slow
@pytest.mark.needs("compiler")
def test_compiled_blocks_compute_what_plain_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    from torch._inductor import config

    # Else torch compiles a program for each kind of vector instructions that the processor has.
    monkeypatch.setattr(config.cpp, "vec_isa_ok", True)
    mask = {"adaptation__mask": "attn:last-2"}
    assert_same(lane(session(), **mask, fit__compile="blocks"), lane(session(), **mask))
    assert any((tmp_path / "code").rglob("*.so"))


@pytest.mark.slow
def test_blocks_that_are_alike_are_compiled_once_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # What is traced is what is asked here; without machine code it takes seconds, not minutes.
    monkeypatch.setattr(compiled, "_BACKEND", "aot_eager")
    held = session()
    assert_same(
        lane(held, adaptation__mask=MASK, fit__compile="blocks"),
        lane(held, adaptation__mask=MASK),
    )
    assert len(held.ground(tiny_recipe()).compiled) == 2  # with attention that trains, and without
    made = compilations()
    after_two_steps(lane(held, adaptation__mask="attn:last-3,norm:all", fit__compile="blocks"))
    assert compilations() == made
    both = {"precision": "fp32", "compile": "blocks", "checkpointing": "blocks"}
    assert_same(lane(held, adaptation__mask=MASK, fit=both), lane(held, adaptation__mask=MASK))
    # torch does not look at hooks: what SSF does must not be taken for what was compiled before.
    for method in (SSF, LORA):
        adapted = lane(held, adaptation=method, fit__compile="blocks")
        assert_same(adapted, lane(held, adaptation=method))


def test_only_full_batches_of_blocks_from_the_first_that_trains_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of frozen blocks is computed plainly: a run must not do it otherwise."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    rows: list[int] = []

    def noted(block: Any, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        out: torch.Tensor = block(x)
        return out

    monkeypatch.setattr(compiled, "_fresh", lambda: noted)
    one = lane(session(), adaptation__mask="block:last-2", fit__compile="blocks")
    one.epoch()
    full = len(one.ground.fit_rows(one.recipe)) // 32
    assert rows == [32] * 2 * full
    one.score(one.ground.val_rows(one.recipe))
    assert len(rows) == 2 * full


def test_a_machine_without_a_compiler_is_told_so_when_the_recipe_is_resolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelError, match="cannot be compiled") as caught:
        session().resolve(tiny_recipe(fit__compile="blocks"))
    said = str(caught.value)
    for part in ("recipe.fit.compile", "no-such-compiler", "CXX", "fit.compile: none"):
        assert part in said
    session().resolve(tiny_recipe())
    if importlib.util.find_spec("triton") is None:
        with pytest.raises(ModelError, match="triton"):
            check_compiler(torch.device("cuda"))
    with pytest.raises(ModelError, match="compiler for meta"):
        check_compiler(torch.device("meta"))


def test_what_cannot_be_cut_into_blocks_is_refused() -> None:
    model = {"name": "tf_efficientnet_lite0", "image_size": 32, "weights": "none"}
    with pytest.raises(ModelError, match="one by one") as caught:
        session().resolve(tiny_recipe(model=model, fit__compile="blocks"))
    assert caught.value.where == "recipe.fit.compile"


def test_compiled_code_is_kept_below_the_cache_and_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.setenv(name, "")  # puts back what was there
    monkeypatch.delenv(name)
    folder = tmp_path / "cache" / compiled.FOLDER
    assert keep_compiled_code(folder) == folder
    assert folder.stat().st_mode & 0o077 == 0
    assert keep_compiled_code(tmp_path / "other") == folder
    assert not (tmp_path / "other").exists()
