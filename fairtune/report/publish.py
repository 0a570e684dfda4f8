"""Our figures, notes and files in a study, as optuna-dashboard shows them.

Everything goes through the dashboard's own functions into attributes of the studies; no trial is
touched, so a study may be worked on meanwhile. Writing again replaces: nothing grows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from fairtune import store
from fairtune.errors import ConfigError, FairtuneError, StorageError
from fairtune.report import notes
from fairtune.report.figure import FONT, INK, Figure
from fairtune.report.figures import forest, masks, tradeoff
from fairtune.report.render import render
from fairtune.report.tables import Tables, load
from fairtune.study.ledger import Ledger
from fairtune.study.overview import PHASES, Overview
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH, Row

SHOWN: Mapping[str, Callable[[Tables], Figure | None]] = {
    "tradeoff": tradeoff.figure,
    "masks": masks.figure,
    "forest": forest.figure,
}
"""Figures of the report that a study gets."""
PAGE = "report.html"
LIMIT = 100_000
"""Most bytes of a figure: the page reads all of them at every refresh."""
HEIGHT = 450
"""Height of a figure in pixels: its panel on the page has no room for more."""
MOST_LABELS = 24
FOLDER = "artifacts"
PREFIX = "fairtune-"
_FEWEST_ROWS = 10


@dataclass(frozen=True)
class Published:
    """What was written into a study.

    Attributes:
        study_id: Its number in the storage, as in the address of its page.
        figures: Names of the figures that were written.
        notes: Number of notes that were written; those that say all there is are left as they are.
        files: Names of the artefacts.
        said: What could not be done, and why.
    """

    study_id: int
    figures: tuple[str, ...]
    notes: int
    files: tuple[str, ...]
    said: tuple[str, ...]


def publish(place: Place) -> Published:
    """Write figures, notes and files of a study.

    A storage that takes no writes leaves everything as it was and is told in `said`.

    Raises:
        ConfigError: optuna-dashboard is not installed.
        StudyError: There is no such study.
        StorageError: The storage cannot be reached.
    """
    require()
    view = Overview.load(place)
    said: list[str] = []
    figures: list[str] = []
    files: list[str] = []
    written = 0
    with Ledger.open(place.url, place.name) as ledger:
        study = ledger.optuna_study(SEARCH)
        try:
            with _writing(view.url):
                written = _save_notes(view, ledger)
                tables = _tables(view, said)
                if tables is not None:
                    figures = _save_figures(view, study, tables, said)
                    files = _save_files(view, study, tables, said)
        except StorageError as error:
            said.append(str(error))
        return Published(study._study_id, tuple(figures), written, tuple(files), tuple(said))


def require() -> None:
    """Raise ConfigError unless optuna-dashboard is installed."""
    try:
        import optuna_dashboard  # noqa: F401
    except ImportError:
        raise ConfigError(
            "optuna-dashboard is not installed", todo="pip install 'fairtune[dashboard]'"
        ) from None


@contextlib.contextmanager
def _writing(url: str) -> Iterator[None]:
    """Say in one sentence that a storage takes no writes."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        cause = str(getattr(error.__cause__, "orig", error.__cause__) or error).lower()
        refused = ("read-only", "readonly", "permission denied", "command denied")
        if not any(word in cause for word in refused):
            raise StorageError(
                "the storage did not take figures and notes", where=url, found=cause.split("\n")[0]
            ) from None
        raise StorageError(
            "the storage can only be read: figures and notes stay as they were",
            where=url,
            todo="give --storage with an account that may write to refresh them",
        ) from None


# Figures


def _tables(view: Overview, said: list[str]) -> Tables | None:
    try:
        return load(view)
    except FairtuneError as error:
        said.append(f"figures stay as they were: {error}")
        return None


def _save_figures(
    view: Overview, study: optuna.Study, tables: Tables, said: list[str]
) -> list[str]:
    from optuna_dashboard import save_plotly_graph_object

    # Without its runs a study has figures without intervals: not in place of better ones.
    attrs = study._storage.get_study_system_attrs(study._study_id)
    poorer = tables.run is None
    saved = []
    for name in SHOWN:
        kept = any(f":{PREFIX}{name}:" in key for key in attrs)
        plot = None if poorer and kept else drawn(name, tables)
        if plot is not None:
            save_plotly_graph_object(study, plot, graph_object_id=f"{PREFIX}{name}")
            saved.append(name)
        elif poorer and kept:
            said.append(f"figure {name} stays as it was: the runs are not in the results folder")
    return saved


def drawn(name: str, tables: Tables, limit: int = LIMIT) -> go.Figure | None:
    """Return a figure of the report for the dashboard, None where there is nothing to draw.

    It stands alone there, on a page of either colour, and is at most `limit` bytes: single cells
    lose their words first, then the worst recipes their rows.
    """
    rows = len(tables.masks)
    while True:
        figure = SHOWN[name](replace(tables, masks=tables.masks.head(rows)))
        if figure is None:
            return None
        plot = _alone(figure)
        if _bytes(plot) > limit:
            plot = _lighter(plot)
        if _bytes(plot) <= limit:
            return plot
        if name != "masks" or rows <= _FEWEST_ROWS:
            return None
        rows = max(_FEWEST_ROWS, rows // 2)


def _bytes(plot: go.Figure) -> int:
    return len(str(plot.to_json()))


def _alone(figure: Figure) -> go.Figure:
    plot = go.Figure(figure.plot)
    top = int(plot.layout.margin.t or 0) + 56
    plot.update_layout(
        title={
            "text": f"<b>{figure.title}</b>",
            "font": {"size": 16, "color": INK, "family": FONT},
        },
        title_x=0.01,
        title_xref="container",
        title_y=0.98,
        title_yanchor="top",
        margin_t=top,
        height=HEIGHT,
        paper_bgcolor="#FFFFFF",
        plot_bgcolor="#FFFFFF",
    )
    _fewer_labels(plot.layout.yaxis)
    return plot


def _fewer_labels(axis: Any) -> None:
    values, texts = axis.tickvals or (), axis.ticktext or ()
    step = -(-len(values) // MOST_LABELS)
    if step > 1:
        # The pick, in bold, keeps its name whatever stands beside it.
        kept = [i for i, t in enumerate(texts) if i % step == 0 or t.startswith("<b>")]
        axis.update(tickvals=[values[i] for i in kept], ticktext=[texts[i] for i in kept])


def _lighter(plot: go.Figure) -> go.Figure:
    for trace in plot.data:
        if trace.type == "heatmap":
            trace.update(
                customdata=None,
                hovertemplate="%{y}: %{z}<extra></extra>",
                z=np.asarray(trace.z, dtype=np.uint8),
            )
        elif trace.type == "scatter":
            for axis in ("x", "y"):
                if trace[axis] is None:
                    continue
                with contextlib.suppress(TypeError, ValueError):
                    trace[axis] = np.asarray(trace[axis], dtype=np.float32)
    return plot


# Notes


@dataclass(frozen=True)
class _Attrs:
    """Attributes of a study as of one reading, asked for like a storage."""

    attrs: Mapping[str, Any]

    def get_study_system_attrs(self, study_id: int) -> Mapping[str, Any]:
        return self.attrs


@dataclass(frozen=True)
class _Noted:
    """What the dashboard's functions ask of a trial; a real one would be a draw of a sampler."""

    study: optuna.Study
    storage: Any
    _trial_id: int


def _save_notes(view: Overview, ledger: Ledger) -> int:
    from optuna_dashboard import get_note, save_note

    written = 0
    for phase in PHASES:
        ended = {row.number: row for row in view.rows[phase] if _has_ended(row)}
        if not ended:
            continue
        study = ledger.optuna_study(phase)
        attrs = _Attrs(study._storage.get_study_system_attrs(study._study_id))
        for trial in study.get_trials(deepcopy=False):
            row = ended.get(trial.number)
            if row is None:
                continue
            old = get_note(cast(optuna.Trial, _Noted(study, attrs, trial._trial_id)))
            with_run = row.state == "complete" and view.stored(row) is not None
            if notes.is_current(old, row, with_run=with_run):
                continue
            mark = notes.mark_of(row, with_run=with_run)
            body = notes.merged(old, notes.note(view, row), mark)
            noted = _Noted(study, study._storage, trial._trial_id)
            save_note(cast(optuna.Trial, noted), body)
            written += 1
    return written


def _has_ended(row: Row) -> bool:
    return row.state in ("complete", "pruned", "failed")


# Files


def artifact_folder(place: Place) -> Path | None:
    """Return where artefacts of the studies of a results folder lie; None without such a folder.

    One folder for all studies: the dashboard serves one, and names in it are unique.
    """
    return place.out / FOLDER if place.out.is_dir() else None


def _save_files(view: Overview, study: optuna.Study, tables: Tables, said: list[str]) -> list[str]:
    folder = artifact_folder(view.place)
    if folder is None or tables.run is None:
        said.append("no report and recipe: the runs are not in the results folder")
        return []
    page = view.place.folder / PAGE
    with store.writing(folder, what="artefacts"):
        folder.mkdir(parents=True, exist_ok=True)
        page.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomic(page, render(view, tables).encode())
    files = [page, tables.run.folder / "recipe.json"]
    known = _uploaded(study)
    for path in files:
        if path.name in known:
            # The same artefact with new content: uploading would add one at every call.
            store.write_atomic(folder / known[path.name], path.read_bytes())
        else:
            upload_artifact(
                artifact_store=FileSystemArtifactStore(folder),
                file_path=str(path),
                study_or_trial=study,
            )
    return [path.name for path in files]


def _uploaded(study: optuna.Study) -> dict[str, str]:
    """Return the id of every artefact of a study by file name."""
    attrs = study._storage.get_study_system_attrs(study._study_id)
    found = [json.loads(v) for name, v in attrs.items() if name.startswith("artifacts:")]
    # Optuna's own list fails over one that was deleted from the dashboard: its entry is null.
    return {str(meta["filename"]): str(meta["artifact_id"]) for meta in found if meta}
