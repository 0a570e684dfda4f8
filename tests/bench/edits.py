"""Search edits of an affine model in every way: `python tests/bench/edits.py edits.json`.

Everything is known of the model (`tests/editing/kit_affine.py`): its gradient is a multiple of one
direction, so the cosine of an edit with it says what the queries were worth. Every mode of the
registry has the same queries of the same batches, at its defaults; `measured.py --edits` makes the
table. About four minutes; `--quick` takes a hundredth of the queries, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "editing")]

from kit_affine import Affine, Batches, neg_ce, uniform  # noqa: E402
from machine import surroundings  # noqa: E402

from fairtune.config.registry import name_of, written  # noqa: E402
from fairtune.editing import MODES  # noqa: E402
from fairtune.editing.edit import EIGHT_BIT  # noqa: E402

PIXELS = 224 * 224
BATCH = 128
REFIT = 160
RECOMMENDED, PUBLISHED = "fzoo", "gezo_as_published"
OBJECTIVES = ("neg_ce", "uniform", "uniform, head refitted")
MORE: tuple[dict[str, Any], ...] = (
    {"gezo_as_published": {"init_step": 0.03}},
    {"gezo": {"momentum": 0.0}},
    {"white": {"optimizer": "sgd"}},
)
"""Cases besides the defaults; the first is what the published README says."""


def cases() -> list[Any]:
    """Return every mode at its defaults, and `MORE`."""
    return [*({name: {}} for name in MODES), *MORE]


def search(member: Any, objective: str, queries: int, seed: int) -> dict[str, float]:
    """Return what one search found.

    Args:
        member: Of the registry of modes.
        objective: One of `OBJECTIVES`.
        queries: Budget; a step that no longer fits is not made.
        seed: Of model, batches and search.
    """
    mode: Any = MODES.parse(member)
    model = Affine.drawn(PIXELS, seed=seed)
    loss = neg_ce if objective == "neg_ce" else uniform
    batches = Batches(model, loss, size=BATCH, seed=seed, weight=1e-4)
    steps = queries // mode.queries if mode.queries else 0
    generator = torch.Generator().manual_seed(seed)
    began, asked, fitted = time.perf_counter(), 0, 0
    optimiser = mode.build(torch.zeros(PIXELS), steps, generator)
    for _ in range(steps):
        batch = batches.next()
        optimiser.step(batch)
        asked += batch.asked
        if objective.endswith("refitted") and asked - fitted >= REFIT:
            model.refit(optimiser.point)
            fitted = asked
    point = optimiser.point
    return {
        "cos": model.cosine(point),
        "l2": float(point.norm()),
        "rms": float(point.norm()) / math.sqrt(PIXELS) * EIGHT_BIT,
        # The published objective may go either way.
        "moved": abs(float(model.direction @ point)),
        "accuracy": model.accuracy(point),
        "queries": asked,
        "seconds": time.perf_counter() - began,
    }


def measure(queries: int, seeds: int) -> dict[str, Any]:
    """Return every figure: means over seeds, and the cosine of each."""
    rows = []
    for objective in OBJECTIVES:
        for member in cases():
            runs = [search(member, objective, queries, seed) for seed in range(seeds)]
            means = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
            fields = next(iter(member.values()))
            mode: Any = MODES.parse(member)
            row = {
                "objective": objective,
                "mode": name_of(mode),
                "changed": fields,
                "fields": written(mode)[name_of(mode)],
                "cosines": [run["cos"] for run in runs],
                **means,
            }
            rows.append(row)
            sys.stdout.write(_line(row))
    return {
        "pixels": PIXELS,
        "batch": BATCH,
        "budget": queries,
        "seeds": seeds,
        "refit_every": REFIT,
        "accuracy_before": statistics.mean(before(seed) for seed in range(seeds)),
        "recommended": RECOMMENDED,
        "against": {"mode": PUBLISHED, "changed": MORE[0][PUBLISHED]},
        "ratios": {objective: ratio(rows, objective) for objective in OBJECTIVES},
        "rows": rows,
    }


def before(seed: int) -> float:
    """Return the share of rows whose group the head of a model tells, without an edit."""
    return Affine.drawn(PIXELS, seed=seed).accuracy(torch.zeros(PIXELS))


def ratio(rows: list[dict[str, Any]], objective: str) -> float:
    """Return the cosine of the recommended mode over that of the published one, README's step."""
    cosines = {
        (row["mode"], tuple(row["changed"])): row["cos"]
        for row in rows
        if row["objective"] == objective
    }
    return float(cosines[RECOMMENDED, ()] / cosines[PUBLISHED, ("init_step",)])


def _line(row: dict[str, Any]) -> str:
    name = f"{row['mode']} {row['changed'] or ''}"
    figures = f"cos {row['cos']:.3f}  rms {row['rms']:6.1f}  moved {row['moved']:7.2f}"
    return (
        f"{row['objective']:<24} {name:<42} {figures}  accuracy {row['accuracy']:.3f}  "
        f"{row['queries']:.0f} queries  {row['seconds']:.1f} s\n"
    )


def main() -> None:
    """Measure, print and write."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    reader.add_argument("out", type=Path)
    reader.add_argument("--seeds", type=int, default=3)
    reader.add_argument("--queries", type=int, default=2000)
    reader.add_argument("--quick", action="store_true", help="see that it runs, in seconds")
    given = reader.parse_args()
    torch.set_num_threads(1)
    found = measure(80, 1) if given.quick else measure(given.queries, given.seeds)
    for objective, times in found["ratios"].items():
        sys.stdout.write(f"{objective}: {RECOMMENDED} has {times:.1f} x the cosine\n")
    record = surroundings("edits.py") | {"quick": given.quick}
    given.out.write_text(json.dumps(record | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
