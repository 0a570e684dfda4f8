"""What many workers cost each other: time inside the ledger's calls on one PostgreSQL.

    python tests/bench/cluster.py [--workers 1,8,16,32,64] [--out cluster.json] [--quick]

Starts a PostgreSQL of its own and, for each number of workers, that many processes without torch
on one study: real ledger, real sampler, masks of 48 switches, runs that sleep 8 to 12 seconds and
report eight epochs. For each trial the time inside `reap`, `claim` and `finish` is added up, less
what the sampler took to draw; reports at the end of epochs, which also read and write the study,
stand apart. All workers and the server share this machine, so on a small one the figures of many
workers show its load as much as the ledger.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "study"), str(TESTS / "faults")]

import psutil  # noqa: E402
import sqlalchemy  # noqa: E402
from crew import Orders, Trade, nursery  # noqa: E402
from kit_servers import Postgres, fresh_database  # noqa: E402

from fairtune.study.invariants import violations  # noqa: E402
from fairtune.study.ledger import Claim, Decision, Ledger, Proposal, Row  # noqa: E402
from fairtune.study.rows import SEARCH, roots  # noqa: E402
from fairtune.study.storages import engine_of  # noqa: E402
from fairtune.study.worker import Limits, StopFlag, work  # noqa: E402

DEFAULT_CONNECTIONS = 100
RESERVED = 3
"""Of PostgreSQL's default of 100 connections, those kept for its administrator."""
INSIDE = ("reap", "claim", "finish")
CALLS = (*INSIDE, "report")


@dataclass
class Meter:
    """Seconds that one worker spent, by trial.

    Attributes:
        trials: Per trial the seconds in each of the calls, and in the sampler (`draw`); `busy` are
            those of this process's own work inside them.
        commits: Write transactions.
    """

    trials: list[dict[str, float]] = field(default_factory=list)
    commits: int = 0
    _now: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        """Return `do`, whose time is added to that of `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began, busy = time.perf_counter(), time.thread_time()
            try:
                return do(*args, **kwargs)
            finally:
                self._add(name, time.perf_counter() - began)
                if name in INSIDE:
                    self._add("busy", time.thread_time() - busy)
                elif name == "draw":
                    self._add("busy", busy - time.thread_time())

        return call

    def _add(self, name: str, seconds: float) -> None:
        self._now[name] = self._now.get(name, 0.0) + seconds

    def end_trial(self) -> None:
        """Close the account of a trial."""
        spent, self._now = self._now, {}
        spent["claim"] = spent.get("claim", 0.0) - spent.get("draw", 0.0)
        self.trials.append(spent)

    def drop(self) -> None:
        """Forget what was spent since the last trial: nothing was there to claim."""
        self._now = {}


class TimedDraw:
    """A draw whose sampler is timed."""

    def __init__(self, draw: Callable[[], Any], meter: Meter) -> None:
        self._draw, self._meter = draw, meter

    def __call__(self) -> Any:
        drawn = self._meter.timed("draw", self._draw)()
        return _Suggesting(self._meter.timed("draw", drawn.suggest))


@dataclass
class _Suggesting:
    suggest: Callable[..., Any]


@dataclass
class TimedPhase:
    """A phase whose sampler is timed."""

    phase: Any
    meter: Meter

    @property
    def name(self) -> str:
        return str(self.phase.name)

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Any) -> Proposal | None:
        found: Proposal | None = self.phase.propose(rows, TimedDraw(draw, self.meter))
        return found

    def budget(self) -> int | None:
        budget: int | None = self.phase.budget()
        return budget


def member(orders: Orders, path: str) -> None:
    """Be one worker and write down what it spent."""
    meter, stop = Meter(), StopFlag()
    with orders.ledger() as ledger:
        _watch(ledger, meter)
        began = time.process_time()
        trade = Trade(orders, stop)

        def execute(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Any]]:
            for claim in claims:
                report: Callable[..., Decision] = meter.timed("report", claim.report)
                claim.report = report  # type: ignore[method-assign]
            yield from trade(claims)

        phases = [TimedPhase(phase, meter) for phase in orders.phases()]
        left = work(ledger, phases, execute, Limits(idle=orders.idle), stop)
        busy = time.process_time() - began
    found = asdict(meter) | {"left": left.name, "busy": busy, "memory": _memory()}
    Path(path).write_text(json.dumps(found))


def _watch(ledger: Ledger, meter: Meter) -> None:
    finish, claim = meter.timed("finish", ledger.finish), meter.timed("claim", ledger.claim)

    def finished(*args: Any) -> None:
        finish(*args)
        meter.end_trial()

    def claimed(*args: Any, **kwargs: Any) -> Any:
        found = claim(*args, **kwargs)
        if not found:
            meter.drop()
        return found

    def counted(_: Any) -> None:
        meter.commits += 1

    for name, do in (("finish", finished), ("claim", claimed)):
        setattr(ledger, name, do)
    ledger.reap = meter.timed("reap", ledger.reap)  # type: ignore[method-assign]
    sqlalchemy.event.listen(engine_of(ledger._family.opened.storage), "commit", counted)


def _memory() -> float:
    return psutil.Process().memory_full_info().uss / 2**20


def crowd(server: Postgres, workers: int, orders: Orders, each: int) -> dict[str, Any]:
    """Return what `workers` workers spent on one study."""
    context = nursery("cluster")
    with fresh_database(server.url) as url, tempfile.TemporaryDirectory() as folder:
        orders = replace(orders, url=url, trials=workers * each)
        orders.ledger().close()
        used, began = processor_time(server), time.monotonic()
        members = []
        for slot in range(workers):
            mine = replace(orders, slot=slot)
            member_ = context.Process(target=member, args=(mine, f"{folder}/{slot}.json"))
            member_.start()
            members.append(member_)
            time.sleep(0.05)
        peak, load = _connections(url, members)
        took = time.monotonic() - began
        spent = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
        with orders.ledger() as ledger:
            rows = ledger.rows()
    return {
        "workers": workers,
        "seconds": took,
        "connections": peak,
        "load": load,
        "server_seconds": processor_time(server) - used,
        **_judged(rows, orders, [m.exitcode for m in members]),
        **_summed(spent, len(roots(rows))),
    }


def _connections(url: str, members: Sequence[Any]) -> tuple[int, float]:
    """Return the most connections seen at once and the highest load, until all have left."""
    engine = sqlalchemy.create_engine(url)
    asked = "select count(*) from pg_stat_activity where datname = current_database()"
    peak, load = 0, 0.0
    while any(m.is_alive() for m in members):
        with engine.connect() as connection:
            found = connection.exec_driver_sql(asked).scalar_one()
        peak, load = max(peak, int(found) - 1), max(load, os.getloadavg()[0])
        time.sleep(0.25)
    engine.dispose()
    return peak, round(load, 2)


def processor_time(server: Postgres) -> float:
    """Return processor time of the server, of its processes that have left too."""
    main = psutil.Process(server.pid)
    own = main.cpu_times()
    used = own.user + own.system + own.children_user + own.children_system
    for child in main.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = child.cpu_times()
            used += spent.user + spent.system
    return float(used)


def _judged(rows: Sequence[Row], orders: Orders, codes: Sequence[int]) -> dict[str, Any]:
    done = {row.key for row in rows if row.state == "complete"}
    return {
        "trials": orders.trials,
        "lost": orders.trials - len(done),
        "doubled": sum(row.state == "complete" for row in rows) - len(done),
        "void_rows": sum(row.reason in ("budget", "duplicate") for row in rows),
        "violations": violations({SEARCH: rows}, orders.trials),
        "crashed": sum(code != 0 for code in codes),
    }


def _summed(spent: Sequence[Mapping[str, Any]], trials: int) -> dict[str, Any]:
    each = [trial for one in spent for trial in one["trials"]]
    inside = [sum(t.get(name, 0.0) for name in INSIDE) for t in each]
    return {
        "ledger_ms": _spread(inside),
        **{f"{name}_ms": _spread([t.get(name, 0.0) for t in each]) for name in CALLS},
        "busy_ms": _spread([t.get("busy", 0.0) for t in each]),
        "draw_ms": _spread([t.get("draw", 0.0) for t in each]),
        "commits": sum(one["commits"] for one in spent) / trials,
        "worker_seconds": sum(one["busy"] for one in spent),
        "memory_mib": statistics.median(one["memory"] for one in spent),
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile in milliseconds."""
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"median": 1e3 * statistics.median(ordered), "p95": 1e3 * high}


def main() -> None:
    """Measure and write the file."""
    reader = argparse.ArgumentParser(description="Measure many workers on one PostgreSQL.")
    reader.add_argument("--workers", default="1,8,16,32,64", help="numbers of workers")
    reader.add_argument("--trials", type=int, default=16, help="trials per worker")
    reader.add_argument("--sampler", default="random", help="a sampler of fairtune")
    reader.add_argument("--out", type=Path, default=Path("cluster.json"), help="file to write")
    reader.add_argument("--quick", action="store_true", help="seconds; measures nothing real")
    given = reader.parse_args()
    counts = [int(word) for word in ("1,3" if given.quick else given.workers).split(",")]
    each, seconds = (2, (0.1, 0.2)) if given.quick else (given.trials, (8.0, 12.0))
    orders = Orders(
        url="",
        trials=0,
        seconds=seconds,
        epochs=8,
        width=48,
        grace=600.0,
        beat_every=60.0,
        sampler=given.sampler,
        idle=0.2 if given.quick else 2.0,
    )
    most = 4 * max(counts) + 10
    with Postgres(max_connections=str(most)) as server:
        rows = []
        for count in counts:
            rows.append(crowd(server, count, orders, each))
            sys.stderr.write(f"{json.dumps(rows[-1])}\n")
    from machine import surroundings  # only now: it brings torch

    matter = {"sampler": given.sampler, "width": orders.width, "seconds": list(seconds)}
    matter |= {"nice": os.nice(0), "epochs": orders.epochs, "each": each, "max_connections": most}
    found = {**surroundings("cluster.py"), "quick": given.quick, "matter": matter, "rows": rows}
    largest = max(rows, key=lambda row: int(row["workers"]))
    found["per_worker"] = largest["connections"] / largest["workers"]
    found["default_serves"] = int((DEFAULT_CONNECTIONS - RESERVED) / found["per_worker"])
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
