"""What DNE's released code saves and reports: its files and its figures."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from kit_tiny import MINIMUM

from fairtune.editing.stored import read_edit
from fairtune.errors import ModelError
from fairtune.experiment.alone import finetune_alone
from fairtune.experiment.judge import Judge
from fairtune.experiment.released import released
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job

JUDGE = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})


def noise(side: int = 224) -> torch.Tensor:
    return 0.2 * torch.randn(side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        # Recalls of M without and with, then of F, of the notebook of the release.
        ((94, 39.5, 45.5, 97), (48.5, 57.5, 0.5928)),
        ((86.5, 63, 61.5, 86), (25.0, 23.0, 0.2674)),
    ],
)
def test_the_figures_are_those_of_the_release(
    cells: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    m, f = cells[:2], cells[2:]
    found = released({"F": (f[0], f[1]), "M": (m[0], m[1])})
    assert list(found) == ["EO_n", "EO_p", "DI"]
    assert tuple(found.values()) == pytest.approx(expected, abs=5e-5)


def test_the_figures_are_of_two_groups_alone() -> None:
    assert released({"a": (1, 2)}) == {}
    assert released({"a": (1, 2), "b": (1, 2), "c": (1, 2)}) == {}
    assert math.isnan(released({"F": (50, 0), "M": (50, 10)})["DI"])


def test_a_file_is_read_as_it_is_and_never_clamped(tmp_path: Path) -> None:
    path = tmp_path / "dne_layer.pt"
    torch.save({"noise": noise()}, path)
    edit = read_edit(path)
    assert torch.equal(edit.value[0], noise())
    assert (edit.image_size, edit.clamp) == (224, False)
    assert "unknown" in edit.about["origin"]
    torch.save({"noise": torch.nn.Parameter(noise().double())}, path)
    assert torch.equal(read_edit(path).value[0], noise())


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harmed", "w"))


@pytest.mark.parametrize(
    "content",
    [
        {"noise": noise(4), "more": noise(4)},
        {"delta": noise(4)},
        {"noise": noise(4)[:3]},
        {"noise": noise(4).unsqueeze(0)},
        {"noise": torch.zeros(4, 4, dtype=torch.int64)},
        {"noise": torch.zeros(0, 0)},
        {"noise": [1.0]},
        noise(4),
        [1, 2],
    ],
)
def test_anything_else_is_refused_in_one_message(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "dne_layer.pt"
    torch.save(content, path)
    with pytest.raises(ModelError, match="no edit of DNE's released code"):
        read_edit(path)


def test_a_file_that_would_run_code_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "dne_layer.pt"
    torch.save({"noise": Harm()}, path)
    for content in (path.read_bytes(), pickle.dumps({"noise": Harm()}), b"", b"nonsense"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="no edit of DNE's released code"):
            read_edit(path)
    assert not (tmp_path / "harmed").exists()


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dne_layer.pt"
    torch.save({"noise": torch.full((4, 4), float("inf"))}, path)
    with pytest.raises(ModelError, match="not finite"):
        read_edit(path)


def test_finetune_takes_it_at_the_size_it_was_made_for(tmp_path: Path) -> None:
    held = session(tmp_path)
    recipe = tiny_recipe(adaptation__mask="none", model__image_size=32)
    plain = run(Job(held.resolve(recipe), Seeds()), held, Runs(tmp_path), JUDGE, keep_weights=True)
    assert isinstance(plain, StoredRun)
    path = tmp_path / "dne_layer.pt"
    torch.save({"noise": noise(32)}, path)
    card = str(plain.folder / "recipe.json")
    alone = finetune_alone(card, held, tmp_path, edit=str(path), seed=1, command="test")
    assert alone.deploy.edit is not None
    assert torch.equal(alone.deploy.edit.value[0], noise(32))
    edited, unedited = alone.deploy.raw_validation(1).score, plain.raw_validation(1).score
    assert not np.allclose(edited, unedited)
