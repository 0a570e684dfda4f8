"""Differences between recipes, harm, and the verdict."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from prediction_tables import groups_of, table

from fairtune.errors import ConfigError, DataError
from fairtune.evaluation.compare import (
    Bounds,
    Difference,
    gap_change,
    holm,
    no_harm,
    paired_difference,
    patients_needed,
    smallest_change,
    verdict,
)
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.scoring import evaluate_objectives, group_values

MINIMUM = GroupMinimum()
BASE = table(600, 2, seed=3, signal=1.0)


def model(shift: tuple[float, float], seed: int = 0, p: Predictions = BASE) -> Predictions:
    """A model on the rows of `p` whose signal per group is `shift`."""
    rng = np.random.default_rng(seed)
    signal = np.array(shift)[p.attribute("age").codes]
    raw = signal * (p.label - 0.5) * 2 + rng.standard_normal(len(p))
    return Predictions(p.label, 1 / (1 + np.exp(-raw)), p.attributes, p.patient)


def paired(a: list[Predictions], b: list[Predictions], text: str, **kwargs: object) -> Difference:
    return paired_difference(
        a,
        b,
        Objective.parse(text),
        minimum=MINIMUM,
        thresholds_a=0.5,
        thresholds_b=0.5,
        replicates=400,
        seed=0,
        **kwargs,  # type: ignore[arg-type]
    )


def test_the_value_is_the_difference_of_the_seed_means() -> None:
    a = [model((1.0, 1.0), s) for s in (1, 2, 3)]
    b = [model((0.5, 0.5), s) for s in (4, 5)]
    for text in ("auc", "worst_auc@age", "auc_gap@age", "nll", "eo_diff@age"):
        d = paired(a, b, text)
        objective = Objective.parse(text)
        means = [
            np.mean(
                [
                    evaluate_objectives(p, [objective], minimum=MINIMUM, threshold=0.5)[text]
                    for p in side
                ]
            )
            for side in (a, b)
        ]
        assert d.value == pytest.approx(means[0] - means[1])
        assert d.low < d.value < d.high
        assert d.draws.mean() == pytest.approx(d.value)
    assert d.seeds == (3, 2)
    assert d.patients == 600
    assert d.speaks_of == "this method"
    assert paired(a[:1], b, "auc").speaks_of == "this model"


def test_a_model_does_not_differ_from_itself() -> None:
    p = model((1.0, 0.5))
    d = paired([p], [p], "worst_auc@age")
    assert (d.value, d.low, d.high) == (0, 0, 0)


def test_pairing_is_narrower_than_two_separate_intervals() -> None:
    a = model((1.0, 1.0), 1)
    near = Predictions(a.label, a.score * 0.999 + 0.0005 * a.label, a.attributes, a.patient)
    d = paired([near], [a], "auc")
    assert d.high - d.low < 0.01


def test_seeds_widen_the_interval() -> None:
    alike = [model((0.8, 0.8), 7) for _ in range(4)]
    spread = [model((s, s), 7) for s in (0.3, 1.5, 0.3, 1.5)]
    b = [model((0.8, 0.8), 9) for _ in range(4)]
    narrow, wide = paired(alike, b, "auc"), paired(spread, b, "auc")
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_the_seed_level_has_the_variance_of_a_mean_of_seeds() -> None:
    from fairtune.evaluation.sampled import over_seeds

    values = np.array([0.0, 1.0, 3.0])
    drawn = over_seeds(np.repeat(values[:, None], 40_000, axis=1), np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.02)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.03)


def test_gain_counts_better_up() -> None:
    worse, better = model((1.5, 0.2)), model((1.5, 1.4))
    d = paired([better], [worse], "auc_gap@age")
    gain = d.gain(Objective.parse("auc_gap@age"))
    assert d.value < 0 < gain.value
    assert (gain.low, gain.high) == (-d.high, -d.low)
    assert gain.ends(0.025) == pytest.approx((gain.low, gain.high))


def test_only_the_same_rows_are_compared() -> None:
    a = model((1.0, 1.0))
    with pytest.raises(DataError, match="same rows"):
        paired([a], [a.take(np.arange(500))], "auc")
    with pytest.raises(DataError, match="same rows"):
        paired([a], [a.take(np.arange(600)[::-1])], "auc")


def test_thresholds_are_one_for_all_or_one_per_seed() -> None:
    a, b = [model((1.0, 1.0), s) for s in (1, 2)], [model((0.9, 0.9), 3)]
    objective = Objective.parse("tpr_gap@age")
    compare = partial(paired_difference, minimum=MINIMUM, replicates=20, seed=0)
    one = compare(a, b, objective, thresholds_a=0.5, thresholds_b=0.5)
    rule = ThresholdRule("fixed", 0.5)
    two = compare(a, b, objective, thresholds_a=[0.5, 0.5], thresholds_b=rule)
    assert one.value == two.value
    with pytest.raises(DataError, match="one threshold per seed"):
        compare(a, b, objective, thresholds_a=[0.5], thresholds_b=0.5)


def harm(pick: Predictions, base: Predictions, metric: str = "auc", delta: float = 0.02):  # type: ignore[no-untyped-def]
    return no_harm(
        [pick],
        [base],
        "age",
        metric,
        delta,
        minimum=MINIMUM,
        thresholds_pick=0.5,
        thresholds_baseline=0.5,
        replicates=300,
        seed=0,
    )


def test_levelling_down_is_seen_and_said() -> None:
    base, pick = model((1.5, 0.6), 1), model((0.6, 0.6), 1)
    rows = harm(pick, base)
    assert [row.group for row in rows] == ["g0", "g1"]
    assert [row.harmed for row in rows] == [True, False]
    assert rows[0].certain
    assert rows[0].low < rows[0].change < rows[0].high
    expected = group_values(pick, "auc", "age", minimum=MINIMUM, threshold=0.5)
    assert rows[0].pick == pytest.approx(expected["g0"])
    assert rows[0].n == len(groups_of(BASE)[0])
    change = gap_change(rows, "auc")
    assert change.levelling_down
    assert change.narrowing == pytest.approx(change.rise_of_worst + change.fall_of_best)
    assert "levelling down" in str(change)
    assert "narrowed" in str(change)


def test_helping_the_worst_is_not_levelling_down() -> None:
    base, pick = model((1.5, 0.4), 1), model((1.5, 1.3), 1)
    rows = harm(pick, base)
    assert not any(row.harmed for row in rows)
    change = gap_change(rows, "auc")
    assert change.rise_of_worst > 0.05
    assert not change.levelling_down
    assert "rose" in str(change)


def test_losses_count_the_other_way() -> None:
    base, pick = model((1.5, 0.6), 1), model((0.2, 0.6), 1)
    rows = harm(pick, base, "nll")
    assert rows[0].pick > rows[0].baseline
    assert rows[0].change < 0
    assert rows[0].harmed
    with pytest.raises(ConfigError, match="no better side"):
        harm(pick, base, "selection_rate")


def test_smallest_change_is_the_value_of_the_constraint() -> None:
    pick, base = {"a": 0.8, "b": 0.75}, {"a": 0.9, "b": 0.6}
    assert smallest_change(pick, base, "auc") == pytest.approx(-0.1)
    assert smallest_change(pick, base, "nll") == pytest.approx(-0.15)
    with pytest.raises(DataError, match="same groups"):
        smallest_change({"a": 1.0}, {"b": 1.0}, "auc")


def drawn(mean: float, sd: float = 0.01, seed: int = 0) -> Difference:
    draws = mean + sd * np.random.default_rng(seed).standard_normal(4000)
    draws += mean - draws.mean()
    low, high = np.quantile(draws, [0.025, 0.975])
    return Difference(mean, float(low), float(high), draws, (3, 3), 400)


def test_holm_steps_down_and_stops() -> None:
    # z = 4, 2.3, 2.1: alone all exclude 0; of three only the first does, and then 2.3 needs 2.24.
    found = holm({"a": drawn(0.04), "b": drawn(0.023, seed=1), "c": drawn(0.021, seed=2)})
    tails = {name: round(b.tail * 2, 4) for name, b in found.items()}
    assert tails == {"a": round(0.05 / 3, 4), "b": 0.025, "c": 0.05}
    assert all(b.low > 0 for b in found.values())
    found = holm({"a": drawn(0.04), "b": drawn(0.021, seed=1), "c": drawn(0.02, seed=2)})
    assert [b.low > 0 for b in found.values()] == [True, False, False]
    assert found["c"].tail == found["b"].tail == pytest.approx(0.0125)
    assert list(found) == ["a", "b", "c"]


def test_holm_of_one_is_the_plain_interval() -> None:
    d = drawn(0.03)
    (bounds,) = holm({"only": d}).values()
    assert (bounds.low, bounds.high) == pytest.approx((d.low, d.high))


def test_verdicts() -> None:
    clear = holm({"age vs fullft": drawn(0.05), "age vs linear": drawn(0.06, seed=1)})
    assert verdict(clear).answer == "yes"
    assert verdict(clear).why.startswith("this method")
    harmed = verdict(clear, harmed=["60+"], delta=0.02)
    assert (harmed.answer, "60+" in harmed.why) == ("cannot tell", True)
    assert verdict(clear, broken=["auc >= 0.8"]).answer == "cannot tell"
    mixed = holm({"age vs fullft": drawn(0.05), "age vs linear": drawn(-0.05, seed=1)})
    lost = verdict(mixed)
    assert (lost.answer, "age vs linear" in lost.why) == ("no", True)
    open_ = verdict(holm({"age vs fullft": drawn(0.01)}))
    assert open_.answer == "cannot tell"
    assert open_.patients_needed is not None
    assert 400 < open_.patients_needed < 10_000
    assert str(open_.patients_needed) in open_.why
    wrong_way = verdict(holm({"age vs fullft": drawn(-0.005)}))
    assert (wrong_way.answer, wrong_way.patients_needed) == ("cannot tell", None)
    assert verdict({}).answer == "cannot tell"


def test_patients_needed_is_the_textbook_formula() -> None:
    b = Bounds(0.02, -0.01, 0.05, 0.2, 0.025, 0.0143, 200, "this model")
    z = 1.959964 + 0.841621
    assert patients_needed(b) == pytest.approx(200 * (z * 0.0143 / 0.02) ** 2, abs=1)


@pytest.mark.slow
def test_paired_intervals_cover() -> None:
    """Two models of equal worst-group AUC, one with equal groups and one with a clear worst."""
    rng = np.random.default_rng(0)
    objective = Objective.parse("worst_auc@age")
    big = table(40_000, 2, seed=50)
    truth = []
    for shift in ((0.8, 0.8), (1.6, 0.4)):
        m = model(shift, 1, big)
        values = evaluate_objectives(m, [objective], minimum=MINIMUM, threshold=0.5)
        truth.append(values["worst_auc@age"])
    right = truth[0] - truth[1]
    hits, repeats = 0, 150
    for _ in range(repeats):
        p = table(240, 2, seed=int(rng.integers(1 << 30)))
        a = model((0.8, 0.8), int(rng.integers(1 << 30)), p)
        b = model((1.6, 0.4), int(rng.integers(1 << 30)), p)
        d = paired_difference(
            [a],
            [b],
            objective,
            minimum=MINIMUM,
            thresholds_a=0.5,
            thresholds_b=0.5,
            replicates=300,
            seed=1,
        )
        hits += d.low <= right <= d.high
    assert hits >= 0.88 * repeats
