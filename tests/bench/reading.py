"""Measure what one worker's look at a study costs while very many others run: `reading.json`.

A study of N running rows, masks of 48 switches, on a PostgreSQL of its own. Timed are a reading of
all rows by a worker that knew none of them (what it finds when it comes back from a run that took
as long as theirs), one after every row has beaten, and one after nothing has changed; and how much
processor time of the server a reading and a beat take.

    python tests/bench/reading.py --rows 100,1000 --out reading.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "study"), str(TESTS / "faults")]

from cluster import processor_time  # noqa: E402
from kit_ledger import Search, bits, open_ledger  # noqa: E402
from kit_servers import Postgres, fresh_database  # noqa: E402

from fairtune.study.ledger import Claim, Ledger  # noqa: E402

WIDTH = 48


def measure(server: Postgres, count: int, rounds: int) -> dict[str, Any]:
    """Return the figures of a study of `count` running rows."""
    with fresh_database(server.url) as url, open_ledger(url, slot=1) as worker:
        claims = worker.claim([Search(count, bits(WIDTH))], at_most=count)
        assert len(claims) == count
        with open_ledger(url, slot=2) as other:
            other.rows()
            beats = _cost(server, lambda: _beat(worker, claims))
            changed = _cost(server, lambda: len(other.rows()))
            same = [_cost(server, lambda: len(other.rows())) for _ in range(rounds)]
        whole = [_whole(server, url) for _ in range(rounds)]
    return {
        "rows": count,
        "whole_ms": _median(whole, "ms"),
        "whole_server_ms": _median(whole, "server_ms"),
        "beaten_ms": changed["ms"],
        "same_ms": _median(same, "ms"),
        "beat_server_ms": beats["server_ms"] / count,
        "beat_ms": beats["ms"] / count,
    }


def _whole(server: Postgres, url: str) -> dict[str, float]:
    with open_ledger(url, slot=3) as fresh:
        return _cost(server, lambda: len(fresh.rows()))


def _beat(worker: Ledger, claims: list[Claim]) -> None:
    for claim in claims:
        worker._desk.beat(claim)


def _cost(server: Postgres, do: Callable[[], object]) -> dict[str, float]:
    used, began = processor_time(server), time.perf_counter()
    do()
    seconds = time.perf_counter() - began
    return {"ms": 1e3 * seconds, "server_ms": 1e3 * (processor_time(server) - used)}


def _median(found: list[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in found)


def main() -> None:
    """Measure and write the file."""
    reader = argparse.ArgumentParser(description="Measure what looking at a large study costs.")
    reader.add_argument("--rows", default="100,1000", help="numbers of running rows")
    reader.add_argument("--rounds", type=int, default=7, help="repeats of each reading")
    reader.add_argument("--out", type=Path, default=Path("reading.json"), help="file to write")
    given = reader.parse_args()
    with Postgres(max_connections="100") as server:
        rows = [measure(server, int(word), given.rounds) for word in given.rows.split(",")]
    from machine import surroundings  # only now: it brings torch

    found = {**surroundings("reading.py"), "width": WIDTH, "rounds": given.rounds, "rows": rows}
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
