"""Tidy tables of the search: one row per trial, its mask, its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fairtune.adaptation.mask import Mask
from fairtune.adaptation.rules import Rule
from fairtune.experiment.stored import USED
from fairtune.models.units import Units
from fairtune.study.overview import Overview
from fairtune.study.rank import DEGENERATE, Ranked, ranked
from fairtune.study.rows import BASELINE, SEARCH, Row, current, edit_of, mitigations_of

NAN = float("nan")
POINTS = 200
"""Most points at which the incumbent is computed."""


def trial_frame(view: Overview) -> pd.DataFrame:
    """Return one row per run of search and baselines.

    Columns: `phase`, `number` (from 1), `state`, `kind`, `label`, `digest`, `value` (primary
    objective), `auc`, `fairness` (value of `fairness_name`), `share` (trained share of the
    parameters), `glyph`, `seconds`, `epochs`, `planned`, `degenerate`, `reason`, `mitigations`
    (their names), `edit` (name and mode), `queries` (what making it cost), `incumbent`.
    """
    name = fairness_name(view)
    rows = [
        _trial(row, name, str(view.judge.primary))
        for phase in (BASELINE, SEARCH)
        for row in sorted(current(view.rows[phase]).values(), key=lambda r: r.number)
    ]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    entries = incumbent_entries(view.rows[SEARCH], view.judge.primary.sign)
    best = {number: entry.shrunk for number, entry in entries.items()}
    frame["incumbent"] = [
        best.get(n, NAN) if phase == SEARCH else NAN
        for phase, n in zip(frame["phase"], frame["number"])
    ]
    return frame


_COLUMNS = (
    "phase", "number", "state", "kind", "label", "digest", "value", "auc", "fairness",
    "share", "glyph", "seconds", "epochs", "planned", "degenerate", "reason", "mitigations",
    "edit", "queries",
)  # fmt: skip


def _trial(row: Row, fairness: str, primary: str) -> dict[str, Any]:
    value = NAN if row.values is None else row.values[0]
    figures = {primary: value, **row.attrs}
    return {
        "phase": row.phase,
        "number": row.number + 1,
        "state": row.state,
        "kind": row.kind,
        "label": str(row.attrs.get("label", "")),
        "digest": row.digest,
        "value": value,
        "auc": number_of(figures.get("auc")),
        "fairness": number_of(figures.get(fairness)),
        "share": number_of(row.attrs.get("trainable_share")),
        "glyph": str(row.attrs.get("mask", "")),
        "seconds": number_of(row.attrs.get("seconds")),
        "epochs": number_of(row.attrs.get("epochs", row.attrs.get("epoch"))),
        "planned": number_of(row.planned),
        "degenerate": row.attrs.get(DEGENERATE),
        "reason": row.reason,
        "mitigations": mitigations_of(row.recipe),
        "edit": edit_of(row.recipe),
        "queries": number_of(row.attrs.get(USED)),
    }


def number_of(value: Any) -> float:
    """Return a number as a float, NaN for anything else."""
    return float(value) if isinstance(value, int | float) else NAN


def fairness_name(view: Overview) -> str:
    """Return the objective that is drawn against the overall AUC."""
    primary = view.judge.primary
    if primary.attribute is not None:
        return str(primary)
    return f"worst_auc@{view.base.data.attributes[0]}"


def incumbent_entries(rows: Sequence[Row], sign: int) -> dict[int, Ranked]:
    """Return the recipe with the best shrunken mean after finished trials, by number from 1.

    Constant recipes are never an incumbent, those at chance only while there is no other. Of a
    long search about 200 trials are looked at, the last one among them.
    """
    numbers = sorted(r.number for r in current(rows).values() if r.state == "complete")
    step = max(1, len(numbers) // POINTS)
    found: dict[int, Ranked] = {}
    for i in sorted({*range(0, len(numbers), step), len(numbers) - 1} - {-1}):
        seen = [row for row in rows if row.number <= numbers[i]]
        entries = [e for e in ranked(seen, sign) if not e.unusable]
        if entries:
            found[numbers[i] + 1] = entries[0]
    return found


def mask_of(recipe: Mapping[str, Any], units: Units) -> frozenset[str]:
    """Return the units that a stored recipe trains."""
    names = recipe["adaptation"]["mask"]
    mask = Rule.parse(names).mask(units) if isinstance(names, str) else Mask(tuple(names))
    return frozenset(mask.units)


def mask_frame(view: Overview) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return which switches every finished recipe of the search has on, without loss.

    Units of one block that are on and off together in every recipe are one column, named after
    the unit type they make up; units that no recipe trains are left out.

    Returns:
        A table of 0 and 1, a row per recipe (digest), best first, a column per switch; and a
        table of the switches with `type`, `depth` (None outside the blocks) and `units`.
    """
    units, sign = view.units, view.judge.primary.sign
    entries = ranked(view.rows[SEARCH], sign)
    masks = [mask_of(entry.rows[0].recipe, units) for entry in entries]
    together: dict[tuple[str | None, int | None, tuple[bool, ...]], list[str]] = {}
    for unit in units.names:
        pattern = tuple(unit in mask for mask in masks)
        if any(pattern):
            place = units.tower_of(unit), units.depth_of(unit)
            together.setdefault((*place, pattern), []).append(unit)
    columns, on = [], []
    for (_, depth, pattern), members in together.items():
        columns.append({"type": _type(units, depth, members), "depth": depth, "units": members})
        on.append([int(flag) for flag in pattern])
    switches = pd.DataFrame(columns, columns=["type", "depth", "units"], dtype=object)
    order = _by_type(switches)
    table = pd.DataFrame(
        {i: on[j] for i, j in enumerate(order)}, index=[e.digest for e in entries], dtype=int
    )
    table.insert(0, "number", [e.rows[0].number + 1 for e in entries])
    table.insert(1, "value", [e.shrunk for e in entries])
    return table, switches.iloc[order].reset_index(drop=True)


def _type(units: Units, depth: int | None, members: Sequence[str]) -> str:
    tower = units.tower_of(members[0])
    of = "" if tower is None else f"{tower}."
    if depth is None:
        return members[0] if len(members) == 1 else f"{of}rest"
    for name, by_depth in units.types.items():
        if set(by_depth[depth]) == set(members):
            return name
    first = of + members[0].removeprefix(f"{units.block_of(members[0])}.")
    return first if len(members) == 1 else f"{first} +{len(members) - 1}"


def _by_type(switches: pd.DataFrame) -> list[int]:
    """Return columns ordered by type in the order of the network, then by depth."""
    first: dict[str, int] = {}
    for i, name in enumerate(switches["type"]):
        first.setdefault(name, i)
    depths = [-1 if d is None else int(d) for d in switches["depth"]]
    return sorted(range(len(switches)), key=lambda i: (first[switches["type"][i]], depths[i]))


def epoch_frame(models: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return the losses of every epoch: `recipe`, `seed` (from 1), and the run's own columns."""
    frames = [
        run.epochs.assign(recipe=label, seed=i + 1)
        for label, runs in models.items()
        for i, run in enumerate(runs)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
