"""Figures, notes and files in a study: as its dashboard shows them, and again without growth."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from kit_study import Made, Synthetic, plan_of
from PIL import Image

from fairtune.errors import ConfigError
from fairtune.report.publish import LIMIT, SHOWN, drawn, publish
from fairtune.report.tables import Tables
from fairtune.study.opening import open_study
from fairtune.study.place import Place
from fairtune.study.search import phases
from fairtune.study.worker import Limits, StopFlag, work

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-unsafe-swiftshader", "--virtual-time-budget=20000",
)  # fmt: skip


def stored(place: Place) -> dict[str, dict[str, object]]:
    """System attributes of every study, and all trials as text."""
    storage = optuna.storages.RDBStorage(place.url)
    found = {}
    for study in storage.get_all_studies():
        attrs = dict(storage.get_study_system_attrs(study._study_id))
        attrs["trials"] = repr(storage.get_all_trials(study._study_id))
        found[study.study_name] = attrs
    storage.engine.dispose()
    return found


def title(name: str, tables: Tables) -> str:
    figure = SHOWN[name](tables)
    assert figure is not None
    return figure.title


def copied(tested: Place, folder: Path) -> Place:
    shutil.copytree(tested.out, folder)
    return Place(folder, tested.name)


def test_a_figure_of_many_recipes_stays_small(tables: Tables) -> None:
    rows, columns, limit = 120, 60, 10_000
    rng = np.random.default_rng(0)
    masks = pd.DataFrame(rng.integers(0, 2, (rows, columns)), index=[f"d{i}" for i in range(rows)])
    masks.insert(0, "number", range(1, rows + 1))
    masks.insert(1, "value", np.linspace(0.9, 0.5, rows))
    kinds = [f"type {i // 12}" for i in range(columns)]
    switches = pd.DataFrame({"type": kinds, "depth": [i % 12 for i in range(columns)]})
    switches["units"] = [[]] * columns
    many = replace(tables, masks=masks, switches=switches)
    plot = drawn("masks", many, limit)
    assert plot is not None
    assert len(plot.to_json()) <= limit
    z = np.asarray(plot.data[0].z)
    assert len(z) in (30, 60)
    assert plot.layout.height <= 450
    assert len(plot.layout.yaxis.ticktext) <= 25
    assert (z == masks[list(range(columns))].to_numpy()[: len(z)]).all()


@pytest.mark.slow
def test_publishing_again_changes_nothing_and_touches_no_trial(
    tested: Place, tables: Tables, tmp_path: Path
) -> None:
    from optuna_dashboard import save_note

    place = copied(tested, tmp_path / "out")
    before = stored(place)
    made = publish(place)
    assert made.figures == tuple(SHOWN)
    assert made.files == ("report.html", "recipe.json")
    assert made.said == ()
    first = stored(place)
    assert {n: a["trials"] for n, a in first.items()} == {
        n: a["trials"] for n, a in before.items()
    }
    ended = sum(a["trials"].count("FrozenTrial(") for a in before.values())  # type: ignore[attr-defined]
    assert made.notes == ended
    for name in SHOWN:
        key = f"dashboard:plot_data:fairtune-{name}:"
        parts = {k: str(v) for k, v in first["tested"].items() if k.startswith(key)}
        text = "".join(parts[f"{key}{i}"] for i in range(len(parts)))
        assert len(text) <= LIMIT
        assert json.loads(text)["layout"]["title"]["text"] == f"<b>{title(name, tables)}</b>"
    study = optuna.load_study(study_name="tested", storage=place.url)
    save_note(study, "a note of mine")
    again = publish(place)
    assert again.notes == 0
    second = stored(place)
    mine = {k: v for k, v in second["tested"].items() if k not in first["tested"]}
    assert set(mine) == {"dashboard:note_ver", "dashboard:note_str:0"}
    assert {k: v for k, v in second["tested"].items() if k not in mine} == first["tested"]
    assert len(list((place.out / "artifacts").iterdir())) == 2


@pytest.mark.slow
def test_without_the_runs_better_figures_stay(tested: Place, tmp_path: Path) -> None:
    place = copied(tested, tmp_path / "out")
    shutil.rmtree(place.out / "runs")
    made = publish(place)
    assert made.figures == ()
    assert made.notes > 0
    assert "figures stay as they were" in made.said[0]


def test_a_missing_extra_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ConfigError, match=r"fairtune\[dashboard\]") as caught:
        publish(Place(tmp_path, "any"))
    assert caught.value.exit_code == 2


@pytest.mark.slow
@pytest.mark.needs("postgres")
def test_a_storage_that_can_only_be_read_is_said_to_be(postgres_url: str, tmp_path: Path) -> None:
    made = Made(name="readonly", trials=1, top=0)
    plan, place = plan_of(made), Place(tmp_path / "out", "readonly", postgres_url)
    with open_study(place, plan, create=True) as ledger:
        work(ledger, phases(plan), Synthetic(made, plan, place.runs), Limits(), StopFlag())
    only = "?options=-c%20default_transaction_read_only%3Don"
    found = publish(replace(place, storage=postgres_url + only))
    assert (found.figures, found.notes, found.files) == ((), 0, ())
    assert "can only be read" in found.said[0]


@pytest.mark.slow
@pytest.mark.needs("chromium")
def test_the_page_of_a_study_shows_our_figures_and_notes(
    tested: Place, tables: Tables, chromium: str, tmp_path: Path
) -> None:
    from fairtune.report.serve import Dashboard

    place = copied(tested, tmp_path / "out")
    made = publish(place)

    def seen(page: str, *flags: str) -> str:
        command = [chromium, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        return done.stdout

    with Dashboard(place.url, place.out / "artifacts") as served:
        page = served.page(made.study_id)
        shot = tmp_path / "study.png"
        dom = seen(page, "--dump-dom", "--window-size=1500,3600")
        assert [name for name in SHOWN if title(name, tables) not in dom] == []
        trial = seen(f"{page}/trials?numbers=1", "--dump-dom", "--window-size=1500,1800")
        assert "all patients" in trial
        assert "n too small" in trial
        seen(page, f"--screenshot={shot}", "--window-size=1500,3600")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    # The shade of the pick and of trained parts is drawn by our plots alone.
    blue = np.array((0x0B, 0x5F, 0xA5))
    assert (np.abs(pixels - blue).max(axis=2) < 8).sum() > 300
