"""A study as tidy tables for other tools: trials, groups, epochs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fairtune import store
from fairtune.errors import ConfigError, FairtuneError, StudyError, did_you_mean
from fairtune.evaluation.scoring import group_table
from fairtune.experiment.stored import PAID, USED, StoredRun
from fairtune.report.scored import REPLICATES, TEST, VALIDATION, attributes_of, metrics_of
from fairtune.report.words import FEW
from fairtune.study.outcome import _threshold
from fairtune.study.overview import LABEL, PHASES, Overview
from fairtune.study.rank import DEGENERATE
from fairtune.study.rows import FINAL, Row, results, valid

Format = Literal["csv", "parquet", "json"]
RUN = ("phase", "trial", "label", "key")
"""Columns by which the rows of one run are found in every table."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: In the order of the tables.
        rows: Number of rows of each.
        missing: Finished runs whose folder is gone, so that no figure of theirs was written.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    missing: int


def export(view: Overview, folder: Path, tables: Sequence[str], format_: str) -> Exported:
    """Write tables of a study into `folder`, each whole or not at all.

    Args:
        view: The study.
        folder: Made if need be.
        tables: Of `TABLES`.
        format_: Of `FORMATS`.

    Raises:
        ConfigError: An unknown table or format.
        StudyError: A table needs the runs, and the results folder has none of them.
        StorageError: The files cannot be written.
    """
    for word, known in ((format_, FORMATS), *((name, TABLES) for name in tables)):
        if word not in known:
            raise ConfigError(
                "cannot export this", found=word, allowed=known, todo=did_you_mean(word, known)
            )
    done = [row for phase in PHASES for row in results(view.rows[phase])]
    missing = sum(view.stored(row) is None for row in done)
    if missing == len(done) > 0 and set(tables) - {"trials"}:
        raise StudyError(
            "the runs of this study are not in the results folder",
            where=view.place.out,
            found=f"none of {len(done)} finished runs",
            todo="give --out, or only --tables trials, which needs the storage alone",
        )
    frames = {name: TABLES[name](view) for name in dict.fromkeys(tables)}
    contents = {f"{name}.{format_}": FORMATS[format_](f) for name, f in frames.items()}
    with store.writing(folder, what="the tables"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        store.write_atomic(folder / name, content)
    files = tuple(folder / name for name in contents)
    return Exported(files, tuple(len(frame) for frame in frames.values()), missing)


def trial_table(view: Overview) -> pd.DataFrame:
    """Return one row per attempt of a run in every phase.

    Columns: those of `RUN`, `attempt`, `state`, `kind`, `digest`, `replicate`, `value.OBJECTIVE`,
    `constraint.NAME` (above 0 when violated), `param.NAME`, `reason`, `degenerate`, `mask`,
    `share`, `seconds`, `epochs`, `queries_used` and `queries_paid` (of the run's edit; missing
    without one), `started`, `finished`.
    """
    rows = [row for phase in PHASES for row in valid(view.rows[phase])]
    objectives = [str(o) for o in view.judge.objectives]
    frame = pd.DataFrame([_trial(row, objectives) for row in rows])
    heads = [c for c in frame.columns if not c.startswith(("value.", "constraint.", "param."))]
    at = heads.index("reason") if heads else 0
    kinds = [[c for c in frame.columns if c.startswith(p)] for p in ("value.", "constraint.")]
    params = sorted(c for c in frame.columns if c.startswith("param."))
    return frame[[*heads[:at], *kinds[0], *kinds[1], *params, *heads[at:]]]


def _trial(row: Row, objectives: Sequence[str]) -> dict[str, Any]:
    values = row.values or (None,) * len(objectives)
    return {
        **_of_run(row),
        "attempt": row.attempt + 1,
        "state": row.state,
        "kind": row.kind,
        "digest": row.digest,
        "replicate": row.replicate,
        **{f"value.{name}": value for name, value in zip(objectives, values)},
        **{f"constraint.{name}": value for name, value in row.constraints.items()},
        **{f"param.{name}": value for name, value in row.params.items()},
        "reason": row.reason,
        "degenerate": row.attrs.get(DEGENERATE),
        "mask": row.attrs.get("mask"),
        "share": row.attrs.get("trainable_share"),
        "seconds": row.attrs.get("seconds"),
        "epochs": row.attrs.get("epochs", row.attrs.get("epoch")),
        USED: row.attrs.get(USED),
        PAID: row.attrs.get(PAID),
        "started": None if row.started is None else row.started.isoformat(),
        "finished": None if row.finished is None else row.finished.isoformat(),
    }


def _of_run(row: Row) -> dict[str, Any]:
    label = row.attrs.get(LABEL)
    return dict(zip(RUN, (row.phase, row.number + 1, label, row.key)))


def groups_table(view: Overview) -> pd.DataFrame:
    """Return every figure of every group of every finished run, small cells suppressed.

    Search, baseline and confirm runs on validation at the kept epoch, thresholds cross-fitted;
    final runs on test at their frozen threshold.

    Columns: those of `RUN`, `split`, `metric`, `attribute` and `group` (missing for overall
    figures; `group` for reductions), `target`, `value`, `low`, `high` (95 %), `n`, `positives`.
    A figure of a group with fewer than 5 positives or negatives is missing, and so are counts
    from 1 to 4 and the next larger one where the total would give the hidden one away.
    """
    frames = []
    for row, run in _finished(view):
        split = TEST if row.phase == FINAL else VALIDATION
        if split == TEST and not run.has_test:
            continue
        frame = group_table(
            run.test() if split == TEST else run.validation(view.judge.epoch_of(run)),
            metrics_of(view),
            attributes_of(view),
            minimum=view.judge.validation.minimum,
            threshold=_threshold(run) if split == TEST else view.judge.validation.rule,
            floors=False,
            replicates=REPLICATES,
        )
        frames.append(suppressed(frame).assign(**_of_run(row), split=split))
    columns = [
        *RUN, "split", "metric", "attribute", "group", "target", "value", "low", "high", "n",
        "positives",
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)[columns] if frames else _empty(columns)


def suppressed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a group table without figures and counts of few patients."""
    frame = frame.copy()
    counts = {
        "n": frame["n"],
        "positives": frame["positives"],
        "negatives": frame["n"] - frame["positives"],
    }
    grouped = frame["group"].notna()
    few = grouped & np.logical_or.reduce([values < FEW for values in counts.values()])
    frame.loc[few, ["value", "low", "high"]] = np.nan
    frame[["n", "positives"]] = frame[["n", "positives"]].astype(float)
    hidden = pd.Series(False, index=frame.index)
    keys = ["metric", "attribute", "target"]
    for _, own in frame[grouped].groupby(keys, dropna=False, sort=False):
        for values in counts.values():
            hidden |= _hidden(values[own.index]).reindex(frame.index, fill_value=False)
    frame.loc[hidden, ["n", "positives"]] = np.nan
    return frame


def _hidden(counts: pd.Series[int]) -> pd.Series[bool]:
    """Return which counts of one attribute are withheld: the small, and one more if it is alone.

    The total of all groups is known, so that one missing count alone could be reckoned.
    """
    small = (counts > 0) & (counts < FEW)
    if small.sum() == 1 and (counts >= FEW).any():
        small |= counts.index == counts[counts >= FEW].idxmin()
    return small


def epochs_table(view: Overview) -> pd.DataFrame:
    """Return one row per epoch of every finished run.

    Columns: those of `RUN`, `epoch` (from 1), `train_loss`, `val_loss`, `value.OBJECTIVE` on
    validation (missing where it cannot be computed), `seconds`, `images`.
    """
    names = [f"value.{o}" for o in view.judge.objectives]
    columns = [*RUN, "epoch", "train_loss", "val_loss", *names, "seconds", "images"]
    rows = []
    for row, run in _finished(view):
        known = len(run.scores) if run.recipe.fit.rows == "train" else 0
        for epoch in run.epochs.to_dict("records"):
            number = int(epoch["epoch"])
            values = _objectives(view, run, number) if number <= known else {}
            losses = {str(name): value for name, value in epoch.items()}
            rows.append({**_of_run(row), **losses, **values})
    return pd.DataFrame(rows, columns=columns)


def _objectives(view: Overview, run: StoredRun, epoch: int) -> dict[str, float]:
    try:
        values = view.judge.values(run.validation(epoch))
    except FairtuneError:
        return {}
    return {f"value.{name}": value for name, value in values.items()}


def _finished(view: Overview) -> Iterator[tuple[Row, StoredRun]]:
    for phase in PHASES:
        for row in results(view.rows[phase]):
            run = view.stored(row)
            if run is not None:
                yield row, run


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _parquet(frame: pd.DataFrame) -> bytes:
    # A column of a parquet file has one type; choices may be words, numbers and truth values.
    mixed = [
        name
        for name in frame.columns
        if frame[name].dtype == object and len({type(v) for v in frame[name].dropna()}) > 1
    ]
    plain = frame.astype(dict.fromkeys(mixed, "string"))
    file = io.BytesIO()
    plain.to_parquet(file, index=False)
    return file.getvalue()


def _json(frame: pd.DataFrame) -> bytes:
    rows = [{str(k): _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
    return (json.dumps(rows, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is None or value is pd.NA or value != value else value


TABLES: Mapping[str, Callable[[Overview], pd.DataFrame]] = {
    "trials": trial_table,
    "groups": groups_table,
    "epochs": epochs_table,
}
FORMATS: Mapping[str, Callable[[pd.DataFrame], bytes]] = {
    "csv": _csv,
    "parquet": _parquet,
    "json": _json,
}
