"""The heads that read attribute and label, and how well a probe reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from sklearn import linear_model, metrics

from fairtune.editing.cohort import Cohort
from fairtune.editing.heads import Head, Heads, attribute_head, task_head, utility_weights
from fairtune.editing.probe import Probe, fit_probe, log_odds, read
from fairtune.errors import DataError

NAMES = ("a", "b", "c")


def data(rows: int = 300, groups: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    group = draw.integers(0, groups, rows)
    features = draw.normal(size=(rows, 4))
    features[:, 0] += group
    return features, group


def cohort(group: np.ndarray, label: np.ndarray) -> Cohort:
    return Cohort(np.arange(len(group)), group, ("a", "b"), label, int((group < 0).sum()))


def test_the_head_is_the_logistic_regression_of_another_library() -> None:
    features, group = data()
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    weight, bias = attribute_head(features, group, 3, 1e-2)
    # Its penalty is on the sum of losses: C = 1 / (n l2).
    other = linear_model.LogisticRegression(C=1 / (300 * 1e-2), tol=1e-10, max_iter=10_000)
    expected = other.fit(features, group).predict_proba(features)
    np.testing.assert_allclose(
        special.softmax(features @ weight.T + bias, axis=1), expected, atol=1e-4
    )


def test_rows_of_an_unknown_group_are_left_out() -> None:
    features, group = data()
    known = attribute_head(features[50:], group[50:], 3, 1e-2)
    group[:50] = -1
    both = attribute_head(features, group, 3, 1e-2)
    np.testing.assert_array_equal(known[0], both[0])
    np.testing.assert_array_equal(known[1], both[1])


def test_targets_solved_one_by_one_are_those_solved_together() -> None:
    features, _ = data()
    draw = np.random.default_rng(1)
    label = (features[:, :2] + draw.normal(size=(300, 2)) > 0).astype(np.int64)
    together = task_head(features, label, "multilabel", 2, 1e-2, None)
    apart = task_head(features, label, "multilabel", 2, 1e-2, np.ones((300, 2)))
    np.testing.assert_allclose(together[0], apart[0], atol=1e-4)
    np.testing.assert_allclose(together[1], apart[1], atol=1e-4)


def test_a_weight_counts_as_so_many_rows() -> None:
    features, _ = data(60)
    label = np.random.default_rng(2).integers(0, 2, 60)
    # Standardisation knows no weights, so the rows that count twice are mirrored.
    features = np.concatenate([features, -features])
    label = np.concatenate([label, label])
    weight = np.tile(np.repeat([0.5, 1.5], 30), 2)
    solved = task_head(features, label, "binary", 1, 1e-2, weight[:, None])
    times = np.tile(np.repeat([1, 3], 30), 2)
    scale = features.std(axis=0)
    other = linear_model.LogisticRegression(C=1 / (120 * 1e-2), tol=1e-10, max_iter=10_000)
    other.fit(features / scale, label, sample_weight=times / 2)
    np.testing.assert_allclose(solved[0] * scale, other.coef_, atol=1e-4)


def test_utility_weights_are_a_quarter_over_the_share_of_the_cell() -> None:
    group = np.array([0] * 50 + [1] * 50)
    label = np.array([0] * 45 + [1] * 5 + [0] * 5 + [1] * 45)
    found = utility_weights(cohort(group, label))
    np.testing.assert_allclose(found[:, 0], 0.25 / np.where(group == label, 0.45, 0.05))


def test_utility_weights_of_several_targets_are_their_own() -> None:
    group = np.array([0, 0, 1, 1, -1])
    label = np.array([[0, 0], [1, 0], [0, 0], [1, 1], [1, 1]])
    found = utility_weights(cohort(group, label))
    np.testing.assert_allclose(found[:, 0], [1, 1, 1, 1, 1])
    np.testing.assert_allclose(found[:, 1], [2 / 3, 2 / 3, 4 / 3, 4 / 3, 1])


def test_heads_are_kept_and_restored() -> None:
    head = Head(torch.randn(2, 4), torch.randn(2))
    for heads in (Heads(), Heads(head), Heads(None, head), Heads(head, head)):
        again = Heads.restore(heads.state(), torch.device("cpu"))
        assert (again.attribute is None) == (heads.attribute is None)
        assert {k: t.tolist() for k, t in again.state().items()} == {
            k: t.tolist() for k, t in heads.state().items()
        }


def test_the_auc_is_that_of_another_library() -> None:
    for groups in (2, 3):
        features, group = data(groups=groups)
        probe = fit_probe(features, group, NAMES[:groups], attribute="age")
        other, own = data(groups=groups, seed=1)
        found = read(probe, other, own, NAMES[:groups], np.arange(300))
        chance = special.softmax(probe.logits(other), axis=1)
        score = chance[:, 1] if groups == 2 else chance
        assert found.auc == pytest.approx(metrics.roc_auc_score(own, score, multi_class="ovr"))
        assert found.accuracy == pytest.approx((chance.argmax(axis=1) == own).mean())
        assert found.low < found.auc < found.high
        assert (found.rows, found.unknown) == (300, 0)


def test_the_interval_is_over_patients() -> None:
    features, group = data(groups=2)
    probe = fit_probe(features, group, NAMES[:2], attribute="sex")
    twice = np.concatenate([features, features]), np.concatenate([group, group])
    alone = read(probe, features, group, NAMES[:2], np.arange(300))
    same = read(probe, *twice, NAMES[:2], np.tile(np.arange(300), 2))
    more = read(probe, *twice, NAMES[:2], np.arange(600))
    assert same.auc == alone.auc == more.auc
    assert same.high - same.low == pytest.approx(alone.high - alone.low, rel=0.02)
    assert more.high - more.low < 0.8 * (alone.high - alone.low)


def test_groups_are_matched_by_name_and_absent_ones_do_not_count() -> None:
    features, group = data()
    probe = fit_probe(features, np.where(group == 1, -1, group), NAMES, attribute="age")
    assert probe.names == ("a", "c")
    other = ("c", "b", "a")
    found = read(probe, features, 2 - group, other, np.arange(300))
    kept = group != 1
    score = log_odds(probe.logits(features[kept]))
    assert found.auc == pytest.approx(metrics.roc_auc_score(group[kept] == 2, score))
    assert found.rows == kept.sum()
    assert found.unknown == 300 - kept.sum()


def test_a_probe_of_three_groups_reads_rows_of_two() -> None:
    features, group = data()
    probe = fit_probe(features, group, NAMES, attribute="age")
    rows = group != 0
    found = read(probe, features[rows], group[rows], NAMES, np.arange(rows.sum()))
    logits = probe.logits(features[rows])
    expected = metrics.roc_auc_score(group[rows] == 2, logits[:, 2] - logits[:, 1])
    assert found.auc == pytest.approx(expected)


def test_one_group_is_refused() -> None:
    features, group = data()
    with pytest.raises(DataError, match="attribute 'age'"):
        fit_probe(features, np.zeros(300, dtype=np.int64), NAMES, attribute="age")
    probe = fit_probe(features, group, NAMES, attribute="age")
    with pytest.raises(DataError, match="rows that are read"):
        read(probe, features, np.where(group == 1, 1, -1), NAMES, np.arange(300))


def test_log_odds_of_sure_logits_do_not_tie() -> None:
    sure = np.array([[0.0, 900.0, 5.0], [0.0, 901.0, 5.0]])
    assert log_odds(sure)[0, 1] < log_odds(sure)[1, 1]
    probe = Probe("age", ("a", "b"), np.array([[0.0], [400.0]]), np.zeros(2))
    features = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = read(probe, features, np.array([0, 0, 1, 1]), ("a", "b"), np.arange(4))
    assert found.auc == 1.0
