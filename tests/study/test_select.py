"""Which candidate is picked."""

from __future__ import annotations

from typing import Any

import pytest
from kit_plan import CHANCE, CONSTANT
from kit_tiny import Tiny

from fairtune.errors import ConfigError, StudyError
from fairtune.study.overview import Candidate
from fairtune.study.select import best_searched, corrected, pick, picked


def candidate(label: str, searched: float, *values: float, why: str | None = None) -> Candidate:
    recipe: Any = None
    return Candidate(label, label, recipe, 0, searched, (), tuple(values), why)


def picked_label(*candidates: Candidate, sign: int = 1) -> str:
    return pick(candidates, sign).label


def test_the_best_confirmed_mean_is_picked_baselines_included() -> None:
    one, two = candidate("search-1", 0.9, 0.70, 0.72), candidate("search-2", 0.8, 0.75, 0.77)
    base = candidate("norm:all", 0.5, 0.80, 0.60)
    assert picked_label(one, two, base) == "search-2"
    assert picked_label(one, two, base, sign=-1) == "norm:all"
    assert picked_label(one, two, candidate("fullft", 0.1, 0.9)) == "fullft"


def test_what_was_not_confirmed_stands_behind_what_was() -> None:
    assert picked_label(candidate("search-1", 0.9), candidate("norm:all", 0.2, 0.3)) == "norm:all"
    assert picked_label(candidate("search-1", 0.7), candidate("norm:all", 0.8)) == "norm:all"


def test_equal_means_keep_the_order() -> None:
    assert (
        picked_label(candidate("search-1", 0.5, 0.7), candidate("search-2", 0.9, 0.7))
        == "search-1"
    )


def test_chance_is_picked_only_where_nothing_else_is_and_constant_never() -> None:
    good = candidate("norm:all", 0.5, 0.55)
    chance = candidate("search-1", 0.9, 0.9, why=CHANCE)
    constant = candidate("search-2", 1.0, 1.0, why=CONSTANT)
    assert picked_label(chance, constant, good) == "norm:all"
    assert picked_label(chance, constant) == "search-1"
    with pytest.raises(StudyError, match="nothing to pick from") as caught:
        pick([constant], 1)
    assert "all degenerate" in str(caught.value.found)
    with pytest.raises(StudyError, match="nothing to pick from"):
        pick([], 1)


def test_the_best_of_the_search_is_asked_apart_from_baselines() -> None:
    base, one = candidate("norm:all", 0.5, 0.9), candidate("search-1", 0.6, 0.7)
    assert best_searched([base, one], 1) is one
    assert best_searched([base], 1) is None
    assert best_searched([candidate("search-1", 0.6, why=CONSTANT)], 1) is None


def test_the_control_is_compared_and_never_picked() -> None:
    control, one = candidate("control", 0.9, 0.9), candidate("search-1", 0.5, 0.5)
    assert picked_label(control, one) == "search-1"
    assert best_searched([control, one], 1) is one
    assert not control.is_baseline
    with pytest.raises(StudyError, match="nothing to pick from"):
        pick([control], 1)


def test_an_unknown_rule_is_refused_whatever_is_confirmed(tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as caught:
        picked(tiny.view, tiny.view.candidates(), "bst")
    assert "best" in caught.value.allowed  # type: ignore[operator]


def test_candidates_have_their_confirm_runs_and_values(tiny: Tiny) -> None:
    view = tiny.view
    found = view.candidates()
    assert [c.label for c in found] == ["search-1", "linear_readout", "norm:all"]
    for c in found:
        assert len(c.runs) == len(c.values) == 2
        for run, value in zip(c.runs, c.values):
            assert run.recipe == c.recipe
            (own,) = view.judge.values(run.validation(view.judge.epoch_of(run))).values()
            assert own == pytest.approx(value)
    correction = corrected(view, found)
    assert correction is not None
    best = max(c.confirmed for c in found if not c.unusable)  # type: ignore[type-var]
    assert correction.naive == pytest.approx(best)
    assert corrected(view, []) is None


def test_the_search_took_part_in_the_choice_where_it_saw_the_same_patients(tiny: Tiny) -> None:
    from dataclasses import replace

    view, found = tiny.view, tiny.view.candidates()
    alone = corrected(replace(view, rows={**view.rows, "search": []}), found)
    among = corrected(view, found)
    assert alone is not None
    assert among is not None
    assert among.naive == alone.naive
    assert among.optimism > alone.optimism


def test_without_confirm_a_candidate_has_the_mark_of_its_search(tiny: Tiny) -> None:
    from dataclasses import replace

    bare = replace(tiny.view, rows={**tiny.view.rows, "confirm": []})
    marks = {row.digest: row.attrs.get("degenerate") for row in bare.rows["baseline"]}
    for c in bare.candidates():
        assert c.confirmed is None
        if c.is_baseline:
            assert c.degenerate == marks[c.digest]
