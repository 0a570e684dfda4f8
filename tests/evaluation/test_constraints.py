"""The grammar of constraints, and by how much figures violate them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import table
from test_objectives import objectives

from fairtune.errors import ConfigError, DataError
from fairtune.evaluation.constraints import Constraint, Harm, figures, harm_metric
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.scoring import evaluate_objectives, group_values

HARM = Harm("auc", ("age",))


@st.composite
def constraints(draw: st.DrawFn) -> Constraint:
    number = st.floats(-1e3, 1e3).map(lambda x: x + 0.0)
    if draw(st.booleans()):
        return Constraint("no_harm", draw(st.floats(0, 1)))
    name = draw(st.sampled_from([None, "fullft", "block:last-3", "linear_readout"]))
    relation = draw(st.sampled_from([">=", "<="]))
    return Constraint(relation, draw(number), draw(objectives(directed=False)), name)


@given(constraints())
def test_constraints_round_trip(constraint: Constraint) -> None:
    assert Constraint.parse(str(constraint)) == constraint


def violation(
    text: str,
    run: dict[str, float],
    baselines: dict[str, dict[str, float]] | None = None,
    harm: Harm = HARM,
) -> float:
    return Constraint.parse(text).violation(run, baselines or {}, "fullft", harm)


def test_constraints_are_violated_by_positive_amounts() -> None:
    text, base = "auc >= baseline[fullft] - 0.01", {"fullft": {"auc": 0.85}}
    assert violation(text, {"auc": 0.80}, base) == pytest.approx(0.04)
    assert violation(text, {"auc": 0.84}, base) == pytest.approx(0)
    assert violation("eo_diff@age <= 0.1", {"eo_diff@age": 0.3}) == pytest.approx(0.2)
    assert violation("cal_slope >= 0.8", {"cal_slope": 0.9}) == pytest.approx(-0.1)


@pytest.mark.parametrize(("metric", "sign"), [("auc", 1), ("nll", -1)])
def test_no_harm_is_decided_by_the_group_that_loses_most(metric: str, sign: int) -> None:
    harm = Harm(metric, ("age", "sex"))
    base = {"age/old": 0.8, "age/young": 0.9, "sex/F": 0.7}
    run = {"age/old": 0.9, "age/young": 0.87, "sex/F": 0.65}
    named = [
        {f"{metric}@{name}": sign * value for name, value in side.items()} | {"auc": 0.1}
        for side in (base, run)
    ]
    found = violation("no_harm(0.02)", named[1], {"fullft": named[0]}, harm)
    assert found == pytest.approx(0.05 - 0.02)
    # A group of an attribute that is not compared does not count.
    found = violation("no_harm(0.02)", named[1], {"fullft": named[0]}, Harm(metric, ("age",)))
    assert found == pytest.approx(0.03 - 0.02)


def test_figures_are_computed_once_from_predictions_and_decide_alone() -> None:
    p = table(400, seed=3)
    attribute = next(iter(p.attributes))
    rule, minimum = ThresholdRule(), GroupMinimum()
    told = [Constraint.parse(t) for t in ("auc >= 0.5", f"tpr_gap@{attribute} <= 1")]
    harm = Harm.of(Objective.parse(f"worst_brier@{attribute}"), [attribute])
    assert figures(p, [], harm, minimum=minimum, threshold=rule) == {}
    plain = figures(p, told, harm, minimum=minimum, threshold=rule)
    assert plain == evaluate_objectives(
        p, [c.objective for c in told if c.objective], minimum=minimum, threshold=rule
    )
    found = figures(p, [*told, Constraint("no_harm", 0.0)], harm, minimum=minimum, threshold=rule)
    groups = group_values(p, "brier", attribute, minimum=minimum, threshold=rule)
    assert harm.groups(found) == {f"{attribute}/{g}": v for g, v in groups.items()}
    same = Constraint("no_harm", 0.1).violation(found, {"a": found}, "a", harm)
    assert same == pytest.approx(-0.1)
    with pytest.raises(DataError, match="enough rows"):
        figures(
            p,
            [Constraint("no_harm", 0.0)],
            harm,
            minimum=GroupMinimum(10_000, 1, 1),
            threshold=rule,
        )


@pytest.mark.parametrize(
    ("primary", "metric", "attributes"),
    [
        ("worst_auc@age", "auc", ("age", "sex")),
        ("worst_tpr@spec=0.9@age*sex", "tpr@spec=0.9", ("age", "sex", "age*sex")),
        ("eo_diff@age", "auc", ("age", "sex")),
        ("cal_slope_gap@age", "auc", ("age", "sex")),
        ("nll", "nll", ("age", "sex")),
    ],
)
def test_harm_is_counted_in_the_primary_metric(
    primary: str, metric: str, attributes: tuple[str, ...]
) -> None:
    objective = Objective.parse(primary)
    assert harm_metric(objective) == metric
    assert Harm.of(objective, ["age", "sex"]) == Harm(metric, attributes)


@pytest.mark.parametrize(
    ("text", "utility"),
    [
        ("auc >= 0.8", True),
        ("worst_auc@age >= 0.8", True),
        ("nll <= baseline[fullft]", True),
        ("no_harm(0.02)", True),
        ("auc <= 0.8", False),
        ("nll >= 0.1", False),
        ("auc_gap@age <= 0.1", False),
        ("selection_rate >= 0.1", False),
    ],
)
def test_a_utility_is_what_a_constant_model_would_break(text: str, utility: bool) -> None:
    assert Constraint.parse(text).is_utility is utility


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auc > 0.5", "not a constraint"),
        ("auc >= high", "not a bound"),
        ("auc >= baseline[fullft] * 2", "not a bound"),
        ("no_harm(-0.1)", "not a constraint"),
        ("wost_auc@age >= 0.5", "did you mean 'worst_auc'"),
    ],
)
def test_constraints_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Constraint.parse(text)
    assert message in str(caught.value)


def test_what_is_missing_is_named() -> None:
    base = {"fullft": {"auc": 0.8}}
    with pytest.raises(ConfigError, match="did you mean 'fullft'"):
        violation("auc >= baseline[fulft]", {"auc": 0.8}, base)
    with pytest.raises(ConfigError, match="not computed"):
        violation("nll <= baseline[fullft]", {"nll": 0.8}, base)
    with pytest.raises(ConfigError, match="none are finished"):
        violation("no_harm(0.1)", {"auc@age/old": 0.8})
    with pytest.raises(DataError, match="same groups"):
        violation("no_harm(0.1)", {"auc@age/old": 0.8}, base)
