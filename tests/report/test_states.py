"""Pages of studies that are not finished, went wrong, or ask something else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from kit_page import Page
from kit_study import Made, plan_of, search

from fairtune.report.render import render
from fairtune.report.tables import load
from fairtune.study.opening import open_study
from fairtune.study.overview import Overview
from fairtune.study.place import Place

Make = Callable[..., Page]


def said(page: Page) -> str:
    return re.sub(r"\s+", " ", page.prose)


def test_before_finetune_the_test_is_closed(page_of: Make) -> None:
    page = page_of(Made())
    assert "Verdict: not tested yet" in said(page)
    assert "The test is still closed" in said(page)
    assert "fairtune finetune --study tiny" in said(page)
    assert "AUC by sex, validation" in page.tables
    assert not [caption for caption in page.tables if caption.endswith(", test")]
    rows = page.table("worst_auc@sex, by stage")
    assert {row["test"] for row in rows.values()} == {"–"}
    assert "ROC of the pick by sex, validation" in page.titles


def test_without_confirm_it_says_that_figures_read_too_well(page_of: Make) -> None:
    page = page_of(Made(weights="none", trials=6, top=0))
    assert "started from random weights" in said(page)
    # Four finished trials say nothing of parts and parameters.
    assert "Which parts go with a better figure" not in page.titles
    assert "Importance of the searched parameters" not in page.titles
    assert "Nothing was confirmed with fresh seeds" in said(page)
    rows = page.table("worst_auc@sex, by stage")
    assert {row["confirm"] for row in rows.values()} == {"–"}
    assert {row["corrected for choice"] for row in rows.values()} == {"–"}
    assert "Is the climb real?" not in page.titles


@pytest.mark.slow
def test_one_seed_speaks_of_this_model(page_of: Make) -> None:
    page = page_of(Made(seeds=1), seeds=1)
    assert "this model" in said(page)
    assert "One seed per recipe" in said(page)
    assert "this method" not in said(page)


@pytest.mark.slow
def test_a_baseline_as_pick_is_a_no(page_of: Make) -> None:
    page = page_of(Made(favours="baseline"), seeds=2)
    assert "Verdict: no" in said(page)
    assert "No: a baseline, fullft, did best on validation." in said(page)
    assert "The pick is a baseline (fullft)" in said(page)
    assert "fullft (pick)" in page.table("worst_auc@sex, by stage")


@pytest.mark.slow
def test_degenerate_recipes_are_named_and_ranked_last(page_of: Make) -> None:
    page = page_of(Made(flat="search"))
    assert "gave degenerate predictions" in said(page)
    states = {row["state"] for row in page.table(RUNS).values()}
    assert "degenerate" in states


RUNS = "All runs of search and baselines, on validation"


@pytest.mark.slow
def test_recipes_that_turn_out_degenerate_are_never_picked(page_of: Make) -> None:
    page = page_of(Made(flat="confirm"))
    assert "Degenerate when run again, so never picked: search-1, search-2" in said(page)
    rows = page.table("worst_auc@sex, by stage")
    assert rows["search-1"][""] == "found by the search, degenerate"
    assert "fullft (pick)" in rows


@pytest.mark.slow
def test_multiclass(page_of: Make) -> None:
    made = Made(task="multiclass", classes=("a", "b", "c"), objective="worst_auc@age")
    page = page_of(made, seeds=1)
    assert "AUC by age, test" in page.tables
    assert "Curves are means over classes." in said(page)
    # What is told of two classes only is not there at all.
    for word in ("Calibration", "decisions mean", "Net benefit"):
        assert not [title for title in page.titles if word in title]
    assert "Where groups meet, test" in page.titles
    assert "ROC of the pick by age, test" in page.titles


@pytest.mark.slow
def test_a_gap_of_decisions_as_objective(page_of: Make) -> None:
    page = page_of(Made(objective="worst_tpr@sex"), seeds=1)
    assert "sensitivity by sex, test" in page.tables
    assert "missed findings (under-diagnosis)" in said(page)


def test_a_study_that_has_just_begun(tmp_path: Path) -> None:
    made = Made()
    place = Place(tmp_path, made.name)
    place.folder.mkdir()
    open_study(place, plan_of(made), create=True).close()
    view = Overview.load(place)
    page = Page.read(render(view, load(view)))
    assert "No recipe is finished yet." in said(page)
    assert "none: closed" in said(page)
    assert page.titles == []
    assert "Groups" not in page.heads


def test_run_folders_that_are_gone_leave_the_rest(tmp_path: Path) -> None:
    place = search(tmp_path, Made(top=0, trials=6))
    for folder in (tmp_path / "runs").glob("*/*"):
        (folder / "DONE").unlink()
    view = Overview.load(place)
    page = Page.read(render(view, load(view)))
    assert "worst_auc@sex, by stage" in page.tables
    assert "AUC by sex, validation" not in page.tables
