"""`fairtune doctor --study`: whether what a study says agrees with what is stored.

Nothing is trained and nothing written: rows are checked against each other, the folders of runs
against their checksums, and every stored value is computed anew from the stored predictions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairtune import store
from fairtune.config import parse
from fairtune.errors import FairtuneError
from fairtune.experiment.gate import LEDGER
from fairtune.experiment.stored import DONE, StoredRun
from fairtune.study import invariants
from fairtune.study.final import OPENING, test_figures
from fairtune.study.merge import MERGED
from fairtune.study.overview import Overview
from fairtune.study.parts import trial_key
from fairtune.study.place import MOST_TRIALS
from fairtune.study.rows import FINAL, Row, part_of
from fairtune.training.recipe import Recipe, Seeds

CLOSE = 1e-9
"""How far a value may be from what it is computed to: another processor may round otherwise."""

_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """Something that does not hold.

    Attributes:
        where: Study, phase and trial, or file.
        what: What is wrong.
        todo: What to do about it.
    """

    where: str
    what: str
    todo: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.todo}" if self.todo else "")


@dataclass(frozen=True)
class Audit:
    """What came out.

    Attributes:
        study: Name of the study.
        rows: Rows that were looked at.
        running: Those that are under way: of them nothing is said.
        runs: Folders of runs that were there and looked at.
        values: Values that were computed anew.
        findings: What does not hold, empty when all does.
    """

    study: str
    rows: int
    running: int
    runs: int
    values: int
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**vars(self), "findings": [vars(finding) for finding in self.findings]}


@dataclass
class _Tally:
    runs: int = 0
    values: int = 0
    missing: list[str] = field(default_factory=list)


def audit(view: Overview, foreign: Mapping[str, Sequence[int]] | None = None) -> Audit:
    """Return whether everything that is stored about a study holds.

    Args:
        view: The study as it was read.
        foreign: Numbers of the trials that other programs made, by phase.
    """
    rows = [row for mine in view.rows.values() for row in mine]
    running = sum(row.state == "running" for row in rows)
    findings = [Finding(view.place.name, said) for said in _broken_rules(view, running, foreign)]
    tally = _Tally()
    for row in rows:
        if row.state == "complete":
            findings += _of_run(view, row, tally)
    findings += _missing(view, tally)
    findings += _unwritten_openings(view)
    return Audit(view.place.name, len(rows), running, tally.runs, tally.values, tuple(findings))


def _broken_rules(
    view: Overview, running: int, foreign: Mapping[str, Sequence[int]] | None
) -> list[str]:
    """Return which rules rows break among themselves."""
    budget = view.search.get(MOST_TRIALS, view.settings["budget"]["trials"])
    return invariants.violations(
        view.rows,
        # What was merged from another storage was within the budget there.
        None if view.search.get(MERGED) else int(budget),
        ended=False,
        spent=False,
        objectives=len(view.judge.objectives),
        foreign=foreign,
    )


def _of_run(view: Overview, row: Row, tally: _Tally) -> Iterator[Finding]:
    """Yield what is wrong with the stored run of a complete row."""
    where = f"{row.phase} {row.number + 1}"
    folder = view.runs.folder(row.key)
    run = view.stored(row)
    if run is None:
        tally.missing.append(where)
        return
    tally.runs += 1
    again = f"remove {folder}: `fairtune search` makes the run again"
    if row.phase == FINAL:
        again = f"remove {folder}: `fairtune finetune` makes the run again"
    damaged = store.damaged(folder, DONE)
    for name in damaged:
        yield Finding(where, f"{name} is not what was written ({folder})", again)
    if damaged:
        return
    try:
        yield from (Finding(where, said) for said in _identity(view, row, run))
        for said in _values(view, row, run, tally):
            yield Finding(where, said)
    except FairtuneError as error:
        yield Finding(where, f"its predictions cannot be read: {error.what}", again)


def _identity(view: Overview, row: Row, run: StoredRun) -> Iterator[str]:
    """Yield in what row, recipe.json and the folder's name name different runs."""
    if run.key != row.key:
        yield f"recipe.json is of run {run.key}, the row of {row.key}"
    recipe, seeds = parse(Recipe, dict(row.recipe)), parse(Seeds, dict(row.seed))
    key = recipe.key(seeds) if row.phase == FINAL else trial_key(recipe, seeds, view.judge)
    if key != row.key:
        yield f"recipe and seeds of the row have the key {key}, the row says {row.key}"
    if recipe.identity() != row.digest:
        yield f"the recipe of the row has the digest {recipe.identity()}, the row {row.digest}"
    if run.recipe.identity() != row.digest or run.seeds != seeds:
        yield "recipe.json holds another recipe, or other seeds, than the row"


def _values(view: Overview, row: Row, run: StoredRun, tally: _Tally) -> Iterator[str]:
    """Yield which values are not those of the stored predictions."""
    names = [str(objective) for objective in view.judge.objectives]
    if row.phase == FINAL:
        found = test_figures(view, run)
    else:
        judge = view.judge.on(part_of(row.phase))
        found = judge.values(run.validation(judge.epoch_of(run)))
    for name, value in zip(names, row.values or ()):
        tally.values += 1
        if not math.isclose(value, found[name], rel_tol=CLOSE, abs_tol=CLOSE):
            yield f"{name} is {value:.6g} in the row and {found[name]:.6g} by its predictions"


def _missing(view: Overview, tally: _Tally) -> list[Finding]:
    """Return that runs are not in the results folder, as one finding however many there are."""
    absent, folder = tally.missing, str(view.place.out / "runs")
    if not absent:
        return []
    if not tally.runs:
        what = f"none of the {len(absent)} finished runs is there"
        return [Finding(folder, what, "give --out if the results lie elsewhere")]
    more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    what = f"{len(absent)} of {len(absent) + tally.runs} finished runs are not there"
    todo = "copy their folders there if they lie elsewhere"
    return [Finding(folder, f"{what}: {', '.join(absent[:_SHOWN])}{more}", todo)]


def _unwritten_openings(view: Overview) -> list[Finding]:
    """Return which openings of the test split are not written down beside the results."""
    path = view.place.out / LEDGER
    kept = [value for name, value in view.attrs.items() if name.startswith(OPENING)]
    tested = [row for row in view.rows[FINAL] if row.state == "complete"]
    if not kept and not tested:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        written = [json.loads(line) for line in lines]
        known = {(line["when"], line["split"]) for line in written}
        told = {digest for opening in (*kept, *written) for digest in opening["digests"]}
    except FileNotFoundError:
        said = f"is not there, and the study opened the test split {len(kept)} time(s)"
        return [Finding(str(path), said, "give --out if the results lie elsewhere")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Finding(str(path), f"cannot be read: {error}")]
    return [
        Finding(str(path), f"the opening of {opening['when']} is not in it")
        for opening in kept
        if (opening["when"], opening["split"]) not in known
    ] + [
        Finding(f"{FINAL} {row.number + 1}", "no opening of the test split names its recipe")
        for row in tested
        if row.digest not in told
    ]
