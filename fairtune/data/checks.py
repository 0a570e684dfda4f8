"""What is wrong with a data set, and what it can tell, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairtune.data.duplicates import across_splits
from fairtune.data.pack import Pack, Progress, open_pack
from fairtune.data.spec import DatasetSpec
from fairtune.data.split import PARTS
from fairtune.data.table import Table, group_codes, labels, load_table
from fairtune.data.text_report import (
    PromptReport,
    TextReport,
    describe_prompts,
    describe_texts,
)
from fairtune.data.values import BoolArray, IntArray
from fairtune.errors import FairtuneError, Problems, raise_all
from fairtune.evaluation.intervals import effective_patients
from fairtune.evaluation.power import Outlook, outlook
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum

EVERYONE = "all"
UNKNOWN = "unknown"
CHECK_SIZE = 64


@dataclass(frozen=True, eq=False)
class TargetReport:
    """What one target looks like.

    Attributes:
        table: Its table.
        cells: One line per attribute, group and split; see `describe`.
        outlooks: What the validation split can tell, by attribute; empty for lack of one.
        prompts: Its prompts, and its words in the texts.
    """

    table: Table
    cells: pd.DataFrame
    outlooks: Mapping[str, Outlook]
    prompts: PromptReport


@dataclass(frozen=True, eq=False)
class Report:
    """The result of a check that found no fault.

    Attributes:
        targets: By name of the target.
        duplicates: Columns `a`, `b` (ids), `split_a`, `split_b`, `distance`, `correlation`; None
            when images were not looked at.
        texts: What the texts are like, of the target with the most rows; None without any.
    """

    targets: Mapping[str, TargetReport]
    duplicates: pd.DataFrame | None
    texts: TextReport | None


def check(
    spec: DatasetSpec,
    *,
    targets: Sequence[str] = (),
    attributes: Sequence[str] = (),
    roots: Sequence[Path] = (),
    where: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    images: bool = True,
    cap_gib: float = 50.0,
    minimum: GroupMinimum | None = None,
    trials: int = 100,
    progress: Progress | None = None,
) -> Report:
    """Check metadata and images of a data set.

    Args:
        spec: The dataset spec.
        targets: Targets to look at; all when empty.
        attributes: Attributes to look at; all when empty.
        roots: Folders to search.
        where: Rows to use.
        cache: Root of the cache, where images are packed for the check; None leaves images alone.
        images: Whether to look at images.
        cap_gib: Cap of the cache.
        minimum: What a group must have; the default minimum when None.
        trials: Recipes that a search would compare.
        progress: Called while images are decoded.

    Raises:
        DataError: One fault.
        Problems: All faults of the metadata over all targets and attributes; when there are none,
            all faults of the images.
    """
    wanted = attributes or tuple(spec.attributes)
    tables = _tables(spec, targets or tuple(spec.targets), wanted, roots, where, cache)
    rule = minimum or GroupMinimum()
    reports = {
        name: TargetReport(
            table, describe(table), _outlooks(table, rule, trials), describe_prompts(table)
        )
        for name, table in tables.items()
    }
    # The target that leaves out the fewest rows shows the most images.
    widest = max(tables.values(), key=len)
    texts = describe_texts(widest)
    if cache is None or not images:
        return Report(reports, None, texts)
    pack = open_pack(
        widest,
        image_size=CHECK_SIZE,
        channels=1,
        cache=cache,
        cap_gib=cap_gib,
        progress=progress,
    )
    return Report(reports, duplicates(pack), texts)


def describe(table: Table) -> pd.DataFrame:
    """Return counts by attribute, group and split.

    Returns:
        Columns `attribute` and `group` (both `all` for the whole split; group `unknown` where
        the attribute is), `split`, `n`, `patients`, `effective` ((sum n)^2 / sum n^2 over the rows
        per patient), `share` (of the split's rows) and one `rate NAME` per class (binary: the
        positive one) or label.
    """
    split = table.frame["split"].to_numpy(dtype=str)
    patient = pd.factorize(table.frame["patient"])[0].astype(np.int64)
    columns = _indicators(table)
    lines = []
    for part in PARTS:
        inside = split == part
        if not inside.any():
            continue
        lines.append(_line(EVERYONE, EVERYONE, part, inside, inside, patient, columns))
        for name in table.attributes:
            codes = group_codes(table, name)
            groups = [*table.spec.attribute(name).names]
            for code, group in [*enumerate(groups), (-1, UNKNOWN)]:
                rows = inside & (codes == code)
                if code >= 0 or rows.any():
                    lines.append(_line(name, group, part, rows, inside, patient, columns))
    return pd.DataFrame(lines)


def duplicates(pack: Pack) -> pd.DataFrame:
    """Return pairs of nearly equal images in different splits, by id.

    This compares images with each other and shows no label: the lock on test rows is not touched.
    """
    frame = pack.table.frame
    split = frame["split"].to_numpy(dtype=str)
    codes = np.array([PARTS.index(part) for part in split], dtype=np.int64)
    pairs = across_splits(lambda rows: pack._pixels[rows], len(pack), codes)
    ids = frame["id"].to_numpy(dtype=str)
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    return pd.DataFrame(
        {
            "a": ids[a],
            "split_a": split[a],
            "b": ids[b],
            "split_b": split[b],
            "distance": pairs["distance"],
            "correlation": pairs["correlation"],
        }
    )


def _tables(
    spec: DatasetSpec,
    targets: Sequence[str],
    attributes: Sequence[str],
    roots: Sequence[Path],
    where: Mapping[str, Any] | None,
    cache: Path | None,
) -> dict[str, Table]:
    """Return the table of every target, or every fault of all of them, each once."""
    tables: dict[str, Table] = {}
    faults: dict[str, FairtuneError] = {}
    for target in targets:
        try:
            tables[target] = load_table(
                spec,
                target=target,
                attributes=attributes,
                roots=roots,
                where=where,
                cache=cache,
            )
        except Problems as error:
            faults |= {str(fault): fault for fault in error.problems}
        except FairtuneError as error:
            faults[str(error)] = error
    raise_all(f"dataset {spec.name}", list(faults.values()))
    return tables


def _outlooks(table: Table, minimum: GroupMinimum, trials: int) -> dict[str, Outlook]:
    rows = np.flatnonzero(table.frame["split"] == "val")
    if not len(rows):
        return {}
    found = _unscored(table, rows)
    return {
        name: outlook(found, name, minimum=minimum, trials=trials) for name in table.attributes
    }


def _unscored(table: Table, rows: IntArray) -> Predictions:
    """Return the rows as predictions whose scores say nothing."""
    label = labels(table)[rows]
    wide = (len(rows), len(table.classes))
    uniform = np.full(wide, 1 / len(table.classes))
    return Predictions(
        label=label,
        score=np.zeros(len(rows)) if table.task == "binary" else uniform,
        attributes={
            name: Attribute(name, table.spec.attribute(name).names, group_codes(table, name)[rows])
            for name in table.attributes
        },
        patient=pd.factorize(table.frame["patient"].iloc[rows])[0],
        task=table.task,
        targets=table.classes if table.task == "multilabel" else (),
    )


def _indicators(table: Table) -> dict[str, BoolArray]:
    label = labels(table)
    if table.task == "binary":
        return {table.classes[1]: label == 1}
    if table.task == "multilabel":
        return {name: label[:, j] == 1 for j, name in enumerate(table.classes)}
    return {name: label == code for code, name in enumerate(table.classes)}


def _line(
    attribute: str,
    group: str,
    split: str,
    rows: BoolArray,
    inside: BoolArray,
    patient: IntArray,
    columns: Mapping[str, BoolArray],
) -> dict[str, Any]:
    n = int(rows.sum())
    rates = {f"rate {name}": _share(column & rows, n) for name, column in columns.items()}
    return {
        "attribute": attribute,
        "group": group,
        "split": split,
        "n": n,
        "patients": len(np.unique(patient[rows])),
        "effective": effective_patients(patient[rows]),
        "share": _share(rows, int(inside.sum())),
        **rates,
    }


def _share(rows: BoolArray, n: int) -> float:
    return float(rows.sum()) / n if n else float("nan")
