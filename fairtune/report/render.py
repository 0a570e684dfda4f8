"""The page: tables and figures into one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import plotly.offline
from markupsafe import Markup

from fairtune import store
from fairtune.report import grids, provenance, words
from fairtune.report.figure import DARK, Figure
from fairtune.report.figures import forest, history, learning, masks, roc, tradeoff
from fairtune.report.grid import Grid, plain_grid
from fairtune.report.scored import PERMUTATIONS, REPLICATES
from fairtune.report.tables import Tables, load
from fairtune.study.outcome import HARM
from fairtune.study.overview import Overview

FILE = "report.html"


def write(view: Overview, to: Path | None = None) -> Path:
    """Write the report of a study, whole or not at all, and return where it stands.

    Args:
        view: The study.
        to: The file; default `<out>/<study>/report.html`.

    Raises:
        StudyError: Runs of the tested set are missing.
        StorageError: The file cannot be written.
    """
    path = to or view.place.folder / FILE
    page = render(view, load(view)).encode()
    with store.writing(path.parent, what=path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomic(path, page)
    return path


@dataclass(frozen=True)
class Shown:
    """A figure with its plot as JSON that is safe inside a script element."""

    figure: Figure
    json: Markup
    grid: Grid | None


def render(view: Overview, tables: Tables) -> str:
    """Return the page as HTML."""
    script = _asset("page.js")
    plotly_js = plotly.offline.get_plotlyjs()
    dark = f"const DARK = {json.dumps(DARK)};\n{script}"
    run = tables.run
    label = tables.summary.pick or ""
    content = {
        "s": tables.summary,
        "t": tables,
        "words": words,
        "harm_words": words.harm_words(tables.objective),
        "objective_words": words.objective_words(tables.objective),
        "recipes": grids.recipes(tables) if len(tables.candidates) else None,
        "differences": grids.differences(tables),
        "harm": grids.harm(tables, HARM),
        "groups": _group_grids(tables),
        "decisions": _decision_grids(tables),
        "figures": {name: _shown(make(tables)) for name, make in FIGURES.items()},
        "costs": grids.costs(tables),
        "trials": grids.trials(tables) if len(tables.trials) else None,
        "recipe": None if run is None else provenance.recipe(run, view.units, label),
        "provenance": provenance.provenance(view, run),
        "replicates": REPLICATES,
        "permutations": PERMUTATIONS,
        "css": Markup(_asset("page.css")),
        "plotly_js": Markup(plotly_js),
        "page_js": Markup(dark),
        "hashes": " ".join(_sha(text) for text in (plotly_js, dark)),
    }
    return _environment().get_template("page.html.j2").render(content)


FIGURES: dict[str, Callable[[Tables], Figure | None]] = {
    "forest": forest.figure,
    "history": history.figure,
    "masks": masks.figure,
    "tradeoff": tradeoff.figure,
    "roc": roc.figure,
    "learning": learning.figure,
}


def _group_grids(tables: Tables) -> list[Grid]:
    """Return the group tables of the AUC and of the primary objective's own metric."""
    parts = [part.name for part in tables.objective.parts]
    metrics = list(dict.fromkeys(["auc", *parts]))
    return [g for a in tables.attributes for m in metrics for g in grids.groups(tables, a, m)]


def _decision_grids(tables: Tables) -> list[Grid]:
    """Return sensitivity and false-positive rate at the threshold, where not shown above."""
    parts = {part.name for part in tables.objective.parts}
    metrics = [m for m in ("tpr", "fpr") if m not in parts]
    return [g for a in tables.attributes for m in metrics for g in grids.groups(tables, a, m)]


def _shown(figure: Figure | None) -> Shown | None:
    if figure is None:
        return None
    text = str(figure.plot.to_json(engine="json"))
    # A script element ends at the first "</", whatever it holds.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    grid = plain_grid(figure.data, f"{figure.title}: figures") if len(figure.data) else None
    return Shown(figure, Markup(text), grid)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fairtune.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")


def _sha(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
