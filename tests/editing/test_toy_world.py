"""What edits do in a world whose bias is known: the acceptance checks on a small network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_scene import dne
from kit_toy import GROUPS, SIDE, Toy, saturating, toy, world
from torch import Tensor, nn

from fairtune.editing.edit import Edit
from fairtune.editing.learned import Learned
from fairtune.editing.probe import fit_probe, read


@pytest.fixture(scope="session")
def held() -> Toy:
    return toy()


def learned(held: Toy, **fields: Any) -> Learned:
    return dne(attribute="square", **fields).make(held.stage().scene)


@given(st.integers(0, 9999), st.floats(0.01, 30), st.booleans())
@settings(max_examples=20)
def test_no_edit_changes_what_a_head_reads_from_an_affine_embedding(
    seed: int, size: float, every: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(SIDE**2, 5, generator=draw, dtype=torch.float64)
    cells = SIDE if every else 7
    edit = Edit(torch.randn(1, cells, cells, generator=draw) * size, SIDE, clamp=False)

    def auc(view: Any) -> float:
        shown = world(300, 0.5, seed)
        plain = (shown.image.double().flatten(1) @ weight).numpy()
        probe = fit_probe(plain, shown.a, GROUPS, attribute="square")
        edited = (view(shown.image.double()).flatten(1) @ weight).numpy()
        return read(probe, edited, shown.a, GROUPS, np.arange(300)).auc

    assert auc(edit.on("cpu")) == pytest.approx(auc(lambda image: image), abs=1e-6)


@pytest.mark.parametrize("mode", ["white", "fzoo"])
def test_what_is_learned_for_an_affine_embedding_shifts_and_hides_nothing(mode: str) -> None:
    shown = world(400, 0.5, 1)
    weight = torch.randn(SIDE**2, 8, generator=torch.Generator().manual_seed(0))

    class Affine(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.flatten(1) @ weight

    one = Toy(Affine(), shown, shown, shown)
    edit = learned(one, mode=mode, objective="neg_ce", clamp=False, queries=320).edit
    before, after = one.frozen(None), one.frozen(edit)
    assert after.accuracy < before.accuracy - 0.1
    assert after.auc == pytest.approx(before.auc, abs=1e-3)
    assert one.retrained(edit).auc == pytest.approx(before.auc, abs=1e-3)


@pytest.mark.slow  # 4 s alone: the network is trained.
def test_the_world_is_biased_and_the_optimum_mends_it(held: Toy) -> None:
    biased, even = held.task(None), held.task(None, reweighted=True)
    assert held.frozen(None).auc > 0.99
    assert biased[2] > 0.5
    assert even[2] < 0.1
    best = held.task(saturating())
    assert 0.45 <= held.retrained(saturating()).auc <= 0.55
    assert best[2] < 0.1
    assert best[0] > biased[0] + 0.08


@pytest.mark.slow  # 2 to 4 s alone, a mode: 400 queries of 64 images.
@pytest.mark.parametrize("mode", ["white", "gezo", "two_point", "fzoo"])
def test_the_published_objective_fools_the_frozen_head_and_no_other(mode: str, held: Toy) -> None:
    edit = learned(
        held,
        mode={"white": {"lr": 2e-3}} if mode == "white" else mode,
        objective="neg_ce",
        regulariser="l2",
        lambda_reg=1e-3,
        clamp=False,
        batch_size=64,
        queries=400,
    ).edit
    assert held.frozen(edit).accuracy <= 0.6
    assert held.retrained(edit).auc >= 0.9
    if mode == "two_point":
        noise_of_the_same_size_does_not(held, edit.norms())


def noise_of_the_same_size_does_not(held: Toy, size: Mapping[str, float]) -> None:
    assert size["l2"] < 2
    for seed in range(3):
        mode = {"random": {"rms": size["rms"]}}
        noise = learned(held, mode=mode, clamp=False, seed=seed).edit
        assert noise.norms()["rms"] == pytest.approx(size["rms"], rel=1e-3)
        assert held.frozen(noise).accuracy >= 0.95
        assert held.retrained(noise).auc >= 0.99


@pytest.mark.slow  # 15 s alone: 344 steps and 16 refits, of 256 images a query.
def test_refits_and_a_fair_task_hide_from_a_retrained_head_too(held: Toy) -> None:
    made = learned(
        held,
        mode={"white": {"lr": 2e-2}},
        utility_weight=1.0,
        refit_every=20,
        batch_size=256,
        queries=600,
    )
    before, after = held.task(None), held.task(made.edit)
    assert made.queries == {"heads": 16, "steps": 344, "refits": 256}
    assert held.retrained(made.edit).auc <= 0.85
    # Measured: 0.20 and 0.25 of what it was, by the version of the search.
    assert after[2] <= 0.35 * before[2]
    assert after[0] >= before[0] - 0.03


@pytest.mark.slow  # 10 s alone: 2,000 queries of 64 images, 14 x 14 cells.
def test_without_a_gradient_it_is_hidden_in_part(held: Toy) -> None:
    made = learned(
        held,
        mode={"snes": {"init_std": 0.05, "population": 24}},
        utility_weight=1.0,
        refit_every=3,
        refit_rows=1000,
        noise_resolution=14,
        batch_size=64,
        queries=2000,
    )
    assert made.spent <= 2000
    # How far it gets depends on the seed: AUC 0.83 and 0.92, 0.34 and 0.76 of the difference.
    assert held.retrained(made.edit).auc <= 0.95
    assert held.task(made.edit)[2] <= 0.85 * held.task(None)[2]
