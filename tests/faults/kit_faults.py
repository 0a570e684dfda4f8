"""What must hold of a study, whatever befell the workers that ran it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

from crew import Crew, Orders, score
from kit_servers import until

from fairtune.study.invariants import violations
from fairtune.study.rows import SEARCH, Row, current


def rows_of(orders: Orders) -> list[Row]:
    """Return the rows of the search, read now."""
    with orders.ledger(worker="reader") as ledger:
        return ledger.rows()


def peaceful(crew: Crew) -> list[Row]:
    """Check the study of a crew that has left, and return its rows.

    Every rule of `fairtune.study.invariants` holds, no result that a worker saw stored is lost,
    and each result is the right one.
    """
    rows = rows_of(crew.orders)
    said = violations({SEARCH: rows}, crew.orders.trials, objectives=1)
    assert not said, "\n".join([*said, crew.said()])
    spoken = current(rows)
    for key, values in crew.stored().items():
        assert spoken[key].values == tuple(values), f"the result of {key} was lost"
    for row in rows:
        assert not row.has_result or row.values == (score(row.params),)
    return rows


def reasons(rows: Sequence[Row]) -> Counter[str | None]:
    """Count why rows failed."""
    return Counter(row.reason for row in rows if row.state == "failed")


def done(rows: Sequence[Row]) -> int:
    """Count the runs that have a result."""
    return sum(row.has_result for row in current(rows).values())


def kill_some(crew: Crew, kills: int, seed: int, pause: tuple[float, float]) -> int:
    """Kill workers at random moments, each replaced by a new one; return how many.

    Fewer than `kills` where the study has ended before: on a busy machine the pauses last longer.
    """
    chance = random.Random(seed)
    for killed in range(kills):
        time.sleep(chance.uniform(*pause))
        alive = crew.alive()
        if not alive:
            return killed
        victim = chance.choice(alive)
        victim.kill()
        victim.join()
        crew.start()
    return kills


def wait_for(crew: Crew, count: int = 1, state: str | None = "running") -> list[Row]:
    """Return the rows once `count` of them are in `state`, None for any."""
    found: list[Row] = []

    with crew.orders.ledger(worker="reader") as ledger:

        def there() -> bool:
            found[:] = ledger.rows()
            return sum(state in (None, row.state) for row in found) >= count

        until(there, f"{count} rows {state or ''}")
    return found
