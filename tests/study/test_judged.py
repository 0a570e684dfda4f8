"""Objectives, constraints and the form of search in a study file; every fault has its line."""

from __future__ import annotations

from typing import Any

import pytest
from kit_plan import document, fields, study

from fairtune.config.yaml12 import dumps, loads
from fairtune.errors import FairtuneError
from fairtune.evaluation.objectives import Objective
from fairtune.study.form import Form
from fairtune.study.schema import build_study

TWO = ["worst_auc@sex", "auc"]


def only(**changes: Any) -> FairtuneError:
    with pytest.raises(FairtuneError) as caught:
        study(**changes)
    (fault,) = getattr(caught.value, "problems", [caught.value])
    return fault  # type: ignore[no-any-return]


def line_of(fault: FairtuneError, changes: dict[str, Any]) -> str:
    """The line of the file that a fault points to."""
    _, line, *_ = str(fault.where).split(":")
    return dumps(fields(**changes)).splitlines()[int(line) - 1]


def test_up_to_four_objectives_and_any_constraints_are_read() -> None:
    texts = ["worst_auc@sex", "auc", "ece", "auc_gap@age"]
    limits = ["auc >= baseline[norm:all] - 0.01", "no_harm(0.02)", "eo_diff@sex <= 0.2"]
    made = study(objectives=texts, constraints=limits, sampler="auto")
    assert [str(o) for o in made.judge.objectives] == texts
    assert [str(c) for c in made.judge.constraints] == limits
    assert made.form == Form()
    again = build_study(
        loads(dumps(document(objectives=texts, constraints=limits).data), "s.yaml")
    )
    assert again.judge == made.judge
    with pytest.raises(FairtuneError, match="at most 4 items"):
        study(objectives=[*texts, "nll"])


@pytest.mark.parametrize(
    ("changes", "words", "line"),
    [
        ({"objectives": ["auc", "auc"]}, "stand twice", "objectives:"),
        ({"objectives": [*TWO, "worst_auc@race"]}, "not among", "- worst_auc@race"),
        ({"constraints": ["auc >= 0.8", "auc > 1"]}, "not a constraint", "- auc > 1"),
        ({"constraints": ["wost_auc@sex >= 1"]}, "did you mean 'worst_auc'", "- wost_auc@sex"),
        ({"constraints": ["worst_auc@race >= 1"]}, "not among", "- worst_auc@race"),
        ({"constraints": ["auc >= 1", "auc >= 1"]}, "stand twice", "constraints:"),
        ({"constraints": ["auc >= baseline[norm:al]"]}, "does not run", "- auc >= baseline"),
        ({"constraints": ["no_harm(0.1)"], "baselines": []}, "runs none", "- no_harm"),
        ({"constraints": ["auc >= baseline[fullft]"], "baselines": []}, "does not run", "- auc"),
        ({"objectives": TWO, "sampler": "cmaes"}, "takes one objective", "sampler: cmaes"),
        ({"objectives": TWO, "search": "front"}, "not a form of search", "search: front"),
        ({"objectives": TWO, "search": {"weighted": {"auc": 1}}}, "needs a weight", "search:"),
        ({"objectives": TWO, "search": {"weighted": {"auc": 1, "worst_auc@sex": 0}}},
         "above 0", "search:"),
        ({"objectives": TWO, "search": {"chebyshev": {"auc": 1, "ece": 1}}}, "not an objective",
         "search:"),
        ({"search": {"weighted": {"worst_auc@sex": 1}}}, "one objective needs no", "search:"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_its_line(
    changes: dict[str, Any], words: str, line: str
) -> None:
    fault = only(**changes)
    assert words in str(fault)
    assert line_of(fault, changes).strip().startswith(line)


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({}, True),
        ({"constraints": ["auc_gap@age <= 0.1"]}, True),
        ({"constraints": ["auc <= 0.99"]}, True),
        ({"constraints": ["auc >= 0.7"]}, False),
        ({"constraints": ["no_harm(0.02)"]}, False),
        ({"objectives": ["auc_gap@sex", "eo_diff@sex", "nll"]}, False),
    ],
)
def test_disparities_alone_need_a_utility(more: dict[str, Any], refused: bool) -> None:
    changes = {"objectives": ["auc_gap@sex", "eo_diff@sex"], **more}
    if refused:
        fault = only(**changes)
        assert "disparities" in fault.what
        assert "baseline[fullft]" in str(fault.todo)
    else:
        assert study(**changes).judge.objectives[0].is_disparity


def test_a_sampler_of_one_objective_is_taken_where_search_makes_them_one() -> None:
    weights = {"auc": 1, "worst_auc@sex": 3}
    made = study(objectives=TWO, sampler="cmaes", search={"weighted": weights})
    assert made.form == Form("weighted", (0.75, 0.25))
    fault = only(objectives=TWO, sampler="cmaes")
    assert "cmaes" not in str(fault.allowed)
    assert "blr_ts" in str(fault.allowed)


def test_a_form_prints_as_it_is_read() -> None:
    objectives = [Objective.parse(text) for text in ("worst_auc@sex", "cal_slope:max", "nll")]
    for written in ("pareto", {"chebyshev": {"nll": 2, "cal_slope:max": 1, "worst_auc@sex": 1}}):
        form = Form.parse(written, objectives)
        assert Form.parse(form.to_json(objectives), objectives) == form
    assert Form.parse(written, objectives).weights == (0.25, 0.25, 0.5)


def test_forms_make_one_number_in_the_units_of_the_objectives() -> None:
    points = [[0.9, 0.5], [0.7, 0.7], [0.5, 0.6]]
    weighted = Form("weighted", (0.75, 0.25)).scalar(points)
    assert weighted == pytest.approx([0.8, 0.7, 0.525])
    # Short of the best (.9, .7) by (0, .2), (.2, 0) and (.4, .1).
    found = Form("chebyshev", (0.5, 0.5)).scalar(points)
    assert found == pytest.approx([-0.1 - 0.005, -0.1 - 0.005, -0.2 - 0.0125])
    assert Form("chebyshev", (0.5, 0.5)).scalar([]).shape == (0,)


def test_a_chebyshev_number_reaches_points_in_a_hollow_of_the_front() -> None:
    points = [[0.0, 1.0], [0.4, 0.4], [1.0, 0.0]]
    assert Form("chebyshev", (0.5, 0.5)).scalar(points).argmax() == 1
    assert Form("weighted", (0.5, 0.5)).scalar(points).argmax() != 1


def test_constraints_travel_with_the_judge_and_are_absent_without_any() -> None:
    made = study(constraints=["auc >= 0.5"]).judge
    assert made.to_json()["constraints"] == ["auc >= 0.5"]
    assert type(made).from_json(made.to_json()) == made
    assert "constraints" not in study().judge.to_json()
