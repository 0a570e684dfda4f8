"""The section on mitigations: what was tried, and which weights let a term do nothing or all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kit import tiny_recipe

from fairtune.report.mitigations import (
    choice_frame,
    flag,
    grids,
    mitigation_words,
    pick_grids,
    term_frame,
)
from fairtune.study.overview import Overview
from fairtune.study.rows import SEARCH


def ratio(start: float | None, end: float | None) -> dict[str, Any]:
    return {
        "start": {"loss": start, "gradient": start},
        "end": {"loss": end, "gradient": end},
    }


def mitigated(view: Overview) -> Overview:
    """The study as if trials 1 to 3 had aligned scores, trial 3 with a head per group too."""
    said = {
        0: {"sinkhorn": ratio(1e-7, 1e-6)},
        1: {"sinkhorn": ratio(0.5, 600.0)},
        2: {"sinkhorn": ratio(0.5, 1.5)},
    }
    members: dict[int, list[Any]] = {i: [{"sinkhorn": {}}] for i in said}
    members[2] = [{"domain_independent": {}}, {"sinkhorn": {}}]
    rows = [
        replace(
            row,
            recipe={**row.recipe, "mitigations": members[row.number]},
            attrs={**row.attrs, "terms": said[row.number]},
        )
        if row.number in said and row.state == "complete"
        else row
        for row in view.rows[SEARCH]
    ]
    return replace(view, rows={**view.rows, SEARCH: rows})


@pytest.mark.parametrize(
    ("start", "end", "word"),
    [(1e-7, 1e-4, "dead"), (1e-7, 0.1, ""), (1.0, 600.0, "dominant"), (50.0, 1.0, "dominant"),
     (0.5, None, "dominant"), (1e-7, None, "dominant"), (0.5, 2.0, "")],
)  # fmt: skip
def test_a_weight_is_dead_or_dominant_by_its_gradient(
    start: float | None, end: float | None, word: str
) -> None:
    assert flag(start, end) == word


def test_a_study_without_mitigations_has_no_such_section(view: Overview) -> None:
    assert not len(choice_frame(view))
    assert grids(view, choice_frame(view), term_frame(view)) == []


def test_sets_of_mitigations_are_told_apart_with_their_flags(view: Overview) -> None:
    changed = mitigated(view)
    done = [row for row in changed.rows[SEARCH] if row.state == "complete" and row.number < 3]
    terms = term_frame(changed)
    assert list(terms["number"]) == [row.number + 1 for row in done]
    frame = choice_frame(changed).set_index("mitigations")
    alone = [row.values[0] for row in done if row.number < 2 and row.values is not None]
    assert frame.loc["sinkhorn", "runs"] == len(alone)
    assert frame.loc["sinkhorn", "mean"] == pytest.approx(sum(alone) / len(alone))
    assert frame.loc["sinkhorn", ["dead", "dominant"]].tolist() == [
        int(any(row.number == 0 for row in done)),
        int(any(row.number == 1 for row in done)),
    ]
    assert "none" in frame.index
    first, second = grids(changed, choice_frame(changed), terms)
    said = [cell.text for row in [*first.rows, *second.rows] for cell in row]
    assert {"dead", "dominant", "1e-07", "600.000"} <= set(said)


def test_who_is_given_less_weight_is_told_without_small_counts() -> None:
    said = {
        "bad_pairs": {
            "rows": 100,
            "flagged": 12,
            "by sex": {"F": {"rows": 60, "flagged": 10}, "M": {"rows": 40, "flagged": 2}},
        }
    }
    (grid,) = pick_grids(said)
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in grid.rows}
    assert rows["all rows"] == ["100", "12", "0.120"]
    assert rows["sex M"][1] == "<5"
    assert rows["sex M"][2] not in ("0.050",)
    assert pick_grids({}) == []


def test_a_recipe_is_told_with_whom_its_mitigations_are_about() -> None:
    members = [{"sinkhorn": {"attribute": {"sex": 1.0, "age": 2.0}}}, "sam", "resample"]
    recipe = tiny_recipe(mitigations=members).attributed("age")
    assert mitigation_words(recipe) == "resample (age), sam, sinkhorn (sex, age)"
    assert mitigation_words(tiny_recipe()) == ""


def test_rows_that_outvote_the_others_are_said_to() -> None:
    def told(weight: float) -> Any:
        counts = {"rows": 100, "wrong": 20}
        said = {**counts, "weight": weight, "classes": {"0": counts}, "groups": {"sex": {}}}
        (grid,) = pick_grids({"jtt": said})
        return grid

    assert "outvote" in told(0.7).notes[0]
    assert "outvote" not in told(0.4).notes[0]
    assert [cell.text for cell in told(0.4).rows[1]] == ["class 0", "100", "20", "0.200"]
    assert pick_grids({"jtt": {}}) == []
