"""What must hold of the rows of a study, however many workers ran it and whatever befell them.

Pure functions of rows. Tests ask them after every fault, `fairtune doctor --study` asks them of a
study that exists.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from fairtune.study.rows import (
    ASKED,
    BUDGET,
    DUPLICATE,
    FINAL,
    RUNS_PER_DIGEST,
    SEARCH,
    VOID,
    Row,
    due,
    may_retry,
    roots,
    valid,
)

_LIVE = ("running", "waiting")
_SHOWN = 12
# Rows that no work was done for: two of them may stand side by side.
_IDLE = VOID | {ASKED}


def violations(
    rows_by_phase: Mapping[str, Sequence[Row]],
    budget: int | None,
    *,
    ended: bool = True,
    spent: bool = True,
    objectives: int | None = None,
    foreign: Mapping[str, Collection[int]] | None = None,
) -> list[str]:
    """Return what is wrong with a study, one sentence each; empty when all is well.

    Args:
        rows_by_phase: The rows of each phase, as the ledger reads them.
        budget: First attempts that the search may have, None for any number.
        ended: No worker is left: every row has its final state.
        spent: An ended search used up its budget and every retry; not so where a limit of time
            or `budget.stop: auto` ended it.
        objectives: Values of a complete row; None takes the number that the first one has.
        foreign: Numbers of trials that other programs made, by phase; rows do not hold them.
    """
    found: list[str] = []
    for phase, rows in rows_by_phase.items():
        others = (foreign or {}).get(phase, ())
        found += [f"{phase}: {said}" for said in _of_phase(phase, rows, ended, others)]
        if ended and spent and phase != FINAL:
            found += [f"{phase}: {said}" for said in _left(rows, _limit(phase, budget))]
    search = list(rows_by_phase.get(SEARCH, ()))
    found += [f"{SEARCH}: {said}" for said in _budget(search, budget, ended and spent)]
    found += [f"{SEARCH}: {said}" for said in _replicates(search)]
    everything = [row for rows in rows_by_phase.values() for row in rows]
    return [*found, *_identities(everything), *_values(everything, objectives)]


def _limit(phase: str, budget: int | None) -> int | None:
    return budget if phase == SEARCH else None


def _of_phase(
    phase: str, rows: Sequence[Row], ended: bool, foreign: Collection[int]
) -> Iterator[str]:
    if ended:
        for row in rows:
            if row.state in _LIVE:
                yield f"row {row.number} is still {row.state}"
    yield from _numbers(rows, foreign)
    if phase == FINAL:
        return  # results that were added, not runs
    yield from _doubles(rows)
    runs: dict[str, list[Row]] = {}
    for row in valid(rows):
        runs.setdefault(row.key, []).append(row)
    for key, attempts in runs.items():
        for said in _run(attempts):
            yield f"run {key[:_SHOWN]}: {said}"


def _numbers(rows: Sequence[Row], foreign: Collection[int]) -> Iterator[str]:
    seen = Counter(row.number for row in rows)
    for number, times in sorted(seen.items()):
        if times > 1:
            yield f"row {number} is there {times} times"
    missing = set(range(max(seen, default=-1) + 1)) - set(seen) - set(foreign)
    if missing:
        yield f"there is no row {', '.join(map(str, sorted(missing)))}"


def _doubles(rows: Sequence[Row]) -> Iterator[str]:
    """Say which rows stand beside another with the same key and attempt, and did not step back."""
    kept = {row.number for row in valid(rows)}
    for row in rows:
        if row.number not in kept and row.state not in _LIVE and row.reason not in _IDLE:
            said = f"attempt {row.attempt} of run {row.key[:_SHOWN]}"
            yield f"row {row.number} is a second {said} and did not end as `{DUPLICATE}`"


def _run(attempts: Sequence[Row]) -> Iterator[str]:
    """Say what is wrong with the valid rows of one key."""
    spoken = [row for row in attempts if row.has_result]
    if len(spoken) > 1:
        yield f"rows {_listed(spoken)} have a result each"
    first = {row.root for row in attempts}
    if len(first) > 1:
        yield f"its rows name several first attempts, {', '.join(map(str, sorted(first)))}"
    elif all(row.number != row.root for row in attempts):
        yield f"its first attempt, row {attempts[0].root}, is not among its rows"
    tries = sorted((r for r in attempts if not r.recovered), key=lambda r: (r.attempt, r.number))
    if [row.attempt for row in tries] != list(range(len(tries))):
        yield f"its attempts are numbered {', '.join(str(r.attempt) for r in tries)}"
    for done, row in enumerate(tries):
        before = tries[:done] if row.reason != ASKED else []
        if before and before[-1].state == "failed" and not may_retry(before[-1], before):
            yield f"row {row.number} tries it again after `{before[-1].reason}`, once too often"


def _left(rows: Sequence[Row], budget: int | None) -> Iterator[str]:
    admitted = {row.number for row in roots(rows)[:budget]}
    for row in due(rows):
        if row.root in admitted:
            yield f"row {row.number} ended as `{row.reason}` and was not tried again"


def _budget(rows: Sequence[Row], budget: int | None, spent: bool) -> Iterator[str]:
    if budget is None:
        return
    first = roots(rows)
    for row in first[budget:]:
        if row.state not in _LIVE:
            yield f"row {row.number} is above the budget of {budget} and did not end as `{BUDGET}`"
    if spent and len(first) < budget:
        yield f"{len(first)} first attempts of a budget of {budget}"


def _replicates(rows: Sequence[Row]) -> Iterator[str]:
    """Say which recipes were run too often.

    A space whose every point has been run is repeated beyond that: then no finished recipe had
    fewer runs.
    """
    runs: dict[str, list[Row]] = {}
    for row in roots(rows):
        runs.setdefault(row.digest, []).append(row)
    for mark, mine in runs.items():
        if len(mine) <= RUNS_PER_DIGEST:
            continue
        fewer = [
            other
            for digest, other in runs.items()
            if digest != mark and len(other) < len(mine) - 1 and _done_before(other, mine[-1])
        ]
        if fewer:
            yield f"recipe {mark[:_SHOWN]} has {len(mine)} runs, rows {_listed(mine)}"


def _done_before(rows: Iterable[Row], row: Row) -> bool:
    """Tell whether every one of `rows` had its result when `row` began."""
    begun = row.started
    return all(r.state == "complete" and r.finished and begun and r.finished < begun for r in rows)


def _identities(rows: Sequence[Row]) -> Iterator[str]:
    recipes: dict[str, set[str]] = {}
    marks: dict[str, set[str]] = {}
    for row in rows:
        recipes.setdefault(row.digest, set()).add(_written(row.recipe))
        marks.setdefault(row.key, set()).add(_written([row.digest, row.seed]))
    for digest, written in recipes.items():
        if len(written) > 1:
            yield f"digest {digest[:_SHOWN]} stands for {len(written)} recipes"
    for key, written in marks.items():
        if len(written) > 1:
            yield f"key {key[:_SHOWN]} stands for {len(written)} pairs of recipe and seeds"


def _values(rows: Sequence[Row], objectives: int | None) -> Iterator[str]:
    for row in rows:
        where = f"{row.phase}: row {row.number}"
        if row.state == "complete" and row.values is None:
            yield f"{where} is complete and has no values"
        if row.values is None:
            continue
        objectives = len(row.values) if objectives is None else objectives
        if len(row.values) != objectives:
            yield f"{where} has {len(row.values)} values for {objectives} objectives"
        if not all(math.isfinite(value) for value in row.values):
            yield f"{where} has the values {list(row.values)}"


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _listed(rows: Iterable[Row]) -> str:
    return ", ".join(str(row.number) for row in rows)
