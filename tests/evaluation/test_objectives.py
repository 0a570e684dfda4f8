"""The grammar of objectives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.errors import ConfigError
from fairtune.evaluation.metrics import METRICS
from fairtune.evaluation.objectives import COMPOUNDS, Objective, known_heads

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
    if METRICS[name].cost:
        return Objective(metric)
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
        ("queries", "queries", "overall", None, "minimize"),
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
        ("queries@sex", "the same for every group"),
        ("worst_queries@sex", "a cost of the model"),
        ("queries_gap@sex", "a cost of the model"),
        ("es_queries@sex", "a cost of the model"),
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
