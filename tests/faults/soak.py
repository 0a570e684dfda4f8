"""Random faults for as long as you like, then every rule of a study: `make soak`.

    python tests/faults/soak.py [--seconds 3600] [--workers 8] [--seed 0] [--trials 150]

Eight workers without torch run one study after another on a PostgreSQL of their own. Meanwhile,
at seeded random moments, workers are killed, told to leave or paused past the grace, their runs
fail for lack of memory, with NaN or by an error, and the database is restarted, crashed or frozen.
Once a study is over its rows are checked (`kit_faults.peaceful`), then the next one begins.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "study"), str(HERE)]

from crew import LEFT, Crew, Orders  # noqa: E402
from kit_faults import done, peaceful, reasons  # noqa: E402
from kit_servers import Postgres, fresh_database  # noqa: E402

from fairtune.study.rows import dead  # noqa: E402
from fairtune.study.worker import Exit  # noqa: E402

FAULTS = {"kill": 6, "leave": 3, "pause": 4, "restart": 1, "crash": 1, "freeze": 1}
"""How often each fault comes, relative to the others."""
FAILING = {"oom": 0.04, "nan": 0.02, "error": 0.04}
PAUSE = (0.1, 1.0)
"""Seconds before a fault."""
PEACE = 180.0
# A worker may be told to leave before it listens.
EXPECTED = {*LEFT.values(), -signal.SIGKILL, -signal.SIGTERM}


@dataclass
class Tally:
    """What happened."""

    faults: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    trials: int = 0
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"{self.studies} studies, {self.trials} trials, {self.seconds:.0f} s",
            f"faults: {_told(self.faults)}",
            f"rows: {_told(self.rows)}",
            f"failed: {_told(self.failed)}",
        ]


class Storm:
    """Faults that befall one crew.

    Args:
        crew: The workers.
        server: Their database.
        chance: Decides what comes when.
        workers: How many there are to be.
        tally: Counts the faults.
        pause: Least and most seconds before a fault.
    """

    def __init__(
        self,
        crew: Crew,
        server: Postgres,
        chance: random.Random,
        workers: int,
        tally: Tally,
        pause: tuple[float, float],
    ) -> None:
        self._crew, self._server, self._chance = crew, server, chance
        self._workers, self._tally, self._pause = workers, tally, pause
        self._asleep: list[tuple[float, Any]] = []

    def blow(self, until: float) -> None:
        """Let faults come until the study is over, or the clock says so."""
        while time.monotonic() < until and self._replaced():
            time.sleep(self._chance.uniform(*self._pause))
            self._wake(time.monotonic())
            kind = self._chance.choices(list(FAULTS), list(FAULTS.values()))[0]
            self._strike(kind)
            self._tally.faults[kind] += 1
        self._wake(float("inf"))

    def rest(self) -> None:
        """Let the study come to its end in peace."""
        end = time.monotonic() + PEACE
        while self._replaced():
            assert time.monotonic() < end, f"the study does not end:\n{self._crew.said()}"
            time.sleep(0.1)
        self._crew.wait()
        strange = set(self._crew.codes()) - EXPECTED
        assert not strange, f"workers left with {strange}:\n{self._crew.said()}"

    def _replaced(self) -> bool:
        """Start a worker for each that is gone; none, and False, once one found nothing to do."""
        if LEFT[Exit.DONE] in self._crew.codes():
            return bool(self._crew.alive())
        self._crew.start(self._workers - len(self._crew.alive()))
        return True

    def _strike(self, kind: str) -> None:
        if kind in ("restart", "crash"):
            mode = "fast" if kind == "restart" else "immediate"
            self._server.restart(mode, away=self._chance.uniform(0.0, 3.0))
        elif kind == "freeze":
            self._server.pause()
            time.sleep(self._chance.uniform(0.5, 6.0))
            self._server.resume()
        else:
            self._strike_worker(kind)

    def _strike_worker(self, kind: str) -> None:
        alive = self._crew.alive()
        if not alive:
            return
        victim = self._chance.choice(alive)
        if kind == "kill":
            victim.kill()
            victim.join()
        elif kind == "leave":
            _signal(victim, signal.SIGTERM)
        else:
            _signal(victim, signal.SIGSTOP)
            self._asleep.append((time.monotonic() + self._chance.uniform(0.5, 8.0), victim))

    def _wake(self, now: float) -> None:
        for _, sleeper in [pair for pair in self._asleep if pair[0] <= now]:
            _signal(sleeper, signal.SIGCONT)
        self._asleep = [pair for pair in self._asleep if pair[0] > now]


def soak(
    seconds: float,
    workers: int = 8,
    seed: int = 0,
    trials: int = 150,
    pause: tuple[float, float] = PAUSE,
) -> Tally:
    """Run studies under faults for `seconds` and return what happened.

    Raises:
        AssertionError: A rule was broken, a result lost, or a worker crashed.
    """
    tally, chance = Tally(), random.Random(seed)
    began = time.monotonic()
    with Postgres() as server:
        while time.monotonic() - began < seconds:
            with (
                fresh_database(server.url) as url,
                tempfile.TemporaryDirectory() as folder,
                Crew(Path(folder), _orders(url, trials, seed + tally.studies)) as crew,
            ):
                crew.orders.ledger().close()
                storm = Storm(crew, server, chance, workers, tally, pause)
                storm.blow(began + seconds)
                storm.rest()
                _judge(crew, tally)
    tally.seconds = time.monotonic() - began
    return tally


def _orders(url: str, trials: int, seed: int) -> Orders:
    return Orders(
        url=url,
        trials=trials,
        seconds=(0.1, 1.5),
        width=48,
        grace=3.0,
        beat_every=0.5,
        failing=FAILING,
        seed=seed,
    )


def _judge(crew: Crew, tally: Tally) -> None:
    rows = peaceful(crew)
    gone = len(dead(rows))
    assert done(rows) + gone == crew.orders.trials
    tally.studies += 1
    tally.trials += crew.orders.trials
    tally.rows.update(row.state for row in rows)
    tally.failed.update({str(reason): count for reason, count in reasons(rows).items()})


def _signal(member: Any, sent: signal.Signals) -> None:
    if member.is_alive():
        os.kill(member.pid, sent)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def main() -> None:
    """Soak and say what happened."""
    reader = argparse.ArgumentParser(description="Random faults, then every rule of a study.")
    reader.add_argument("--seconds", type=float, default=3600.0)
    reader.add_argument("--workers", type=int, default=8)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--trials", type=int, default=150, help="budget of each study")
    given = reader.parse_args()
    tally = soak(given.seconds, given.workers, given.seed, given.trials)
    sys.stdout.write("\n".join(tally.lines()) + "\n")


if __name__ == "__main__":
    main()
