"""The grammar of objectives and constraints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.errors import ConfigError
from fairtune.evaluation.metrics import METRICS
from fairtune.evaluation.objectives import COMPOUNDS, Constraint, Objective, known_heads

ATTRIBUTES = st.lists(
    st.sampled_from(["age", "sex", "skin_type", "race-3", "Ä1"]), min_size=1, max_size=3
).map("*".join)


@st.composite
def objectives(draw: st.DrawFn, directed: bool = True) -> Objective:
    point = draw(st.floats(0.01, 0.99))
    special = [f"tpr@spec={point!r}", f"fpr@sens={point!r}"]
    metric = draw(st.sampled_from([*METRICS, *COMPOUNDS, *special]))
    if metric in COMPOUNDS:
        return Objective(metric, "gap", draw(ATTRIBUTES))
    name = metric.split("@")[0]
    kinds = ["overall", "gap"]
    if METRICS[name].better != "neither":
        kinds.append("worst")
    if METRICS[name].better == "higher":
        kinds += ["es", "es_pop", "es_sample"]
    kind = draw(st.sampled_from(kinds))
    attribute = None if kind == "overall" else draw(ATTRIBUTES)
    wanted = None
    if directed and kind == "overall" and METRICS[name].better == "neither":
        wanted = draw(st.sampled_from(["minimize", "maximize"]))
    return Objective(metric, kind, attribute, wanted)  # type: ignore[arg-type]


@given(objectives())
def test_objectives_round_trip(objective: Objective) -> None:
    assert Objective.parse(str(objective)) == objective
    assert objective.direction in ("minimize", "maximize")


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


@pytest.mark.parametrize(
    ("text", "metric", "reduction", "attribute", "direction"),
    [
        ("auc", "auc", "overall", None, "maximize"),
        ("worst_auc@age", "auc", "worst", "age", "maximize"),
        ("auc_gap@age * sex", "auc", "gap", "age*sex", "minimize"),
        ("es_pop_auc@age", "auc", "es_pop", "age", "maximize"),
        ("es_sample_acc@age", "acc", "es_sample", "age", "maximize"),
        ("worst_nll@race", "nll", "worst", "race", "minimize"),
        ("ece_gap@race:min", "ece", "gap", "race", "minimize"),
        ("eo_diff@age", "eo_diff", "gap", "age", "minimize"),
        ("worst_tpr@spec=0.9@age", "tpr@spec=0.9", "worst", "age", "maximize"),
        ("tpr_gap@spec=.95@age", "tpr@spec=0.95", "gap", "age", "minimize"),
        ("selection_rate:max", "selection_rate", "overall", None, "maximize"),
    ],
)
def test_what_is_read(
    text: str, metric: str, reduction: str, attribute: str | None, direction: str
) -> None:
    found = Objective.parse(text)
    read = (found.metric, found.reduction, found.attribute, found.direction)
    assert read == (metric, reduction, attribute, direction)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worst_acu@age", "did you mean 'worst_auc'"),
        ("gap_auc@age", "did you mean 'auc_gap'"),
        ("auc_diff@age", "did you mean 'auc_gap'"),
        ("min_auc@age", "did you mean 'worst_auc'"),
        ("worst_auc", "needs an attribute"),
        ("auc@age", "takes no attribute"),
        ("auc:min", "is to be maximized"),
        ("auc_gap@age:max", "is to be minimized"),
        ("auc:up", "not a direction"),
        ("cal_slope", "no better side"),
        ("worst_selection_rate@age", "no worst value"),
        ("es_nll@age", "higher is better"),
        ("tpr@spec=1.5", "must lie in"),
        ("worst_auc@", "not an attribute"),
        ("worst_auc@age**sex", "not an attribute"),
        ("auc@spec=0.9", "unknown metric"),
        ("", "not an objective"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Objective.parse(text)
    assert message in str(caught.value)


def test_every_known_head_is_read_and_printed_as_it_is() -> None:
    for head in known_heads():
        overall = head in METRICS
        text = head if overall else f"{head}@age"
        assert str(Objective.parse(text, directed=False)) == text


def test_disparities_and_thresholds_are_told_apart() -> None:
    def flags(text: str) -> tuple[bool, bool]:
        objective = Objective.parse(text)
        return objective.is_disparity, objective.needs_threshold

    assert flags("auc_gap@a") == (True, False)
    assert flags("eo_avg@a") == (True, True)
    assert flags("worst_tpr@a") == (False, True)
    assert flags("worst_tpr@spec=0.9@a") == (False, False)
    assert flags("auc") == (False, False)


def test_constraints_are_violated_by_positive_amounts() -> None:
    constraint = Constraint.parse("auc >= baseline[fullft] - 0.01")
    assert constraint.evaluate(0.80, {"fullft": 0.85}) == pytest.approx(0.04)
    assert constraint.holds(0.84, {"fullft": 0.85})
    assert Constraint.parse("eo_diff@age <= 0.1").evaluate(0.3) == pytest.approx(0.2)
    assert Constraint.parse("cal_slope >= 0.8").holds(0.9)
    harm = Constraint.parse("no_harm(0.02)")
    assert harm.holds(-0.01)
    assert harm.evaluate(-0.05) == pytest.approx(0.03)


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


def test_a_missing_baseline_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fullft'"):
        Constraint.parse("auc >= baseline[fulft]").evaluate(0.8, {"fullft": 0.8})
