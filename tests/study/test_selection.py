"""Selection rules against hand-made tables and brute force."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from fairtune.errors import ConfigError, StudyError
from fairtune.evaluation.objectives import Objective
from fairtune.study.selection import SELECTIONS, Contest, Entrant, picks, rule_of

UTILITY = "auc"


def entrant(
    label: str,
    primary: float,
    groups: Sequence[float] = (),
    *,
    second: float | None = None,
    trained: float = 1.0,
    scaled: float | None = None,
    violation: float = 0.0,
) -> Entrant:
    values = {"worst_auc@age": primary}
    if second is not None:
        values["auc"] = second
    named = {f"g{i}": value for i, value in enumerate(groups)}
    return Entrant(label, values, trained, named, scaled, violation)


def contest(
    entrants: Sequence[Entrant],
    baselines: Sequence[Entrant] = (),
    constraints: Sequence[str] = (),
    se: Mapping[str, float] | None = None,
) -> Contest:
    objectives = tuple(Objective.parse(name) for name in entrants[0].values)
    errors = se or {}
    return Contest(
        tuple(entrants), tuple(baselines), objectives, UTILITY, "age", tuple(constraints),
        lambda label, objective: errors.get(label, 0.0),
    )  # fmt: skip


def picked(rule: str, made: Contest) -> str:
    choice = rule_of(rule).pick(made)
    assert choice.why
    return choice.entrant.label


def test_best_is_the_largest_and_the_first_of_equals() -> None:
    assert (
        picked("best", contest([entrant("a", 0.7), entrant("b", 0.8), entrant("c", 0.8)])) == "b"
    )


def test_minimax_judges_by_the_group_that_baselines_serve_worst() -> None:
    # Under the baselines g1 can be served up to .70 and g0 up to .75: g1 is the group, even though
    # `narrow` is worst on g0.
    plain = [entrant("norm:all", 0.6, (0.75, 0.60)), entrant("fullft", 0.6, (0.62, 0.70))]
    narrow, wide = entrant("narrow", 0.5, (0.5, 0.9)), entrant("wide", 0.8, (0.85, 0.8))
    assert picked("minimax", contest([wide, narrow, *plain], plain)) == "narrow"
    assert picked("best", contest([wide, narrow, *plain], plain)) == "wide"
    with pytest.raises(StudyError, match="confirmed baselines"):
        rule_of("minimax").pick(contest([wide, narrow]))


def test_minimax_takes_the_one_that_is_not_dominated_among_equals_of_the_group() -> None:
    plain = [entrant("fullft", 0.6, (0.9, 0.6))]
    worse, better = entrant("worse", 0.7, (0.7, 0.7)), entrant("better", 0.7, (0.8, 0.7))
    assert picked("minimax", contest([worse, better], plain)) == "better"


def test_dto_is_the_smallest_distance_to_the_best_of_every_group() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(0.4, 0.95, (6, 3))
        made = contest([entrant(str(i), 0.5, tuple(p)) for i, p in enumerate(points)])
        utopia = [max(p[g] for p in points) for g in range(3)]
        distance = [sum((p[g] / utopia[g] - 1) ** 2 for g in range(3)) for p in points]
        assert picked("dto", made) == str(distance.index(min(distance)))


def test_es_is_the_largest_scaled_utility() -> None:
    many = [entrant("a", 0.9, (0.9,), scaled=0.7), entrant("b", 0.1, (0.1,), scaled=0.71)]
    assert picked("es", contest(many)) == "b"


def test_constraint_is_the_best_of_those_that_meet_all() -> None:
    many = [
        entrant("a", 0.9, violation=0.01), entrant("b", 0.7), entrant("c", 0.8),
        entrant("d", 0.95, violation=0.2),
    ]  # fmt: skip
    assert picked("constraint", contest(many, constraints=["auc >= 0.8"])) == "c"
    with pytest.raises(StudyError, match="no constraints"):
        rule_of("constraint").pick(contest(many))
    with pytest.raises(StudyError, match="no confirmed recipe meets") as caught:
        rule_of("constraint").pick(contest([many[3], many[0]], constraints=["auc >= 0.8"]))
    assert "a comes nearest" in str(caught.value.found)


def test_one_se_is_the_cheapest_within_one_standard_error_of_the_best() -> None:
    many = [
        entrant("best", 0.80, trained=900), entrant("near", 0.78, trained=50),
        entrant("nearer", 0.79, trained=50), entrant("far", 0.75, trained=1),
    ]  # fmt: skip
    assert picked("1se", contest(many, se={"best": 0.03, "near": 9.0})) == "nearer"
    assert picked("1se", contest(many, se={"best": 0.05})) == "far"
    assert picked("1se", contest(many, se={"best": 0.005})) == "best"


def test_knee_is_the_farthest_beyond_the_chord() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        points = rng.uniform(0.4, 0.95, (8, 2))
        made = contest([entrant(str(i), a, second=b) for i, (a, b) in enumerate(points)])
        front = [
            i
            for i, p in enumerate(points)
            if not any((q >= p).all() and (q > p).any() for q in points)
        ]
        low, high = points[front].min(axis=0), points[front].max(axis=0)
        unit = {i: (points[i] - low) / np.where(high > low, high - low, 1.0) for i in front}
        # Distance of a point from the line through (0, 1) and (1, 0).
        distance = {i: (x + y - 1) / np.sqrt(2) for i, (x, y) in unit.items()}
        expected = max(front, key=lambda i: (round(distance[i], 12), points[i, 0]))
        assert picked("knee", made) == str(expected)
    with pytest.raises(StudyError, match="one objective"):
        rule_of("knee").pick(contest([entrant("a", 0.5)]))


def test_a_smaller_objective_that_is_better_is_counted_so() -> None:
    objectives = (Objective.parse("auc_gap@age"), Objective.parse("auc"))
    values = [(0.1, 0.7), (0.02, 0.6), (0.2, 0.8), (0.04, 0.75)]
    many = tuple(
        Entrant(str(i), {"auc_gap@age": gap, "auc": auc}, 1.0, {})
        for i, (gap, auc) in enumerate(values)
    )
    made = Contest(many, (), objectives, UTILITY, None, (), lambda label, objective: 0.02)
    assert picked("best", made) == "1"
    assert picked("1se", made) == "1"  # 3 is within reach and trains as much
    assert picked("knee", made) == "3"


@pytest.mark.parametrize("rule", ["minimax", "dto", "es"])
def test_rules_over_groups_are_refused_without_groups(rule: str) -> None:
    with pytest.raises(StudyError, match="compares groups"):
        rule_of(rule).pick(contest([entrant("a", 0.5)], [entrant("b", 0.5)]))


def test_every_rule_picks_or_says_why_not() -> None:
    made = contest([entrant("a", 0.5, (0.5, 0.6), scaled=0.4), entrant("b", 0.6, (0.6, 0.6))])
    found, refused = picks(made)
    assert sorted([*found, *refused]) == SELECTIONS.names()
    assert set(refused) == {"minimax", "constraint", "knee"}
    assert all(choice.entrant in made.entrants for choice in found.values())


def test_no_rule_depends_on_the_order_of_different_recipes() -> None:
    many = [
        entrant("a", 0.70, (0.9, 0.70), second=0.80, trained=9, scaled=0.60),
        entrant("b", 0.72, (0.8, 0.72), second=0.78, trained=5, scaled=0.62),
        entrant("c", 0.60, (0.6, 0.65), second=0.85, trained=2, scaled=0.64),
    ]
    for rule in ("best", "minimax", "dto", "es", "1se", "knee"):
        found = {
            picked(rule, contest(order, [many[0]], se={"b": 0.05}))
            for order in itertools.permutations(many)
        }
        assert len(found) == 1


def test_an_unknown_rule_names_the_known() -> None:
    with pytest.raises(ConfigError) as caught:
        rule_of("bset")
    assert caught.value.allowed == SELECTIONS.names()
