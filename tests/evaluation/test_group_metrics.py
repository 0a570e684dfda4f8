"""Every metric against scikit-learn, fairlearn or a brute-force formula."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
    false_negative_rate,
    false_positive_rate,
    selection_rate,
    true_negative_rate,
    true_positive_rate,
)
from fairmedfm.metrics import binary_cross_entropy
from hypothesis import given, settings
from prediction_tables import LAX, groups_of, table, tables
from sklearn import metrics as sk

from fairtune.errors import DataError
from fairtune.evaluation.metrics import METRICS, metric
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold, ThresholdRule
from fairtune.evaluation.scoring import evaluate_objectives, group_values

CUT = 0.5
ON_SCORES = {
    "auc": sk.roc_auc_score,
    "auprc": sk.average_precision_score,
    "nll": lambda y, s: sk.log_loss(y, s, labels=[0, 1]),
    "brier": sk.brier_score_loss,
}
ON_DECISIONS = {
    "acc": sk.accuracy_score,
    "balanced_acc": sk.balanced_accuracy_score,
    "tpr": true_positive_rate,
    "fpr": false_positive_rate,
    "tnr": true_negative_rate,
    "fnr": false_negative_rate,
    "ppv": lambda y, d: sk.precision_score(y, d, zero_division=0),
    "npv": lambda y, d: sk.precision_score(1 - y, 1 - d, zero_division=0),
    "selection_rate": selection_rate,
}


def value(
    p: Predictions, text: str, threshold: Threshold = CUT, minimum: GroupMinimum = LAX
) -> float:
    objective = Objective.parse(text, directed=False)
    found = evaluate_objectives(p, [objective], minimum=minimum, threshold=threshold)
    return found[str(objective)]


@given(tables())
@settings(max_examples=10, deadline=None)
def test_groups_equal_metric_frame(p: Predictions) -> None:
    decided = (p.score >= CUT).astype(int)
    codes = p.attribute("age").codes
    for oracles, said in ((ON_SCORES, p.score), (ON_DECISIONS, decided)):
        frame = MetricFrame(metrics=oracles, y_true=p.label, y_pred=said, sensitive_features=codes)
        by_group, overall = frame.by_group.astype(float), frame.overall
        for name in oracles:
            theirs = by_group[name]
            ours = group_values(p, name, "age", minimum=LAX, threshold=CUT)
            np.testing.assert_allclose(list(ours.values()), theirs, atol=1e-6)
            assert value(p, name) == pytest.approx(float(overall[name]), abs=1e-6)
            gap = theirs.max() - theirs.min()
            assert value(p, f"{name}_gap@age") == pytest.approx(gap, abs=1e-6)
            if METRICS[name].better != "neither":
                worst = theirs.min() if METRICS[name].better == "higher" else theirs.max()
                assert value(p, f"worst_{name}@age") == pytest.approx(worst, abs=1e-6)


@given(tables())
@settings(max_examples=8, deadline=None)
def test_compounds_equal_fairlearn(p: Predictions) -> None:
    d, a = (p.score >= CUT).astype(int), p.attribute("age").codes
    expected = {
        "eo_diff@age": equalized_odds_difference(p.label, d, sensitive_features=a),
        "eo_avg@age": equalized_odds_difference(p.label, d, sensitive_features=a, agg="mean"),
        "dp_diff@age": demographic_parity_difference(p.label, d, sensitive_features=a),
        "eopp_diff@age": equal_opportunity_difference(p.label, d, sensitive_features=a),
    }
    for text, right in expected.items():
        assert value(p, text) == pytest.approx(right, abs=1e-6)


@given(tables())
@settings(max_examples=25, deadline=None)
def test_equity_scaling_equals_its_formulas(p: Predictions) -> None:
    overall = sk.roc_auc_score(p.label, p.score)
    own = np.array([sk.roc_auc_score(p.label[r], p.score[r]) for r in groups_of(p)])
    es = overall / (1 + np.abs(overall - own).sum())
    assert value(p, "es_auc@age") == pytest.approx(es, abs=1e-9)
    pop = overall / (1 + np.sqrt(((own - own.mean()) ** 2).mean()))
    assert value(p, "es_pop_auc@age") == pytest.approx(pop, abs=1e-9)
    sample = overall / (1 + np.sqrt(((own - own.mean()) ** 2).sum() / (len(own) - 1)))
    assert value(p, "es_sample_auc@age") == pytest.approx(sample, abs=1e-9)


def test_worst_nll_equals_the_largest_cross_entropy_of_fairmedfm() -> None:
    rng = np.random.default_rng(3)
    n = 300
    group = rng.integers(0, 3, n)
    label = rng.integers(0, 2, n)
    score = rng.uniform(0.02, 0.98, n)
    p = Predictions(label, score, {"age": Attribute("age", ("a", "b", "c"), group)})
    theirs = [binary_cross_entropy(score[group == g], label[group == g]) for g in range(3)]
    assert value(p, "worst_nll@age") == pytest.approx(max(theirs), abs=1e-6)


def test_worst_nll_is_the_largest_mean_loss_whatever_the_group_sizes() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 300)
    code = np.r_[np.zeros(280, dtype=int), np.ones(20, dtype=int)]
    # The large group is served worse; a sum of losses over a count of all would say the small.
    right = np.where(code == 0, 0.4, 0.9)
    score = np.where(label == 1, right, 1 - right)
    p = Predictions(label, score, {"age": Attribute("age", ("a", "b"), code)})
    assert value(p, "worst_nll@age") == pytest.approx(-np.log(0.4))


def test_a_permuted_table_gives_the_same_numbers() -> None:
    p = table(300, ties=True)
    q = p.take(np.random.default_rng(1).permutation(300))
    for text in ("auc", "worst_auc@age", "ece", "nll_gap@age", "eo_diff@age*sex", "auprc"):
        assert value(p, text) == pytest.approx(value(q, text), abs=1e-12)


def test_operating_points_read_one_threshold_off_the_whole_curve() -> None:
    p = table(500, signal=2.0)
    cut = np.sort(p.score[p.label == 0])[::-1]
    allowed = int(0.1 * len(cut) + 1e-9)
    threshold = p.score[p.score > cut[allowed]].min()
    expected = [(p.score[r][p.label[r] == 1] >= threshold).mean() for r in groups_of(p)]
    assert value(p, "worst_tpr@spec=0.9@age") == pytest.approx(min(expected))
    overall = (p.score[p.label == 1] >= threshold).mean()
    assert value(p, "tpr@spec=0.9") == pytest.approx(overall)
    positives = np.sort(p.score[p.label == 1])[::-1]
    at = positives[int(np.ceil(0.8 * len(positives))) - 1]
    assert value(p, "fpr@sens=0.8") == pytest.approx((p.score[p.label == 0] >= at).mean())


def multiclass(n: int = 600, k: int = 3, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    raw = rng.standard_normal((n, k)) + 1.5 * np.eye(k)[label]
    score = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    age = Attribute("age", ("y", "o"), rng.integers(0, 2, n))
    return Predictions(label, score, {"age": age}, task="multiclass")


def test_multiclass_is_macro_one_vs_rest() -> None:
    p = multiclass()
    top = p.score.argmax(axis=1)
    oracles = {
        "auc": sk.roc_auc_score(p.label, p.score, multi_class="ovr"),
        "acc": sk.accuracy_score(p.label, top),
        "balanced_acc": sk.balanced_accuracy_score(p.label, top),
        "tpr": sk.recall_score(p.label, top, average="macro"),
        "ppv": sk.precision_score(p.label, top, average="macro"),
        "nll": sk.log_loss(p.label, p.score),
        "brier": ((np.eye(3)[p.label] - p.score) ** 2).sum(axis=1).mean(),
        "auprc": sk.average_precision_score(np.eye(3)[p.label], p.score),
    }
    for name, right in oracles.items():
        assert value(p, name) == pytest.approx(right, abs=1e-6), name
    young = p.take(p.attribute("age").codes == 0)
    old = p.take(p.attribute("age").codes == 1)
    expected = min(sk.roc_auc_score(x.label, x.score, multi_class="ovr") for x in (young, old))
    assert value(p, "worst_auc@age") == pytest.approx(expected, abs=1e-6)


def test_multilabel_is_reduced_per_target_and_then_averaged() -> None:
    a, b = table(300, 2, seed=1), table(300, 2, seed=2)
    both = Predictions(
        np.stack([a.label, b.label], axis=1),
        np.stack([a.score, b.score], axis=1),
        {"age": a.attribute("age")},
        task="multilabel",
    )
    b_on_a = Predictions(b.label, b.score, {"age": a.attribute("age")})
    for text in ("auc", "auc_gap@age", "worst_nll@age", "eo_diff@age"):
        mean = (value(a, text) + value(b_on_a, text)) / 2
        assert value(both, text) == pytest.approx(mean)
    rule = ThresholdRule.parse("youden")
    mean = (value(a, "acc", rule) + value(b_on_a, "acc", rule)) / 2
    assert value(both, "acc", rule) == pytest.approx(mean)
    cuts = (0.3, 0.7)
    assert value(both, "acc", cuts) == pytest.approx(
        (value(a, "acc", 0.3) + value(b_on_a, "acc", 0.7)) / 2
    )


def test_targets_without_two_eligible_groups_are_left_out_by_labels_alone() -> None:
    a = table(300, 2, seed=1)
    rare = np.zeros(300, dtype=int)
    rare[:3] = 1
    both = Predictions(
        np.stack([a.label, rare], axis=1),
        np.stack([a.score, a.score], axis=1),
        {"age": a.attribute("age")},
        task="multilabel",
    )
    minimum = GroupMinimum()
    assert value(both, "auc_gap@age", minimum=minimum) == pytest.approx(
        value(a, "auc_gap@age", minimum=minimum)
    )


def test_strata_are_averaged_with_the_same_weights_for_every_group() -> None:
    p = table(600, 2, signal=1.5)
    view = np.random.default_rng(3).integers(0, 2, 600)
    within = Predictions(
        p.label, p.score, p.attributes, strata=Attribute("view", ("AP", "PA"), view)
    )
    share = [(view == v).mean() for v in (0, 1)]
    per_group = []
    for rows in groups_of(p):
        parts = [
            sk.roc_auc_score(p.label[rows[view[rows] == v]], p.score[rows[view[rows] == v]])
            for v in (0, 1)
        ]
        per_group.append(share[0] * parts[0] + share[1] * parts[1])
    assert value(within, "worst_auc@age") == pytest.approx(min(per_group))
    assert value(within, "auc_gap@age") == pytest.approx(np.ptp(per_group))
    overall = sum(
        share[v] * sk.roc_auc_score(p.label[view == v], p.score[view == v]) for v in (0, 1)
    )
    assert value(within, "auc") == pytest.approx(overall)


def test_probabilities_are_asked_for_only_where_they_are_needed() -> None:
    p = table(200)
    logits = Predictions(p.label, np.log(p.score / (1 - p.score)), p.attributes)
    assert value(logits, "auc") == pytest.approx(value(p, "auc"))
    with pytest.raises(DataError, match="nll needs probabilities"):
        value(logits, "nll")


def test_an_unknown_metric_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(Exception, match="did you mean 'auc'"):
        metric("aucc")
