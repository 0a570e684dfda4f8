"""The database is restarted, frozen or cut off while real workers train and tell."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from crew import LEFT, Crew
from kit_faults import done, peaceful, wait_for
from kit_servers import Link, Mode, Postgres, until

from fairtune.study.worker import Exit

# Slow, as each waits until a server that is away is missed, and until it is back.
pytestmark = [pytest.mark.needs("postgres"), pytest.mark.slow]
Hire = Callable[..., Crew]
SHORT = {"seconds": (0.1, 0.4)}
"""Runs so short that, of four workers, some train and some tell whenever the database leaves."""


def ends_in_peace(crew: Crew) -> None:
    """Check that every worker waited, went on and lost nothing."""
    crew.wait()
    rows = peaceful(crew)
    assert set(crew.codes()) == {LEFT[Exit.DONE]}, crew.said()
    assert done(rows) == crew.orders.trials


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_workers_outlive_a_restart(
    hire: Hire, own_server: Postgres, own_url: str, mode: Mode
) -> None:
    crew = hire(url=own_url, trials=24, **SHORT)
    crew.start(4)
    wait_for(crew, 4, "complete")
    own_server.restart(mode, away=1.0)
    ends_in_peace(crew)
    assert "asking again" in crew.said()


def test_workers_outlive_a_frozen_database(hire: Hire, own_server: Postgres, own_url: str) -> None:
    crew = hire(url=own_url, trials=16, **SHORT)
    crew.start(4)
    wait_for(crew, 4, "complete")
    own_server.pause()
    time.sleep(2.0)
    own_server.resume()
    ends_in_peace(crew)


def test_workers_outlive_connections_that_are_cut_or_fall_silent(
    hire: Hire, own_server: Postgres, own_url: str
) -> None:
    with Link(own_server.port) as link:
        crew = hire(url=link.through(own_url), trials=24, **SHORT)
        crew.start(4)
        wait_for(crew, 2, "complete")
        link.cut()
        wait_for(crew, 8, "complete")
        link.silence()
        time.sleep(1.0)
        link.cut()
        link.restore()
        ends_in_peace(crew)


def test_a_worker_told_to_leave_while_the_database_is_away_leaves(
    hire: Hire, own_server: Postgres, own_url: str
) -> None:
    crew = hire(url=own_url, trials=1, seconds=(600.0, 600.0), patience=2.0)
    (worker,) = crew.start()
    with crew.orders.ledger(worker="reader") as ledger:
        until(lambda: any(row.beat for row in ledger.rows()), "the first beat of a run")
    own_server.stop("immediate")
    worker.terminate()
    crew.wait()
    own_server.start()
    assert worker.exitcode == LEFT[Exit.STOPPED]
    crew.start(seconds=(0.0, 0.1))
    ends = crew.members[1:]
    for member in ends:
        member.join(60)
    assert [member.exitcode for member in ends] == [LEFT[Exit.DONE]]
    assert done(peaceful(crew)) == 1
