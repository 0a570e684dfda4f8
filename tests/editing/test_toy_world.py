"""What edits do in a world whose bias is known: the acceptance checks on a small network."""

from __future__ import annotations

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


@pytest.mark.slow  # 3 s: the network is trained.
def test_the_world_is_biased_and_the_optimum_mends_it(held: Toy) -> None:
    biased, even = held.task(None), held.task(None, reweighted=True)
    assert held.frozen(None).auc > 0.99
    assert biased[2] > 0.5
    assert even[2] < 0.1
    best = held.task(saturating())
    assert 0.45 <= held.retrained(saturating()).auc <= 0.55
    assert best[2] < 0.1
    assert best[0] > biased[0] + 0.08


@pytest.mark.slow  # 3 s a mode: 400 queries of 64 images.
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


@pytest.mark.slow  # 1 s: the test images are embedded.
def test_noise_of_the_same_size_does_not(held: Toy) -> None:
    # An L2 norm of 2.5 over 28 x 28 pixels.
    noise = learned(held, mode={"random": {"rms": 2.5 / SIDE * 255}}, clamp=False).edit
    assert noise.norms()["l2"] == pytest.approx(2.5, rel=0.01)
    assert held.frozen(noise).accuracy >= 0.95
    assert held.retrained(noise).auc >= 0.99
