"""What a study remembers, as plain values, and the rules that every worker reads from it.

Nothing here touches a storage: each function is a pure function of rows, so that all workers
come to the same answer from the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from fairtune.config.dimensions import Dimension, Scalar

Score: TypeAlias = float | tuple[float, ...]
"""What a run is compared by at a rung, higher is better: one number, or one per objective."""

SEARCH, BASELINE, CONFIRM, FINAL = "search", "baseline", "confirm", "final"
CONTROL = "control"
RUNS_PER_DIGEST = 3
STALE_RETRIES = 2
ERROR_RETRIES = 1

PAID = "queries_paid"
"""Attribute of a row: queries that its runs asked for their edits, as costs.json calls them."""

STOPPED = "stopped"
ASKED = "asked"
"""A person asked for another try; the attempts before do not count against it."""

STALE = "stale"
BUDGET = "budget"
DUPLICATE = "duplicate"
SUPERSEDED = "superseded"
# A row that failed for one of these did no work: it is as if it had never been.
VOID = frozenset({BUDGET, DUPLICATE})
_NUMBER = attrgetter("number")


def mitigations_of(recipe: Mapping[str, Any]) -> str:
    """Return the names of the mitigations of a recipe as JSON; empty without any."""
    return " + ".join(name for member in recipe.get("mitigations", ()) for name in member)


def edit_of(recipe: Mapping[str, Any]) -> str:
    """Return the edit of a recipe as JSON with its mode, `dne white`; empty without one."""
    return " ".join(
        name
        if not isinstance(fields.get("mode"), dict)
        else f"{name} {next(iter(fields['mode']))}"
        for name, fields in recipe.get("edit", {}).items()
    )


def paid_queries(rows: Iterable[Row]) -> float | None:
    """Return the queries that runs asked for their edits, of all attempts; None without edits."""
    paid = [row.attrs[PAID] for row in valid(rows) if PAID in row.attrs]
    return float(sum(paid)) if paid else None


def in_brief(attrs: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Return usage, where it is searched, mask, edit and mitigations of a row or proposal."""
    first = str(attrs.get("usage", "")), str(attrs.get("mask", ""))
    parts = *first, edit_of(recipe), mitigations_of(recipe)
    return "  ".join(part for part in parts if part)


@dataclass(frozen=True)
class Proposal:
    """One run that a phase wants.

    Attributes:
        kind: `search`, `anchor`, `enqueued`, `replicate`, `baseline` or `confirm`.
        params: Value of each parameter.
        dimensions: Range of each parameter, same names as `params`.
        recipe: Canonical recipe as JSON values.
        digest: Identity of the recipe without its seeds.
        key: Identity of the run: recipe, seed and protocol.
        seed: Seeds of the run.
        replicate: Index of this run among the runs of its digest.
        attrs: Further flat attributes to keep with the row, e.g. mask glyph, label.
    """

    kind: str
    params: Mapping[str, Scalar]
    dimensions: Mapping[str, Dimension]
    recipe: Mapping[str, Any]
    digest: str
    key: str
    seed: Mapping[str, int]
    replicate: int
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One trial as it was read.

    Attributes:
        phase: `search`, `baseline`, `control`, `confirm` or `final`.
        number: Number of the row in its phase, counted from 0.
        state: `running`, `complete`, `pruned`, `failed` or `waiting`.
        kind: As in `Proposal`; likewise `params` to `replicate`.
        attempt: 0 for the first try of a run, then 1, 2, ...
        root: Number of the row of the first attempt.
        recovered: The row holds a result that came after its own row had been failed.
        worker: Who ran it.
        values: Objectives in the study's order, once complete (or pruned with values).
        rungs: Score at each rung that was reached.
        planned: Epochs that were planned, once a rung was reached.
        reason: Why a failed or pruned row ended.
        retryable: A failed row may be tried once more.
        beat: The row's beat counter at the time of reading.
        beaten: When it was written, by the worker's clock.
        progress: What the run last said of itself.
        attrs: Attributes of the proposal and of the outcome.
        given: Those of the proposal alone.
        constraints: Value of each constraint, above 0 when violated.
        started, finished: Times in UTC.
    """

    phase: str
    number: int
    state: str
    kind: str
    params: Mapping[str, Scalar]
    dimensions: Mapping[str, Dimension]
    recipe: Mapping[str, Any]
    digest: str
    key: str
    seed: Mapping[str, int]
    replicate: int
    attempt: int
    root: int
    worker: str
    recovered: bool = False
    values: tuple[float, ...] | None = None
    rungs: Mapping[int, Score] = field(default_factory=dict)
    planned: int | None = None
    reason: str | None = None
    retryable: bool = False
    beat: int = 0
    beaten: datetime | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    started: datetime | None = None
    finished: datetime | None = None

    @property
    def has_result(self) -> bool:
        """The row is complete or pruned."""
        return self.state in ("complete", "pruned")

    def proposal(self) -> Proposal:
        """Return the proposal from which the row was made."""
        return Proposal(
            kind=self.kind,
            params=self.params,
            dimensions=self.dimensions,
            recipe=self.recipe,
            digest=self.digest,
            key=self.key,
            seed=self.seed,
            replicate=self.replicate,
            attrs=self.given,
        )


@dataclass(frozen=True)
class Complete:
    """The run finished.

    Attributes:
        values: One value per objective of the study, all finite.
        attrs: Attributes to keep with the row.
        constraints: Value of each constraint, above 0 when violated.
    """

    values: Sequence[float]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruned:
    """The run was ended by the pruner.

    Attributes:
        epoch: Epochs done.
        values: One value per objective after that epoch, if they are known.
        attrs: Attributes to keep with the row.
        reason: What the pruner said.
    """

    epoch: int
    values: Sequence[float] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Failed:
    """The run could not be finished.

    Attributes:
        reason: One word: `error`, `oom`, `nan`, ...; `stopped` is tried again without limit.
        detail: What a person needs to mend it, e.g. the tail of the traceback.
        retry: Another attempt may succeed; at most one is made.
    """

    reason: str
    detail: str = ""
    retry: bool = False


Outcome: TypeAlias = Complete | Pruned | Failed


def part_of(phase: str) -> Literal["search", "confirm"]:
    """Return the part of the validation patients that the runs of a phase are judged by."""
    return "confirm" if phase == CONFIRM else "search"


def valid(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that stand for work, in order of number.

    Left out are rows failed as `budget` or `duplicate`, and of two rows with the same key and
    attempt the one with the higher number.
    """
    kept: list[Row] = []
    taken: set[tuple[str, int]] = set()
    for row in sorted(rows, key=_NUMBER):
        if row.state == "failed" and row.reason in VOID:
            continue
        if not row.recovered:
            if (row.key, row.attempt) in taken:
                continue
            taken.add((row.key, row.attempt))
        kept.append(row)
    return kept


def roots(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that count for the budget: valid first attempts."""
    return [row for row in valid(rows) if row.number == row.root]


def current(rows: Iterable[Row]) -> dict[str, Row]:
    """Return for each key the one row that speaks for it, by key in order of first row.

    That is the first row with a result, else the running one, else the last failed one.
    """
    chosen: dict[str, Row] = {}
    for row in valid(rows):
        old = chosen.get(row.key)
        if old is None or (not old.has_result and _rank(row) >= _rank(old)):
            chosen[row.key] = row
    return chosen


def results(rows: Iterable[Row]) -> list[Row]:
    """Return one complete row per key, in order of number: what may be compared and averaged."""
    done = [row for row in current(rows).values() if row.state == "complete"]
    return sorted(done, key=lambda r: r.number)


def due(rows: Iterable[Row]) -> list[Row]:
    """Return the failed rows whose run is to be tried again, in order of number.

    A stopped run is tried again without limit, a run whose worker vanished at most twice, one
    that failed by an error that may pass once; all of that anew when a person asks for it. One
    that gave way to a late result is due only where that result never came, its worker having
    vanished too.
    """
    rows = valid(rows)
    histories: dict[str, list[Row]] = {}
    for row in rows:
        histories.setdefault(row.key, []).append(row)
    waiting = []
    for history in histories.values():
        if all(row.state == "failed" for row in history):
            last = max(history, key=lambda r: (r.attempt, r.number))
            if may_retry(last, history):
                waiting.append(last)
    return sorted(waiting, key=lambda r: r.number)


def _arriving(other: Row, row: Row) -> bool:
    """Tell whether `other` is a late result on its way, with the claim before that of `row`."""
    return other.recovered and other.state == "running" and other.number < row.number


def may_retry(last: Row, history: Sequence[Row]) -> bool:
    """Tell whether a run is to be tried again.

    Args:
        last: Its last attempt, which failed.
        history: All its attempts, `last` among them.
    """
    if last.reason in (STOPPED, SUPERSEDED, ASKED):
        return True
    asked = max((row.attempt for row in history if row.reason == ASKED), default=-1)
    reasons = [row.reason for row in history if row.attempt > asked]
    if last.reason == STALE:
        return reasons.count(STALE) <= STALE_RETRIES
    errors = [r for r in reasons if r not in (STOPPED, STALE, SUPERSEDED)]
    return last.retryable and len(errors) <= ERROR_RETRIES


def dead(rows: Iterable[Row]) -> list[Row]:
    """Return the last row of each run that failed and will not be tried again."""
    again = {row.key for row in due(rows)}
    return [r for k, r in current(rows).items() if r.state == "failed" and k not in again]


def refusal(row: Row, rows: Iterable[Row], budget: int | None) -> str | None:
    """Return why a row that was just created may not be worked on, or None when it may.

    Args:
        row: The new row, as it stands in `rows`.
        rows: All rows of its phase, read after it was created.
        budget: Number of first attempts the phase may have, None for any number.
    """
    kept = valid(rows)
    if all(other.number != row.number for other in kept):
        return DUPLICATE
    same = [o for o in kept if o.key == row.key and o.number != row.number]
    if any(o.has_result or _arriving(o, row) for o in same):
        return DUPLICATE
    if budget is not None and row.number == row.root:
        before = sum(o.number == o.root and o.number < row.number for o in kept)
        if before >= budget:
            return BUDGET
    return None


def decide_digest(rows: Iterable[Row], digest: str, most: int = RUNS_PER_DIGEST) -> str:
    """Return what to do with a draw whose recipe has `digest`.

    Returns:
        `new` when no run has it; `replicate` while it has fewer than `most` runs; `redraw` when
        it has as many, was pruned, or failed for good.
    """
    same = [row for row in current(rows).values() if row.digest == digest]
    if not same:
        return "new"
    gone = {row.key for row in dead(rows)}
    if len(same) >= most or any(r.state == "pruned" or r.key in gone for r in same):
        return "redraw"
    return "replicate"


def next_replicate(rows: Iterable[Row], digest: str) -> int:
    """Return the replicate index of one more run of `digest`: 0 when it has none."""
    return max((row.replicate for row in valid(rows) if row.digest == digest), default=-1) + 1


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Return the number of runs (not attempts) by state; `retrying` ones are due again."""
    tally = dict.fromkeys(("running", "complete", "pruned", "failed", "retrying"), 0)
    rows = list(rows)
    again = {row.key for row in due(rows)}
    for key, row in current(rows).items():
        name = "retrying" if key in again else row.state
        tally[name] = tally.get(name, 0) + 1
    return tally


def _rank(row: Row) -> int:
    return 2 if row.has_result else 1 if row.state == "running" else 0
