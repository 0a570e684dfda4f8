"""The report in every form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairtune.errors import ConfigError
from fairtune.report.card import Card
from fairtune.report.card import write as write_card
from fairtune.report.files import put
from fairtune.report.markdown import markdown
from fairtune.report.plain import as_csv, as_json
from fairtune.report.render import page
from fairtune.report.sections import Section, sections
from fairtune.report.tables import Tables, load
from fairtune.study.overview import Overview

CARD = "card"
Writer = Callable[[Tables, list[Section], float | None], str]
WRITERS: dict[str, Writer] = {
    "html": lambda tables, parts, watts: page(tables, parts),
    "md": lambda tables, parts, watts: markdown(tables.summary, parts),
    "json": as_json,
    "csv": lambda tables, parts, watts: as_csv(tables),
}
FORMATS = (*WRITERS, CARD)


def write(
    view: Overview, to: Path | None = None, form: str = "html", watts: float | None = None
) -> Path:
    """Write the report of a study and return where it stands.

    Args:
        view: The study.
        to: The file; default `<out>/<study>/report.FORM`, and beside the model for a card.
        form: `html`, `md`, `json`, `csv` or `card`.
        watts: Draw of one device for the estimate of energy; default: a stated assumption.

    Raises:
        ConfigError: An unknown format.
        StudyError: Runs of the tested set are missing, or there is no model to write a card of.
        StorageError: The file cannot be written.
    """
    if form not in FORMATS:
        raise ConfigError("unknown format", where="--format", found=form, allowed=FORMATS)
    if form == CARD:
        return write_card(Card.of_study(view), to)
    path = to or view.place.folder / f"report.{form}"
    tables = load(view)
    content = WRITERS[form](tables, sections(view, tables, watts), watts)
    return put(path, content)
