"""Scoring a table of predictions from any model: read it, check it, compute every group figure."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairtune.errors import ConfigError, DataError, FairtuneError, did_you_mean, raise_all
from fairtune.evaluation.floor import PERMUTATIONS
from fairtune.evaluation.groups import cells
from fairtune.evaluation.metrics import METRICS, OF_MODELS, metric
from fairtune.evaluation.objectives import COMPOUNDS, check_metric
from fairtune.evaluation.predictions import Predictions, attribute_from_column, shown_rows
from fairtune.evaluation.resampling import REPLICATES
from fairtune.evaluation.rules import GroupMinimum, Threshold, ThresholdRule
from fairtune.evaluation.table import group_table
from fairtune.evaluation.thresholds import FOLDS, fit_threshold

if TYPE_CHECKING:
    import pandas as pd

READERS = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what.

    Args:
        label: One column, or one per target.
        score: One column, one per class, or one per target.
        attributes: Sensitive attributes.
        patient: The unit of resampling; every row its own when None.
        within: Strata to compute within.
    """

    label: tuple[str, ...]
    score: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    patient: str | None = None
    within: str | None = None

    def __post_init__(self) -> None:
        problems: list[FairtuneError] = []
        if not self.label:
            problems.append(ConfigError("name the label column", where="--label"))
        if not self.score:
            problems.append(ConfigError("name the score column(s)", where="--score"))
        if len(self.label) > 1 and len(self.score) != len(self.label):
            problems.append(
                ConfigError(
                    "several labels need one score column each",
                    where="--score",
                    found=len(self.score),
                    allowed=len(self.label),
                )
            )
        if self.within in self.attributes:
            problems.append(
                ConfigError(
                    "groups cannot be compared within strata of themselves",
                    where="--within",
                    found=self.within,
                    todo="leave it out of --attribute or of --within",
                )
            )
        raise_all("columns", problems)

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        extra = [c for c in (self.patient, self.within) if c is not None]
        return tuple(dict.fromkeys([*self.label, *self.score, *self.attributes, *extra]))


@dataclass(frozen=True, eq=False)
class Score:
    """The result of scoring a table.

    Args:
        rows: The long table of `group_table`.
        attributes: Attributes and crossings, in the order of the tables to print.
        notes: What the reader must know: threshold, resampling unit, what was left out.
    """

    rows: pd.DataFrame
    attributes: tuple[str, ...]
    notes: tuple[str, ...]

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as plain values, None for what is not defined."""
        multi = bool(self.rows["target"].notna().any())
        names = [c for c in self.rows.columns if c != "target" or multi]
        return [
            {name: _plain(value) for name, value in zip(names, row)}
            for row in self.rows[names].itertuples(index=False, name=None)
        ]


def score_table(
    path: Path,
    columns: Columns,
    *,
    crossings: Sequence[str] = (),
    metrics: Sequence[str] = (),
    rule: ThresholdRule | None = None,
    threshold_from: Path | None = None,
    minimum: GroupMinimum | None = None,
    replicates: int = REPLICATES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Score:
    """Compute every metric for every group of a table of predictions.

    Args:
        path: `.csv`, `.tsv` or `.parquet`, also `.gz`.
        columns: Which columns say what.
        crossings: Crossings beside those of all pairs of attributes, such as `age*sex*site`.
        metrics: Metrics, reductions or compounds; all that the scores allow when empty.
        rule: Threshold rule; Youden when None.
        threshold_from: Table with the same columns to fit the threshold on; it is then frozen.
            Without it a rule is cross-fitted on patient-disjoint folds of `path`.
        minimum: What a group must have.
        replicates: Draws of the bootstrap.
        permutations: Permutations of the noise floors.
        seed: Seed of folds, bootstrap and permutations.

    Raises:
        FairtuneError: Every fault of the tables and options at once.
    """
    for name in metrics:
        check_metric(name)
    p = load_predictions(path, columns)
    crossed = ["*".join(pair) for pair in combinations(columns.attributes, 2)]
    asked = [*columns.attributes, *crossed]
    for name in crossings:
        p.attribute(name)
        if _parts(name) not in [_parts(known) for known in asked]:
            asked.append("*".join(part.strip() for part in name.split("*")))
    rule = rule or ThresholdRule()
    threshold, told = _threshold(p, columns, rule, threshold_from)
    chosen, left_out = _usable(p, metrics)
    rows = group_table(
        p,
        chosen,
        asked,
        minimum=minimum or GroupMinimum(),
        threshold=threshold,
        replicates=replicates,
        permutations=permutations,
        seed=seed,
    )
    notes = [
        told,
        _unit(p, columns),
        *left_out,
        *_strata(p, minimum or GroupMinimum()),
        *_small(rows, minimum or GroupMinimum()),
    ]
    return Score(rows, tuple(asked), tuple(notes))


def load_predictions(path: Path, columns: Columns) -> Predictions:
    """Read and check a table.

    Raises:
        DataError: All faults of the table, with file, row and column; row 1 is the first below
            the header.
    """
    frame = read_table(path)
    raise_all(str(path), _missing(frame, path, columns))
    problems: list[FairtuneError] = []
    for name in columns.score:
        problems += _score_faults(frame[name], path)
    for name in columns.label:
        problems += _label_faults(frame[name], path, columns)
    for name in (*columns.attributes, *([columns.within] if columns.within else [])):
        try:
            attribute_from_column(frame[name], name)
        except DataError as fault:
            problems.append(
                DataError(
                    fault.what,
                    where=f"{path}, {fault.where}",
                    allowed=fault.allowed,
                    todo=fault.todo,
                )
            )
    raise_all(str(path), problems)
    return Predictions.from_frame(
        frame.assign(**{_ROW: np.arange(1, len(frame) + 1)}),
        label=columns.label[0] if len(columns.label) == 1 else columns.label,
        score=columns.score[0] if len(columns.score) == 1 else columns.score,
        attributes=columns.attributes,
        patient=columns.patient,
        within=columns.within,
        row=_ROW,
    )


_ROW = "__row__"


def read_table(path: Path) -> pd.DataFrame:
    """Read `.csv`, `.tsv` or `.parquet`, compressed with gzip or not.

    Raises:
        DataError: A file that is absent, empty, of another kind or not readable as what it says.
    """
    import pandas as pd

    packed = path.suffix == ".gz"
    kind = Path(path.stem).suffix if packed else path.suffix
    if kind not in READERS:
        raise DataError(
            "cannot tell the format of the table", where=path, allowed=[*READERS, "each also .gz"]
        )
    if not path.is_file():
        raise DataError("no such file", where=path)
    try:
        raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        if kind == ".parquet":
            frame = pd.read_parquet(io.BytesIO(raw))
        else:
            frame = pd.read_csv(io.BytesIO(raw), sep="," if kind == ".csv" else "\t")
    except (OSError, ValueError, EOFError) as fault:
        raise DataError(f"cannot be read as {kind[1:]}: {fault}", where=path) from None
    if not len(frame):
        raise DataError("the table has no rows", where=path)
    return frame


def _missing(frame: pd.DataFrame, path: Path, columns: Columns) -> list[FairtuneError]:
    known = [str(c) for c in frame.columns]
    return [
        DataError(
            "no such column", where=path, found=name, allowed=known, todo=did_you_mean(name, known)
        )
        for name in columns.names
        if name not in known
    ]


def _score_faults(column: pd.Series[Any], path: Path) -> list[FairtuneError]:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(numbers)
    if not bad.any():
        if column.dtype.kind in "OSU" or not pd.api.types.is_numeric_dtype(column.dtype):
            return [DataError("scores must be numbers", where=f"{path}, column {column.name}")]
        return []
    return [
        DataError(
            "scores must be finite numbers",
            where=f"{path}, column {column.name}",
            found=f"rows {shown_rows(np.flatnonzero(bad) + 1)}",
            todo="predict these rows, or remove them and say so",
        )
    ]


def _label_faults(column: pd.Series[Any], path: Path, columns: Columns) -> list[FairtuneError]:
    multiclass = len(columns.label) == 1 and len(columns.score) > 1
    top = len(columns.score) - 1 if multiclass else 1
    wrong = ~column.isin(range(top + 1)).to_numpy()
    if not wrong.any():
        return []
    return [
        DataError(
            "labels must be class numbers",
            where=f"{path}, column {column.name}",
            found=f"rows {shown_rows(np.flatnonzero(wrong) + 1)}: "
            + ", ".join(sorted({str(v) for v in column[wrong]})[:5]),
            allowed=f"0 to {top}" + (", one score column per class" if multiclass else ""),
            todo="code the label as numbers first",
        )
    ]


def _parts(name: str) -> frozenset[str]:
    return frozenset(part.strip() for part in name.split("*"))


def _threshold(
    p: Predictions, columns: Columns, rule: ThresholdRule, source: Path | None
) -> tuple[Threshold, str]:
    if p.task == "multiclass":
        return 0.5, "decisions: the class of highest score; no threshold"
    if source is not None:
        fitted = fit_threshold(load_predictions(source, replace(columns, within=None)), rule)
        shown = ", ".join(f"{t:.4g}" for t in np.atleast_1d(fitted))
        return fitted, f"threshold: {rule} fitted on {source.name}, frozen at {shown}"
    if rule.kind == "fixed":
        return rule, f"threshold: {rule.level:g}, given"
    return rule, (
        f"threshold: {rule}, cross-fitted on {FOLDS} patient-disjoint folds of this table; "
        "give --threshold-from for one fitted on validation"
    )


def _usable(p: Predictions, metrics: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the metrics to compute and a note on those that the scores do not allow."""
    if metrics:
        return list(metrics), []
    every = [*OF_MODELS, *COMPOUNDS]
    if not ((p.score < 0) | (p.score > 1)).any():
        return every, []
    usable = [name for name in every if name in COMPOUNDS or not metric(name).probability]
    dropped = ", ".join(name for name in every if name not in usable)
    return usable, [f"scores lie outside [0, 1], so these are left out: {dropped}"]


def _unit(p: Predictions, columns: Columns) -> str:
    patients = len(np.unique(p.patient))
    if columns.patient is None:
        return f"{len(p)} rows, each taken as its own patient; give --patient if patients repeat"
    return f"{len(p)} rows of {patients} patients (column {columns.patient})"


def _strata(p: Predictions, minimum: GroupMinimum) -> list[str]:
    """Return the strata with the weights their values are averaged by."""
    if p.strata is None:
        return []
    one = p.per_target()[0]
    used = cells(one, METRICS["auc"], minimum)
    shown = ", ".join(f"{cell.name} {cell.weight:.3f}" for cell in used)
    absent = [name for name in p.strata.names if name not in [cell.name for cell in used]]
    left = f"; too small: {', '.join(absent)}" if absent else ""
    return [f"within {p.strata.name}, averaged with weights {shown}{left} (for the AUC)"]


def _small(rows: pd.DataFrame, minimum: GroupMinimum) -> list[str]:
    """Return a note on groups that are too small for every metric asked."""
    groups = rows[rows["group"].notna() & (rows["group"] != "unknown")]
    if not len(groups):
        return []
    best = groups.groupby(["attribute", "group"], sort=False)["eligible"].any()
    names = [f"{group} ({attribute})" for attribute, group in best[~best].index.tolist()]
    if not names:
        return []
    return [f"too small for any figure (minimum {minimum}): {', '.join(names)}"]


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
