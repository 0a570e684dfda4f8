"""Studies in every state, made once a session, and a page as a reader's program sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit_page import Page
from kit_study import HOSTILE, Made, finetune, search

from fairtune.report.render import render
from fairtune.report.tables import Tables, load
from fairtune.study.overview import Overview
from fairtune.study.place import Place


@pytest.fixture(scope="session")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A study that was searched, confirmed, retrained and tested."""
    made = Made(name="tested", groups=HOSTILE)
    place = search(tmp_path_factory.mktemp("tested"), made)
    finetune(place, made, openings=2)
    return place


@pytest.fixture(scope="session")
def view(tested: Place) -> Overview:
    return Overview.load(tested)


@pytest.fixture(scope="session")
def tables(view: Overview) -> Tables:
    return load(view)


@pytest.fixture(scope="session")
def html(view: Overview, tables: Tables) -> str:
    return render(view, tables)


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page.read(html)


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[..., Page]:
    """Make a study, perhaps retrain and test it, and read its page."""

    def make(made: Made, seeds: int = 0) -> Page:
        place = search(tmp_path / "out", made)
        if seeds:
            finetune(place, made, seeds=seeds)
        found = Overview.load(place)
        return Page.read(render(found, load(found)))

    return make
