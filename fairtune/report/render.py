"""The page: sections into one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from fairtune.report.figure import DARK, Figure
from fairtune.report.grid import Grid, plain_grid
from fairtune.report.scored import REPLICATES
from fairtune.report.sections import Section, sections
from fairtune.report.tables import Tables
from fairtune.report.words import sentence
from fairtune.study.overview import Overview


def render(view: Overview, tables: Tables, watts: float | None = None) -> str:
    """Return the page as HTML.

    Args:
        view: The study.
        tables: Its tables.
        watts: See `costs_grid.costs`.
    """
    return page(tables, sections(view, tables, watts))


def page(tables: Tables, parts: Sequence[Section]) -> str:
    """Return the page of given sections as HTML."""
    content = {"s": tables.summary, "t": tables, "sentence": sentence}
    return document("page.html.j2", content, parts)


def document(template: str, content: Mapping[str, Any], parts: Sequence[Section]) -> str:
    """Return sections as one HTML file that needs nothing else.

    Args:
        template: The template, an extension of `base.html.j2`.
        content: What it knows beside the sections.
        parts: The sections.
    """
    plotly_js = plotly.offline.get_plotlyjs()
    script = f"const DARK = {json.dumps(DARK)};\n{_asset('page.js')}"
    shared = {
        "sections": parts,
        "figure_json": as_json,
        "figure_grid": as_grid,
        "replicates": REPLICATES,
        "css": Markup(_asset("page.css")),
        "plotly_js": Markup(plotly_js),
        "page_js": Markup(script),
        "hashes": " ".join(_sha(text) for text in (plotly_js, script)),
    }
    return _environment().get_template(template).render({**shared, **content})


def as_json(figure: Figure) -> Markup:
    """Return the plot as JSON that is safe inside a script element."""
    text = str(figure.plot.to_json(engine="json"))
    # A script element ends at the first "</", whatever it holds.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def as_grid(figure: Figure) -> Grid | None:
    """Return the figure as a table, or None where a table beside it says the same."""
    return plain_grid(figure.data, f"{figure.title}: figures") if len(figure.data) else None


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
