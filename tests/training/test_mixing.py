"""Mixup and CutMix against timm's, given the same draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm.data.mixup
import torch
from scipy import stats

from fairtune.data.batch import Batch
from fairtune.training.mixing import Mix, Mixing
from fairtune.training.targets import soft

SIZE, SIDE = 8, 12


def batch(task: str = "multiclass", outputs: int = 3, size: int = SIZE) -> Batch:
    source = torch.Generator().manual_seed(0)
    shape = (size, outputs) if task == "multilabel" else (size,)
    label = torch.randint(0, outputs if task == "multiclass" else 2, shape, generator=source)
    return Batch(
        row=torch.arange(size),
        image=torch.rand(size, 3, SIDE, SIDE, generator=source),
        label=label.float() if task == "multilabel" else label,
        group=torch.arange(size)[:, None],
        weight=torch.rand(size, generator=source),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
@pytest.mark.parametrize(("task", "outputs"), [("multiclass", 3), ("multilabel", 2)])
def test_it_mixes_as_timm_does(
    task: Any,
    outputs: int,
    mixup: float,
    cutmix: float,
    smoothing: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = Mixing(mixup, cutmix, seed=3)
    for step in range(6):
        mix = ours.draw(step, SIDE, SIDE)
        theirs = timm.data.mixup.Mixup(
            mixup,
            cutmix,
            label_smoothing=smoothing,
            num_classes=outputs,
            multi_label=task == "multilabel",
        )
        # timm draws from numpy's global source: the draws are handed to it.
        monkeypatch.setattr(
            theirs, "_params_per_batch", lambda mix=mix: (mix.share, bool(mix.box))
        )
        monkeypatch.setattr(
            timm.data.mixup, "cutmix_bbox_and_lam", lambda *a, mix=mix, **k: (mix.box, mix.share)
        )
        given = batch(task, outputs)
        image, label = theirs(given.image.clone(), given.label)
        found = ours.apply(given, step, task, outputs)
        assert torch.allclose(found.image, image, atol=1e-6)
        assert torch.allclose(soft(found.label, task, outputs, smoothing), label, atol=1e-6)


def test_the_rectangle_is_drawn_as_timm_draws_it() -> None:
    ours = Mixing(0.0, 1.0, seed=0)
    # timm draws from the global source.
    np.random.seed(0)  # noqa: NPY002
    drawn = [ours.draw(step, 40, 30) for step in range(3000)]
    beta = np.random.beta(1.0, 1.0, 3000)  # noqa: NPY002
    theirs = [timm.data.mixup.cutmix_bbox_and_lam((40, 30), lam) for lam in beta]
    shares = [[m.share for m in drawn], [share for _, share in theirs]]
    assert stats.ks_2samp(*shares).pvalue > 0.01
    for i in range(4):
        ends = [[m.box[i] for m in drawn if m.box], [box[i] for box, _ in theirs]]
        assert stats.ks_2samp(*ends).pvalue > 0.01


def test_shares_follow_the_beta_distribution_and_area() -> None:
    shares = [Mixing(0.3, 0.0, seed=1).draw(step, SIDE, SIDE).share for step in range(2000)]
    assert stats.kstest(shares, stats.beta(0.3, 0.3).cdf).pvalue > 0.01
    for step in range(50):
        mix = Mixing(0.0, 1.0, seed=1).draw(step, SIDE, SIDE)
        assert mix.box is not None
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= SIDE
        assert 0 <= left <= right <= SIDE
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / SIDE**2)


def test_both_take_turns_by_chance() -> None:
    cut = [Mixing(0.4, 1.0, seed=0).draw(step, SIDE, SIDE).box is not None for step in range(1000)]
    assert 450 < sum(cut) < 550


def test_a_draw_follows_from_seed_and_step_alone() -> None:
    assert Mixing(0.4, 0.0, 7).draw(5, SIDE, SIDE) == Mixing(0.4, 0.0, 7).draw(5, SIDE, SIDE)
    draws = {Mixing(0.4, 0.0, seed).draw(step, SIDE, SIDE) for seed in (1, 2) for step in (0, 1)}
    assert len(draws) == 4
    assert all(isinstance(one, Mix) for one in draws)


def test_a_binary_label_becomes_a_share() -> None:
    given = batch("binary", 1)
    found = Mixing(1.0, 0.0, seed=0).apply(given, 0, "binary", 1)
    share = Mixing(1.0, 0.0, seed=0).draw(0, SIDE, SIDE).share
    expected = share * given.label + (1 - share) * given.label.flip(0)
    assert torch.allclose(found.label[:, 0], expected)
    assert torch.allclose(found.weight, share * given.weight + (1 - share) * given.weight.flip(0))
    assert found.row is given.row
    assert found.group is given.group
    # The images of a pack must not be written to.
    assert torch.equal(given.image, batch("binary", 1).image)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_a_sample_alone_stays_as_it_is(cutmix: float) -> None:
    given = batch("binary", 1, size=1)
    found = Mixing(0.4, cutmix, seed=0).apply(given, 0, "binary", 1)
    assert torch.allclose(found.image, given.image)
    assert found.label.item() == given.label.item()
