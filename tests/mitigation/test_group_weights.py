"""Resampling, reweighting, group DRO and bad pairs, against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit_mitigation import batch_of, context, output

from fairtune.errors import DataError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.cells import cells
from fairtune.mitigation.hooks import Hooks
from fairtune.mitigation.sampling import drawn_by
from fairtune.usage.weights import even

LABEL = [0, 0, 0, 1, 0, 1, 1, 1]
GROUP = [0, 0, 0, 0, 0, 0, 1, 1]
HELD = context(LABEL, GROUP)


def hooks(name: str, held: Any = HELD, **fields: Any) -> Hooks:
    made = MITIGATIONS.parse({name: {"attribute": "att", **fields}})
    return made.build(held)  # type: ignore[attr-defined, no-any-return]


def test_weights_by_group_class_and_both_by_hand() -> None:
    def of(by: Any) -> list[float]:
        return even(*cells(HELD, "att", by, "m")).tolist()

    assert of("group") == pytest.approx([8 / (2 * 6)] * 6 + [8 / (2 * 2)] * 2)
    assert of("class") == pytest.approx([1.0] * 8)
    # Cells: (0, 0) 4 rows, (0, 1) 2, (1, 1) 2; (1, 0) has none and counts for none.
    both = [8 / 12, 8 / 12, 8 / 12, 8 / 6, 8 / 12, 8 / 6, 8 / 6, 8 / 6]
    assert of("both") == pytest.approx(both)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40))
def test_even_weights_have_mean_one_and_equal_totals(codes: list[int]) -> None:
    cell = np.array(codes)
    weight = even(cell, 4)
    assert weight.mean() == pytest.approx(1.0)
    totals = [weight[cell == c].sum() for c in set(codes) - {-1}]
    assert totals == pytest.approx([totals[0]] * len(totals) if totals else [])
    assert (weight[cell == -1] == 1).all()


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=30), st.integers(0, 99))
def test_a_pass_has_every_row_its_expected_number_of_times_but_for_less_than_two(
    weights: list[float], seed: int
) -> None:
    weight = np.array(weights)
    order = drawn_by(weight)(torch.Generator().manual_seed(seed))
    counts = np.bincount(order.numpy(), minlength=len(weight))
    assert counts.sum() == len(weight)
    assert (np.abs(counts - len(weight) * weight / weight.sum()) < 2).all()


def test_resampling_draws_cells_evenly() -> None:
    sampler = hooks("resample").sampler
    assert sampler is not None
    order = sampler(torch.Generator().manual_seed(0))
    assert np.bincount(np.array(GROUP)[order.numpy()]).tolist() == [4, 4]
    other = sampler(torch.Generator().manual_seed(1))
    assert not torch.equal(order, other)


def test_reweighting_weighs_the_rows_of_a_batch() -> None:
    weigh = hooks("reweight").weights
    assert weigh is not None
    found = weigh(batch_of(HELD, [7, 0]), output([1.0, 1.0]), True)
    assert found.tolist() == pytest.approx([2.0, 2 / 3])


def test_groups_that_cannot_be_told_apart_are_refused_with_their_counts() -> None:
    for codes in ([0] * 4, [-1] * 4):
        with pytest.raises(DataError, match="at least two groups") as caught:
            hooks("reweight", context([0, 1, 0, 1], codes))
        assert caught.value.found == {
            "a": codes.count(0), "b": 0, "unknown": codes.count(-1)
        }  # fmt: skip


def test_several_targets_have_no_class() -> None:
    label = np.array([[0, 1], [1, 1]])
    held = context([0, 0], [0, 1], label=label, task="multilabel", outputs=2)
    assert hooks("reweight", held, by="group").weights is not None
    with pytest.raises(DataError, match="one class for each row"):
        hooks("reweight", held, by="both")


def test_a_crossing_is_a_group() -> None:
    group = np.array([[0, 0], [0, 1], [1, 1], [1, -1]])
    held = context(
        [0, 1, 0, 1], [0] * 4, group=group, attributes={"s": ("f", "m"), "t": ("x", "y")}
    )
    found = held.groups("s*t")
    assert found.names == ("f * x", "f * y", "m * x", "m * y")
    assert found.codes.tolist() == [0, 1, 3, -1]
    assert found.of(batch_of(held, [3, 2, 1])).tolist() == [-1, 3, 1]


def test_group_dro_by_hand() -> None:
    made = hooks("group_dro", eta=0.5)
    assert made.weights is not None
    assert made.state is not None
    assert made.report is not None
    batch = batch_of(HELD, [0, 1, 2, 6])
    out = output([1.0, 2.0, 3.0, 4.0])
    weight = made.weights(batch, out, True)
    raw = np.array([0.5 * math.exp(0.5 * 2), 0.5 * math.exp(0.5 * 4)])
    q = raw / raw.sum()
    assert made.state()["q"].tolist() == pytest.approx(q.tolist())
    # The mean of the weighted losses is sum_g q_g L_g.
    assert float((weight * out.loss).mean()) == pytest.approx(q[0] * 2 + q[1] * 4)
    again = made.weights(batch, out, False)
    assert torch.equal(again, weight)
    assert made.report()["q"] == pytest.approx({"a": q[0], "b": q[1]})


def test_group_dro_raises_small_groups_by_the_adjustment_and_skips_absent_ones() -> None:
    made = hooks("group_dro", eta=1.0, adjustment=2.0)
    assert made.weights is not None
    assert made.state is not None
    made.weights(batch_of(HELD, [0, 1]), output([1.0, 1.0]), True)
    raw = np.array([math.exp(1 + 2 / math.sqrt(6)), 1.0])
    assert made.state()["q"].tolist() == pytest.approx((raw / raw.sum()).tolist())


def test_group_dro_leaves_samples_of_an_unknown_group_in_the_mean() -> None:
    held = context([0, 1, 0, 1], [0, 1, -1, -1])
    made = hooks("group_dro", held)
    assert made.weights is not None
    weight = made.weights(batch_of(held, [0, 1, 2, 3]), output([1.0, 1.0, 5.0, 7.0]), True)
    assert weight[2:].tolist() == [1.0, 1.0]
    assert float(weight[:2].sum()) == pytest.approx(2.0)


def mined(**fields: Any) -> tuple[Hooks, Any]:
    held = context([0] * 10, [0] * 8 + [1] * 2, epochs=4)
    made = MITIGATIONS.parse({"bad_pairs": fields}).build(held)  # type: ignore[attr-defined]
    return made, held


LOSSES = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.0, 1.0, 4.0]


def test_bad_pairs_by_hand() -> None:
    made, held = mined(warmup=1, low=2.0, high=2.0)
    batch = batch_of(held, range(10))
    assert made.weights(batch, output(LOSSES), True).tolist() == [1.0] * 10
    made.passed(1)
    mean, sd = np.mean(LOSSES), np.std(LOSSES)
    now = [3.0] * 10
    weight = made.weights(batch, output(now), True).tolist()
    assert weight[:9] == [1.0] * 9
    assert weight[9] == pytest.approx(math.exp(-((3.0 - mean) ** 2) / (2 * sd**2)), rel=1e-5)
    assert made.report() == {
        "rows": 10,
        "flagged": 1,
        "by att": {"a": {"rows": 8, "flagged": 0}, "b": {"rows": 2, "flagged": 1}},
    }


def test_the_memory_of_bad_pairs_is_a_mean_with_rising_weights_or_a_moving_one() -> None:
    for memory, wanted in (("mean", (1 * 1.0 + 2 * 4.0) / 3), ("ema", 0.9 * 1.0 + 0.1 * 4.0)):
        made, held = mined(memory=memory, warmup=9)
        batch = batch_of(held, range(10))
        for number, loss in ((1, 1.0), (2, 4.0)):
            # A row that is drawn twice in a pass counts once, with its mean.
            made.weights(batch, output([loss - 0.5] * 10), True)
            made.weights(batch, output([loss + 0.5] * 10), True)
            made.weights(batch, output([99.0] * 10), False)
            made.passed(number)
        state = made.state()
        found = state["memory"] / state["mass"]
        assert found.tolist() == pytest.approx([wanted] * 10)


def test_equal_losses_flag_everybody_or_nobody_but_never_give_nan() -> None:
    made, held = mined()
    batch = batch_of(held, range(10))
    made.weights(batch, output([1.0] * 10), True)
    made.passed(1)
    weight = made.weights(batch, output([2.0] * 10), True)
    assert torch.isfinite(weight).all()
    assert ((weight > 0) & (weight <= 1)).all()
