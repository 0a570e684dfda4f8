"""The section of docs/measured.md on many workers, and the short table of docs/storages.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {
    "ledger_ms": "inside the ledger",
    "busy_ms": "own work",
    "reap_ms": "`reap`",
    "claim_ms": "`claim`",
    "finish_ms": "`finish`",
    "report_ms": "reports",
    "draw_ms": "sampler",
}
TARGET = 50.0
"""Milliseconds inside the ledger that a trial may cost at the median."""


def cluster(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section of the JSON files that cluster.py wrote, one per sampler."""
    lines = [
        "## Many workers on one PostgreSQL",
        "",
        "Time of one trial inside the ledger's calls `reap`, `claim` and `finish`, less what the "
        "sampler took to draw, at the median and, in brackets, at the 95th percentile, in "
        "milliseconds. Own work is processor time of the worker; the rest is waiting for the "
        "database, and for a free core. Reports are those of all epochs of a trial, which read "
        "and write the study at rungs. Workers and server share the machine: the load says how "
        "busy it was.",
    ]
    for found in files:
        lines += ["", *_head(found), "", *_table(found["rows"])]
    return [*lines, ""]


def brief(found: Mapping[str, Any]) -> list[str]:
    """Return the lines for docs/storages.md: what a trial costs, and when 100 connections end."""
    rows, machine = found["rows"], found["machine"]
    worst = max(row["ledger_ms"]["median"] for row in rows)
    lost = sum(row["lost"] + row["doubled"] + len(row["violations"]) for row in rows)
    return [
        "| workers | ms in the ledger per trial, median (95 %) | connections at once | load |",
        "|---|---|---|---|",
        *(
            f"| {row['workers']} | {_spread(row['ledger_ms'])} | {row['connections']} "
            f"| {row['load']:.1f} |"
            for row in rows
        ),
        "",
        f"Measured by `{found['command']}` on {machine['cores']} cores of {machine['cpu']}, "
        f"which workers and server shared: {sum(row['trials'] for row in rows)} trials of "
        f"{_seconds(found)} s with masks of {found['matter']['width']} switches, "
        f"{'none' if lost == 0 else lost} lost, doubled or against a rule; the worst median is "
        f"{worst:.0f} ms. The most workers held {found['per_worker']:.2f} connections each at "
        f"once, so that PostgreSQL's default of 100 serves about {found['default_serves']} of "
        "them.",
    ]


def reach(found: Mapping[str, Any], reading: Mapping[str, Any], gpus: int = 1000) -> list[str]:
    """Return the lines for docs/cluster.md: what very many workers would ask of one database.

    Trials of T minutes on W workers end W / T a minute. Each takes the commits and the processor
    time of the server that were measured with few rows, and one reading of W rows, which is what
    its worker missed; each worker beats once a minute.

    Args:
        found: JSON of cluster.py; its row with the most workers is taken.
        reading: JSON of reading.py; its row with the most running rows is taken.
        gpus: W.
    """
    row = max(found["rows"], key=lambda each: int(each["workers"]))
    look = max(reading["rows"], key=lambda each: int(each["rows"]))
    trial = 1e3 * row["server_seconds"] / row["trials"]
    whole = look["whole_server_ms"] * gpus / look["rows"]
    beats = gpus / 60
    rows = []
    for minutes in (5, 30, 120):
        trials = gpus / (60 * minutes)
        commits = trials * row["commits"] + beats
        busy = (trials * (trial + whole) + beats * look["beat_server_ms"]) / 1e3
        rows.append(f"| {minutes} min | {trials:.2f} | {commits:.0f} | {busy:.2f} |")
    connections = found["per_worker"] * gpus
    return [
        f"{gpus:,} workers with one accelerator each, reckoned from what was measured:",
        "",
        "| a trial takes | trials a second | commits a second | busy cores of the database |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Measured: {row['workers']} workers whose trials take {_seconds(found)} s, "
        f"{row['trials'] / row['seconds']:.1f} trials a second, with {trial:.0f} ms of the "
        f"server's processor time and {row['commits']:.1f} commits a trial; a reading of "
        f"{look['rows']:,} rows that a worker did not know, {look['whole_ms'] / 1e3:.2f} s "
        f"({look['whole_server_ms']:.0f} ms of the server's), and again, all having beaten, "
        f"{look['beaten_ms']:.0f} ms; a beat, {look['beat_server_ms']:.1f} ms of the server's. "
        f"Not measured: so many workers at once. They would hold about {connections:,.0f} "
        f"connections: beyond about {found['default_serves']} workers PostgreSQL needs a larger "
        "`max_connections`, a pooler, or `fairtune proxy`, which needs 18 however many ask it.",
    ]


def _head(found: Mapping[str, Any]) -> list[str]:
    matter, machine, rows = found["matter"], found["machine"], found["rows"]
    over = [row["workers"] for row in rows if row["ledger_ms"]["median"] > TARGET]
    met = "met" if not over else f"**missed** with {', '.join(map(str, over))} workers"
    return [
        f"- command: `{found['command']}`",
        f"- commit: `{found['commit'] or 'unknown'}`",
        f"- machine: {machine['cores']} cores of {machine['cpu']}; PostgreSQL with "
        f"max_connections={matter['max_connections']}"
        + (f"; before other work of the machine (nice {matter['nice']})" * (matter["nice"] < 0)),
        f"- run: {matter['each']} trials a worker of {_seconds(found)} s and {matter['epochs']} "
        f"epochs, masks of {matter['width']} switches, sampler `{matter['sampler']}`",
        f"- at most {TARGET:.0f} ms inside the ledger at the median: {met}",
        f"- connections: {found['per_worker']:.2f} a worker at once with the most workers (one, "
        "and a second one while it beats beside another call), so the default of 100 serves "
        f"about {found['default_serves']} workers",
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ["workers", *NAMES.values(), "commits a trial", "load", "trials", "lost", "doubled"]
    return [
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(_row(row))} |" for row in rows),
    ]


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["workers"]),
        *(_spread(row[name]) for name in NAMES),
        f"{row['commits']:.1f}",
        f"{row['load']:.1f}",
        str(row["trials"]),
        str(row["lost"]),
        str(row["doubled"] + len(row["violations"])),
    ]


def _spread(found: Mapping[str, float]) -> str:
    return f"{found['median']:.0f} ({found['p95']:.0f})"


def _seconds(found: Mapping[str, Any]) -> str:
    low, high = found["matter"]["seconds"]
    return f"{low:g} to {high:g}"
