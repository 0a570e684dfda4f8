"""One row per image: ids, label, attributes as named groups, split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairtune.config import digest
from fairtune.data.gather import gather
from fairtune.data.images import ImageFiles
from fairtune.data.labels import MISSING, Task
from fairtune.data.locate import Found, find
from fairtune.data.raw import Origin, Raw
from fairtune.data.row_faults import id_faults, name_faults
from fairtune.data.rules import condition_of, filled
from fairtune.data.spec import DatasetSpec
from fairtune.data.split import (
    PARTS,
    hash_split,
    patients_in_two,
    split_digest,
)
from fairtune.data.subsample import Cell, Rows, draw
from fairtune.data.text import Wording, with_texts
from fairtune.data.values import BoolArray, IntArray, shown, shown_cells
from fairtune.errors import DataError, FairtuneError, raise_all

PROTOCOL = 1
_LISTED = 100


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a data set as one target and some attributes see them.

    Attributes:
        spec: The dataset spec.
        target: Name of the target.
        task: binary, multiclass or multilabel.
        classes: Class names by code; for a multilabel target the names of the labels.
        attributes: Names of the attributes, in the order asked for.
        frame: Columns `id`, `patient`, `image` (text), `label` (int; for a multilabel target one
            `label_<name>` each), one Categorical per attribute in the spec's order of groups with
            NaN for unknown, `split` (train, val, test), and `text` as it is used where the spec
            has one. Rows keep the order of the metadata.
        files: The image files.
        folder: Where the metadata was found.
        origin: File and line of each row.
        columns: Columns of the metadata, derived ones too: what `where` may name.
        split_hash: Digest of the split of the whole data set, before `where` and before rows
            without a label were left out, so that it is one for all targets.
        dropped: Rows left out, by reason.
        cells: What was drawn of each group with each class, where the spec draws rows.
        wording: What was done to the texts, also of rows left out for lack of one.
    """

    spec: DatasetSpec
    target: str
    task: Task
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    frame: pd.DataFrame
    files: ImageFiles
    folder: Path
    origin: Origin
    columns: tuple[str, ...]
    split_hash: str
    dropped: Mapping[str, int]
    cells: tuple[Cell, ...] = ()
    wording: Wording | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of `frame` that hold labels."""
        if self.task == "multilabel":
            return tuple(f"label_{name}" for name in self.classes)
        return ("label",)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """One text per row that changes with the content of its image file.

        Raises:
            DataError: Images are missing, or a name leads out of the data set's folder.
        """
        names = self.frame["image"].tolist()
        marks = self.files.marks(names)
        lost = np.array([mark is None for mark in marks], dtype=bool)
        if lost.any():
            missing = [name for name, gone in zip(names, lost, strict=True) if gone]
            raise DataError(
                f"{len(missing)} of {len(names)} images are missing",
                where=self.origin.where(lost),
                found=shown(missing, _LISTED),
                allowed=f"files in {', '.join(str(p) for p in self.files.looked)}",
            )
        return tuple(str(mark) for mark in marks)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of rows, labels, groups, split, image contents, reader and resize rule."""
        groups = {name: list(self.spec.attribute(name).names) for name in self.attributes}
        columns = {
            str(name): (column.cat.codes if name in groups else column).tolist()
            for name, column in self.frame.items()
        }
        return digest(
            {
                "protocol": PROTOCOL,
                "columns": columns,
                "groups": groups,
                "classes": list(self.classes),
                "marks": list(self.marks),
                "reader": self.spec.to_json()["reader"],
                "resize": self.spec.resize,
            }
        )


def load_table(
    spec: DatasetSpec,
    *,
    target: str,
    attributes: Sequence[str],
    roots: Sequence[Path],
    where: Mapping[str, Any] | None = None,
    text: bool = False,
    cache: Path | None = None,
) -> Table:
    """Read, check and split the metadata of a data set.

    Args:
        spec: The dataset spec.
        target: Name of the label rule.
        attributes: Names of attribute rules.
        roots: Folders to search before what is shipped, e.g. `data_roots()`.
        where: Rows to use, as `{column: value or [values]}`.
        text: Whether texts are used: rows without one are then refused or left out, as the spec
            says.
        cache: Root of the cache, which keeps what thousands of small files say; None reads them
            every time.

    Raises:
        ConfigError: The spec has no such target or attribute, or no text where texts are used.
        DataError: One fault of the data.
        Problems: Several faults of the data, all at once.
    """
    rule = spec.target(target)
    if text:
        spec.texts()
    groups = {name: spec.attribute(name) for name in attributes}
    found = find(spec, roots)
    read = gather(found, cache)
    reads = [(f"targets.{target}", rule.reads())]
    reads += [(f"attributes.{name}", (group.column,)) for name, group in groups.items()]
    raw = _prepared(spec, found, read, reads)
    columns, codes, problems = _columns(spec, found, raw)
    drawn, cells, faults = _drawn(spec, raw, columns, codes)
    problems += faults
    label, faults = rule.encode(raw, target)
    problems += faults
    for name, group in groups.items():
        columns[name], faults = group.encode(raw, name)
        problems += faults
    raise_all(f"dataset {spec.name}", problems)
    kept, dropped = _kept(raw, label, codes, drawn, where)
    dropped["filter"] = len(read) - len(raw)
    wording = None
    if spec.text is not None:
        before = int(kept.sum())
        columns["text"], kept, wording = with_texts(spec.text, raw, kept, text)
        dropped["text"] = before - int(kept.sum())
    frame = _frame(columns, label, codes, rule.class_names(target), rule.task)
    frame = frame[kept].reset_index(drop=True)
    raise_all(f"dataset {spec.name}", _empty_splits(spec, frame, found))
    inside = (codes >= 0) & drawn
    return Table(
        spec=spec,
        target=target,
        task=rule.task,
        classes=rule.class_names(target),
        attributes=tuple(groups),
        frame=frame,
        files=ImageFiles.of(found.layout.images, found.folder),
        folder=found.folder,
        origin=raw.origin.keep(kept),
        columns=tuple(map(str, raw.frame.columns)),
        split_hash=split_digest(columns["id"][inside], codes[inside]),
        dropped={reason: n for reason, n in dropped.items() if n},
        cells=cells,
        wording=wording,
    )


def _prepared(
    spec: DatasetSpec, found: Found, raw: Raw, reads: Sequence[tuple[str, Sequence[str]]]
) -> Raw:
    """Return `raw` with derived columns and without filtered rows, or every missing column."""
    wanted = spec.columns(found.layout)
    for field, columns in reads:
        for column in columns:
            wanted.setdefault(column, []).append(field)
    if spec.split.stratify is not None:
        for column in spec.targets[spec.split.stratify].reads():
            wanted.setdefault(column, []).append(f"targets.{spec.split.stratify}")
    if spec.subsample is not None:
        groups = spec.attributes[spec.subsample.attribute]
        wanted.setdefault(groups.column, []).append(f"attributes.{spec.subsample.attribute}")
        for column in spec.targets[spec.subsample.target].reads():
            wanted.setdefault(column, []).append(f"targets.{spec.subsample.target}")
    made: set[str] = set()
    for name, rule in spec.derive.items():
        for column in rule.columns():
            if column not in made:
                wanted.setdefault(column, []).append(f"derive.{name}")
        made.add(name)
    problems: list[FairtuneError] = [
        problem
        for column, fields in wanted.items()
        if column not in made and (problem := raw.missing(column, fields[0])) is not None
    ]
    raise_all(f"dataset {spec.name}", problems)
    for name, rule in spec.derive.items():
        raw = rule.apply(raw, name)
    for index, condition in enumerate(spec.filter):
        raw = raw.keep(condition.holds(raw, f"filter.{index}"))
    return raw


def _columns(
    spec: DatasetSpec, found: Found, raw: Raw
) -> tuple[dict[str, Any], IntArray, list[FairtuneError]]:
    """Return id, patient and image columns, split codes, and every fault."""
    columns: dict[str, Any] = {
        "id": raw.frame[spec.id].astype(str),
        "patient": raw.frame[spec.patient].astype(str),
        "image": pd.Series(filled(found.layout.images.name, raw, "images.name"), dtype=object),
    }
    problems = [*id_faults(spec, raw, columns), *name_faults(raw, columns["image"])]
    if spec.split.column is not None:
        codes, faults = spec.split.from_column(raw)
        problems += [*faults, *patients_in_two(raw, columns["patient"], codes)]
    elif spec.split.fractions is not None:
        strata = _strata(spec, raw)
        codes = hash_split(columns["patient"], strata, spec.split.fractions, spec.split.seed)
    else:
        codes = np.full(len(raw), PARTS.index(spec.split.all or "test"))
    return columns, codes, problems


def _strata(spec: DatasetSpec, raw: Raw) -> IntArray:
    if spec.split.stratify is None:
        return np.zeros(len(raw), dtype=np.int64)
    # A fault in this label is reported where the label itself is asked for.
    return spec.targets[spec.split.stratify].encode(raw, spec.split.stratify)[0]


def _drawn(
    spec: DatasetSpec, raw: Raw, columns: Mapping[str, Any], codes: IntArray
) -> tuple[BoolArray, tuple[Cell, ...], list[FairtuneError]]:
    """Return which rows the spec draws, its cells, and every fault."""
    rule = spec.subsample
    if rule is None:
        return np.ones(len(raw), dtype=bool), (), []
    target, attribute = spec.targets[rule.target], spec.attributes[rule.attribute]
    # Faults of label and groups are reported where they are asked for.
    label, _ = target.encode(raw, rule.target)
    groups, _ = attribute.encode(raw, rule.attribute)
    rows = Rows(
        ids=columns["id"].tolist(),
        patients=columns["patient"].tolist(),
        part=codes,
        group=np.asarray(groups.codes, dtype=np.int64),
        label=label,
        groups=attribute.names,
        classes=target.class_names(rule.target),
    )
    kept, cells, faults = draw(rule, rows)
    for fault in faults:
        fault.where = f"dataset {spec.name}: subsample"
    return kept, cells, faults


def _kept(
    raw: Raw,
    label: IntArray,
    codes: IntArray,
    drawn: BoolArray,
    where: Mapping[str, Any] | None,
) -> tuple[BoolArray, dict[str, int]]:
    """Return which rows stay, and how many left for which reason."""
    chosen = np.ones(len(raw), dtype=bool)
    for column, value in (where or {}).items():
        holds = condition_of(column, value).holds(raw, f"where.{column}")
        if not holds.any():
            raise DataError(
                f"'where' keeps no row: '{column}' never has this value",
                where=f"where.{column}",
                found=value,
                allowed=shown_cells(sorted(set(raw.frame[column]))),
            )
        chosen &= holds
    unlabelled = (label == MISSING).reshape(len(raw), -1).any(axis=1)
    counts = {
        "where": int((~chosen).sum()),
        "in no split": int((chosen & (codes < 0)).sum()),
        "subsample": int((chosen & (codes >= 0) & ~drawn).sum()),
        "no label": int((chosen & (codes >= 0) & drawn & unlabelled).sum()),
    }
    return chosen & (codes >= 0) & drawn & ~unlabelled, counts


def _frame(
    columns: Mapping[str, Any],
    label: IntArray,
    codes: IntArray,
    classes: Sequence[str],
    task: Task,
) -> pd.DataFrame:
    base = {name: columns[name] for name in ("id", "patient", "image")}
    text = {"text": columns["text"]} if "text" in columns else {}
    groups = {name: c for name, c in columns.items() if name not in (*base, *text)}
    if task == "multilabel":
        labels = {f"label_{name}": label[:, j] for j, name in enumerate(classes)}
    else:
        labels = {"label": label}
    split = np.array([*PARTS, ""], dtype=object)[codes]
    return pd.DataFrame({**base, **labels, **groups, "split": split, **text})


def _empty_splits(spec: DatasetSpec, frame: pd.DataFrame, found: Found) -> list[FairtuneError]:
    counts = {part: int((frame["split"] == part).sum()) for part in spec.split.declared()}
    return [
        DataError(
            f"the split '{part}' is empty",
            where=found.folder / found.layout.tables[0].place,
            found=counts,
            allowed="at least one row in every split that the spec declares",
            todo="check 'split', 'filter' and 'where'",
        )
        for part, n in counts.items()
        if n == 0
    ]


def group_codes(table: Table, name: str) -> IntArray:
    """Return `(n,)` group codes of attribute `name`, -1 where unknown."""
    return np.asarray(table.frame[name].cat.codes, dtype=np.int64)


def labels(table: Table) -> IntArray:
    """Return `(n,)` class codes, or `(n, t)` of 0/1 for a multilabel target."""
    values = table.frame[list(table.label_columns)].to_numpy(dtype=np.int64)
    return values if table.task == "multilabel" else values[:, 0]
