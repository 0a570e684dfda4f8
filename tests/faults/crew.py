"""A worker without torch that real faults befall: a process of its own on a real storage.

`python -m crew '{"url": ..., "trials": 40}'` runs one; `Crew` starts many from a process that has
imported everything, so that a hundred of them cost seconds. What it does to itself is written in
its orders: outcomes that fail, a folder that cannot be written, the storage call at which it dies.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import sqlalchemy
from kit_ledger import Search, bits, open_ledger

from fairtune.errors import FairtuneError, StorageError
from fairtune.study.ledger import Claim, Complete, Failed, Ledger, Outcome
from fairtune.study.samplers import SAMPLERS
from fairtune.study.storages import engine_of
from fairtune.study.worker import Exit, Limits, StopFlag, work

LEFT = {Exit.DONE: 0, Exit.STOPPED: 3}
BROKEN = 4
STEP = 0.01
IMPORTED = (
    "alembic.command",
    "alembic.script",
    "optuna.storages._rdb.models",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
)
RETRIED = ("oom", "error")
"""Outcomes that may pass and are tried once more; `nan` is the recipe's fault."""


@dataclass(frozen=True)
class Orders:
    """What one worker is to do.

    Attributes:
        url: The storage.
        trials: Budget of the search.
        name: Name of the study.
        seconds: Shortest and longest run.
        epochs: Epochs of a run, each reported.
        width: Bits of a mask.
        failing: Share of attempts that end as `oom`, `nan` or `error`, by name.
        always: Reason with which every run of this worker fails.
        die: `statement` or `commit` of the database, at which it kills itself.
        die_on: Before which of them, counted from 1.
        folder: Results are written here, one file a run.
        diary: What it stored, one JSON line each; read by `Crew.stored`.
        stop_after: Time budget in seconds.
        grace, beat_every, patience, slot, seed, sampler, together, idle: As the ledger and the
            loop have them.
    """

    url: str
    trials: int
    name: str = "s"
    seconds: tuple[float, float] = (0.05, 0.2)
    epochs: int = 2
    width: int = 12
    failing: dict[str, float] = field(default_factory=dict)
    always: str | None = None
    die: str | None = None
    die_on: int = 1
    folder: str | None = None
    diary: str | None = None
    stop_after: float | None = None
    grace: float = 60.0
    beat_every: float = 0.3
    patience: float = 300.0
    slot: int = 0
    seed: int = 0
    sampler: str = "random"
    together: int = 1
    idle: float = 0.05

    def phases(self) -> list[Search]:
        """Return the phases of its study."""
        return [Search(self.trials, bits(self.width))]

    def ledger(self, **more: Any) -> Ledger:
        """Open its study."""
        given = {
            "sampler": SAMPLERS.parse({self.sampler: {}}),
            "grace": self.grace,
            "beat_every": self.beat_every,
            "patience": self.patience,
            "slot": self.slot,
            "seed": self.seed,
        }
        return open_ledger(self.url, self.name, **(given | more))


def score(params: Any) -> float:
    """Return the one right value of a run: nobody may have written another."""
    return sum(map(bool, params.values())) / max(1, len(params))


@dataclass
class Trade:
    """Runs claims: sleeps, reports, writes a file, and fails as ordered."""

    orders: Orders
    stop: StopFlag

    def __call__(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            outcome = self._run(claim)
            if outcome is None:
                return
            yield claim, outcome
            # The loop comes back only once the outcome is stored.
            self._note(claim, outcome)

    def _run(self, claim: Claim) -> Outcome | None:
        chance = random.Random(f"{claim.proposal.key}:{claim.attempt}:{self.orders.seed}")
        failed = self._failure(chance)
        length = chance.uniform(*self.orders.seconds) / self.orders.epochs
        for epoch in range(1, self.orders.epochs + 1):
            if not self._sleep(claim, length):
                return None
            claim.progress.update(epoch=epoch)
            claim.report(epoch, self.orders.epochs, utility=0.5)
            if failed is not None:
                return failed
        value = score(claim.proposal.params)
        self._write(claim, value)
        return Complete([value], {"attempt": claim.attempt}, {"floor": -1.0})

    def _failure(self, chance: random.Random) -> Failed | None:
        draw = chance.random()
        for reason, share in self.orders.failing.items():
            if draw < share:
                return Failed(reason, "as ordered", retry=reason in RETRIED)
            draw -= share
        always = self.orders.always
        return None if always is None else Failed(always, "as ordered", retry=always in RETRIED)

    def _sleep(self, claim: Claim, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if claim.poll() is not None or self.stop.reason() is not None:
                return False
            time.sleep(STEP)
        return True

    def _write(self, claim: Claim, value: float) -> None:
        if self.orders.folder is None:
            return
        path = Path(self.orders.folder, claim.proposal.key)
        try:
            path.write_text(str(value))
        except OSError as error:
            raise StorageError("the run cannot be written", found=str(error.strerror)) from None

    def _note(self, claim: Claim, outcome: Outcome) -> None:
        if self.orders.diary is None or not isinstance(outcome, Complete):
            return
        line = json.dumps([claim.proposal.key, list(outcome.values)])
        with open(self.orders.diary, "a") as diary:
            diary.write(line + "\n")


def run(orders: Orders) -> int:
    """Work until nothing is left and return the exit code."""
    stop = StopFlag(orders.stop_after)
    signal.signal(signal.SIGTERM, lambda *_: stop.request("SIGTERM"))
    try:
        with _opened(orders) as ledger:
            if orders.die is not None:
                _die_at(ledger, orders)
            left = work(
                ledger,
                orders.phases(),
                Trade(orders, stop),
                Limits(together=orders.together, idle=orders.idle),
                stop,
            )
    except FairtuneError as error:
        sys.stderr.write(f"{error}\n")
        return BROKEN
    assert "torch" not in sys.modules
    if left is Exit.STOPPED:
        sys.stderr.write(f"{stop.reason()}\n")
    return LEFT[left]


def _opened(orders: Orders) -> Ledger:
    """Open the study, again while the database cannot be reached, as a launcher would."""
    end = time.monotonic() + orders.patience
    while True:
        try:
            return orders.ledger()
        except StorageError:
            if time.monotonic() > end:
                raise
        time.sleep(0.5)


def _die_at(ledger: Ledger, orders: Orders) -> None:
    """Let the process be killed within or between transactions."""
    engine = engine_of(ledger._family.opened.storage)
    left = itertools.count(orders.die_on - 1, -1)

    def count(*_: Any) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event = {"statement": "before_cursor_execute", "commit": "commit"}[str(orders.die)]
    sqlalchemy.event.listen(engine, event, count)


def in_process(orders: Orders, log: str) -> None:
    """Run as a process of a crew: what it says goes to its log."""
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    raise SystemExit(run(orders))


def nursery(*modules: str) -> Any:
    """Return what forks workers from a process that has imported all they need, opened nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crew", *IMPORTED, *modules])
    before = os.environ.get("PYTHONPATH")
    # It starts with an empty search path, and passes over what it does not find.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


class Crew:
    """Workers of one study, as processes.

    Args:
        folder: For logs and diaries.
        orders: What each is to do, but for slot and diary.
    """

    def __init__(self, folder: Path, orders: Orders) -> None:
        self.folder, self.orders = folder, orders
        self._context = nursery()
        self.members: list[Any] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            if member.is_alive():
                member.kill()
            member.join()

    def start(self, count: int = 1, **changes: Any) -> list[Any]:
        """Start `count` workers and return them."""
        begun = []
        for _ in range(count):
            slot = len(self.members)
            given = {"slot": slot, "diary": str(self.folder / f"diary-{slot}")}
            orders = Orders(**(vars(self.orders) | given | changes))
            log = str(self.folder / f"log-{slot}")
            member = self._context.Process(target=in_process, args=(orders, log), daemon=True)
            member.start()
            self.members.append(member)
            begun.append(member)
        return begun

    def alive(self) -> list[Any]:
        """Return the workers that still run."""
        return [member for member in self.members if member.is_alive()]

    def wait(self, seconds: float = 60.0) -> None:
        """Return once every worker has left."""
        end = time.monotonic() + seconds
        for member in self.members:
            member.join(max(0.0, end - time.monotonic()))
            assert member.exitcode is not None, f"a worker did not leave:\n{self.said()}"

    def codes(self) -> list[int]:
        """Return the exit codes of those that have left."""
        return [m.exitcode for m in self.members if m.exitcode is not None]

    def said(self) -> str:
        """Return what the workers wrote to their logs."""
        logs = sorted(self.folder.glob("log-*"))
        return "".join(f"[{path.name}] {path.read_text()}" for path in logs)

    def stored(self) -> dict[str, list[float]]:
        """Return by key the results that workers saw stored."""
        lines = [s for p in self.folder.glob("diary-*") for s in p.read_text().splitlines()]
        return dict(map(json.loads, lines))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["seconds"] = tuple(given.get("seconds", (0.05, 0.2)))
    raise SystemExit(run(Orders(**given)))
