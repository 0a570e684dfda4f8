"""Selection optimism and shrinkage on simulated studies whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_tables import table
from scipy.stats import norm

from fairtune.errors import DataError
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.optimism import at_chosen, bias_corrected, shrunken_means
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.evaluation.values import questions

MINIMUM = GroupMinimum()


def equal_models(
    p: Predictions, count: int, signal: float, seed: int, gap: float = 0.0
) -> dict[str, list[Predictions]]:
    """Models that differ by chance alone; group 0 is served worse by `gap`."""
    rng = np.random.default_rng(seed)
    per_row = np.where(p.attribute("age").codes == 0, signal - gap, signal)
    found = {}
    for i in range(count):
        raw = per_row * p.label + rng.standard_normal(len(p))
        found[f"r{i}"] = [Predictions(p.label, raw, p.attributes, p.patient)]
    return found


def test_the_pick_is_the_best_and_its_value_the_naive_one() -> None:
    p = table(300, 2)
    recipes = equal_models(p, 5, 1.5, 1, gap=1.2)
    for text in ("worst_auc@age", "auc_gap@age", "auc", "es_auc@age", "eo_diff@age"):
        objective = Objective.parse(text)
        found = bias_corrected(
            recipes, objective, minimum=MINIMUM, threshold=0.5, replicates=40, seed=0
        )
        values = {
            name: evaluate_objectives(seeds[0], [objective], minimum=MINIMUM, threshold=0.5)[text]
            for name, seeds in recipes.items()
        }
        best = (max if objective.sign > 0 else min)(values, key=values.__getitem__)
        assert found.pick == best
        assert found.naive == pytest.approx(values[best])
        assert found.corrected == pytest.approx(found.naive - found.optimism)
        # Too good always means: above the truth for a score, below it for a gap.
        assert objective.sign * found.optimism > 0, text


def test_correction_comes_nearer_the_truth_for_equal_recipes() -> None:
    truth = norm.cdf(1.0 / np.sqrt(2))
    naive, corrected = [], []
    objective = Objective.parse("worst_auc@age")
    for seed in range(12):
        p = table(200, 2, seed=seed)
        found = bias_corrected(
            equal_models(p, 20, 1.0, seed),
            objective,
            minimum=MINIMUM,
            threshold=0.5,
            replicates=60,
            seed=seed,
        )
        naive.append(found.naive)
        corrected.append(found.corrected)
    assert np.mean(naive) - truth > 0.01
    assert abs(np.mean(corrected) - truth) < abs(np.mean(naive) - truth)


def test_who_was_beaten_before_took_part_in_the_choice() -> None:
    # The three best of twenty equal models, put forward by the rows they are then valued on.
    objective = Objective.parse("auc")
    alone, among = [], []
    for seed in range(8):
        every = equal_models(table(150, 2, seed=seed), 20, 1.0, seed)
        rules = {"minimum": MINIMUM, "threshold": 0.5, "replicates": 60, "seed": seed}
        ranked = sorted(every, key=lambda n: -evaluate(every[n][0], "auc"))
        put_forward = {name: every[name] for name in ranked[:3]}
        rivals = {name: every[name] for name in ranked[3:]}
        alone.append(bias_corrected(put_forward, objective, **rules))  # type: ignore[arg-type]
        among.append(bias_corrected(put_forward, objective, rivals=rivals, **rules))  # type: ignore[arg-type]
    assert [a.pick for a in alone] == [a.pick for a in among]
    truth = norm.cdf(1.0 / np.sqrt(2))
    left_alone = np.mean([a.corrected for a in alone]) - truth
    left_among = np.mean([a.corrected for a in among]) - truth
    assert abs(left_among) < 0.5 * left_alone


def evaluate(p: Predictions, text: str) -> float:
    found = evaluate_objectives(p, [Objective.parse(text)], minimum=MINIMUM, threshold=0.5)
    return found[text]


def test_the_groups_are_those_chosen_in_bag() -> None:
    p = table(200, 3)
    (q,) = questions(p, None, MINIMUM, 0.5)
    inside = np.random.default_rng(0).standard_exponential((200, 8))
    outside = np.random.default_rng(1).standard_exponential((200, 8))
    for text in ("worst_auc@age", "auc_gap@age", "eopp_diff@age"):
        objective = Objective.parse(text)
        (part,), (other,) = q.parts(objective, inside), q.parts(objective, outside)
        found = at_chosen(objective, [part], [other])
        for r in range(8):
            low = part.groups[:, r].argmin()
            if objective.is_disparity:
                expected = other.groups[part.groups[:, r].argmax(), r] - other.groups[low, r]
            else:
                expected = other.groups[low, r]
            assert found[r] == pytest.approx(expected)


def test_too_few_patients_to_leave_any_out() -> None:
    p = table(60, 2)
    lone = Predictions(p.label, p.score, p.attributes, np.zeros(60, dtype=int))
    with pytest.raises(DataError, match="out of bag"):
        bias_corrected(
            {"a": [lone]},
            Objective.parse("auc"),
            minimum=MINIMUM,
            threshold=0.5,
            replicates=5,
        )
    with pytest.raises(DataError, match="no recipes"):
        bias_corrected({}, Objective.parse("auc"), minimum=MINIMUM, threshold=0.5)


def test_shrunken_means_beat_plain_ones() -> None:
    rng = np.random.default_rng(0)
    plain, shrunk, regret = [], [], []
    for _ in range(300):
        truth = 0.8 + 0.01 * rng.standard_normal(30)
        drawn = [t + 0.03 * rng.standard_normal(1 + i % 3) for i, t in enumerate(truth)]
        runs = {str(i): list(values) for i, values in enumerate(drawn)}
        found = shrunken_means(runs)
        plain.append(np.mean([(found[str(i)].mean - t) ** 2 for i, t in enumerate(truth)]))
        shrunk.append(np.mean([(found[str(i)].shrunk - t) ** 2 for i, t in enumerate(truth)]))
        best = max(found, key=lambda name: found[name].shrunk)
        lucky = max(found, key=lambda name: found[name].mean)
        regret.append(truth[int(best)] - truth[int(lucky)])
    assert np.mean(shrunk) < 0.5 * np.mean(plain)
    assert np.mean(regret) > 0


def test_a_lucky_single_run_ranks_below_a_steady_recipe() -> None:
    # The overall spread is real (0.70 to 0.86), so the means are not all pulled into one.
    runs = {
        "lucky": [0.885],
        "steady": [0.86, 0.88, 0.87, 0.88],
        "low": [0.70, 0.76, 0.70],
        "mid": [0.78, 0.86],
    }
    found = shrunken_means(runs, noise_sd=0.06)
    assert found["lucky"].mean > found["steady"].mean
    assert found["lucky"].shrunk < found["steady"].shrunk
    assert found["lucky"].se > found["steady"].se  # type: ignore[operator]
    assert found["lucky"].n == 1


def test_without_visible_differences_recipes_keep_an_order() -> None:
    runs = {"a": [0.80], "b": [0.801, 0.801], "c": [0.799], "d": [0.8, 0.8]}
    found = shrunken_means(runs, noise_sd=0.05)
    assert max(found, key=lambda name: found[name].shrunk) == "b"
    assert np.ptp([s.shrunk for s in found.values()]) < 1e-4


def test_a_value_is_never_corrected_towards_the_better_side() -> None:
    # One recipe leaves nothing to choose but the worst of many equal groups, which reads too low.
    p = table(400, 5)
    objective = Objective.parse("worst_auc@age")
    found = bias_corrected(
        equal_models(p, 1, 1.0, 1), objective, minimum=MINIMUM, threshold=0.5, replicates=60
    )
    assert found.optimism < 0
    assert found.corrected == found.naive


def test_a_corrected_gap_is_never_negative() -> None:
    p = table(300, 2)
    found = bias_corrected(
        equal_models(p, 5, 1.0, 1),
        Objective.parse("auc_gap@age"),
        minimum=MINIMUM,
        threshold=0.5,
        replicates=40,
    )
    too_small = -found.optimism if found.optimism < 0 else 0.0
    assert found.corrected == max(0.0, found.naive + too_small)


def test_shrinkage_follows_its_formula() -> None:
    runs = {"a": [0.7], "b": [0.8, 0.8], "c": [0.9]}
    sd = 0.02
    found = shrunken_means(runs, noise_sd=sd)
    noise = sd**2 / np.array([1, 2, 1])
    mean = np.array([0.7, 0.8, 0.9])
    w = 1 / noise
    centre = (w * mean).sum() / w.sum()
    q = (w * (mean - centre) ** 2).sum()
    between = (q - 2) / (w.sum() - (w**2).sum() / w.sum())
    total = between + noise
    grand = (mean / total).sum() / (1 / total).sum()
    expected = grand + between / total * (mean - grand)
    assert [found[k].shrunk for k in "abc"] == pytest.approx(expected)


def test_nothing_to_estimate_leaves_the_means_alone() -> None:
    found = shrunken_means({"a": [0.7], "b": [0.9]})
    assert [(s.shrunk, s.se) for s in found.values()] == [(0.7, None), (0.9, None)]
    assert shrunken_means({"a": [0.7, 0.9]})["a"].shrunk == pytest.approx(0.8)
    equal = shrunken_means({"a": [0.7, 0.7], "b": [0.9, 0.9]})
    assert equal["b"].shrunk == pytest.approx(0.9)
    same = shrunken_means({"a": [0.7, 0.7], "b": [0.7, 0.7]})
    assert same["b"].shrunk == pytest.approx(0.7)
    with pytest.raises(DataError):
        shrunken_means({"a": [float("nan")]})
    with pytest.raises(DataError):
        shrunken_means({"a": []})
