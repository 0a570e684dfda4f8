"""Measure samplers on two objectives of synthetic masks: `python tests/bench/fronts.py out.json`.

The two objectives are `f` and `r f + sqrt(1 - r^2) g` with r = -.5 and f, g two objectives of one
kind of `masks.py`: each has mean 0 and SD 1 over uniform masks, and they pull against each other.
A study of 100 trials sees both with noise of SD .5. Its score is the area above (-2, -2) that the
*true* values of its reported front cover (the points that the noisy values say are not dominated),
in units of the area that as many uniform masks cover without noise, mean over 20 draws. What the
noisy values cover is reported beside it: it overstates itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import surroundings
from masks import BLOCKS, NOISE, Quadratic, depth, sparse
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairtune.config import Choice, digest
from fairtune.evaluation.pareto import front
from fairtune.study.distributions import to_optuna
from fairtune.study.overlay import Draw
from fairtune.study.samplers import SAMPLERS

PULL = -0.5
FLOOR = -2.0
UP = [StudyDirection.MAXIMIZE] * 2
KINDS = {"sparse": sparse, "depth": depth}


def objectives(kind: str, types: int, seed: int) -> tuple[Quadratic, Quadratic]:
    """Return two objectives over the same switches."""
    rng = np.random.default_rng([seed, types, kind == "depth"])
    return KINDS[kind](types, rng), KINDS[kind](types, rng)


def values(pair: tuple[Quadratic, Quadratic], signs: np.ndarray) -> tuple[float, float]:
    """Return the true values of a mask."""
    first, other = (objective(signs) for objective in pair)
    return first, PULL * first + np.sqrt(1 - PULL**2) * other


def volume(points: np.ndarray) -> float:
    """Return the area above (FLOOR, FLOOR) that points `(n, 2)` cover."""
    best = points[np.argsort(-points[:, 0])]
    area, height = 0.0, FLOOR
    for x, y in best:
        if x > FLOOR and y > height:
            area += (x - FLOOR) * (y - height)
            height = y
    return area


def study(kind: str, types: int, name: str, trials: int, seed: int) -> dict[str, float]:
    """Run one study; return its score and what it reports, in the same units."""
    pair, rng = objectives(kind, types, seed), np.random.default_rng([seed, 7])
    count = BLOCKS * types
    space = {f"m.bits.t{i % types}.{i // types}": Choice((False, True)) for i in range(count)}
    distributions = {name: to_optuna(d) for name, d in space.items()}
    done: list[FrozenTrial] = []
    true = []
    sampler = SAMPLERS.parse(name)
    for number in range(trials):
        mark = int(digest([seed, number])[:8], 16)
        point = Draw(done, UP, lambda index, mark=mark: sampler.build(mark))()
        params = {key: point.suggest(key, d) for key, d in space.items()}
        true.append(values(pair, np.array([1.0 if on else -1.0 for on in params.values()])))
        seen = [v + NOISE * float(rng.standard_normal()) for v in true[-1]]
        made = create_trial(
            state=TrialState.COMPLETE,
            values=seen,
            params=params,
            distributions=distributions,
        )
        made.number = made._trial_id = number
        done.append(made)
    noisy = np.array([t.values for t in done])
    chosen = front(noisy, [1, 1])
    uniform = [
        volume(np.array([values(pair, rng.choice([-1.0, 1.0], count)) for _ in range(trials)]))
        for _ in range(20)
    ]
    unit = statistics.fmean(uniform)
    return {
        "score": volume(np.array(true)[chosen]) / unit,
        "reported": volume(noisy[chosen]) / unit,
        "points": float(chosen.sum()),
    }


def measure(
    samplers: Sequence[str], problems: Sequence[str], seeds: Sequence[int], trials: int
) -> list[dict[str, Any]]:
    """Return one row per problem (`sparse-48`) and sampler."""
    rows = []
    for problem in problems:
        kind, switches = problem.split("-")
        for name in samplers:
            runs = [study(kind, int(switches) // BLOCKS, name, trials, s) for s in seeds]
            scores = [run["score"] for run in runs]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            rows.append(
                {
                    "problem": problem,
                    "sampler": name,
                    "seeds": len(runs),
                    "score": statistics.fmean(scores),
                    "se": spread / len(scores) ** 0.5,
                    "reported": statistics.fmean(run["reported"] for run in runs),
                    "points": statistics.fmean(run["points"] for run in runs),
                }
            )
            last = rows[-1]
            sys.stderr.write(
                f"{problem:10} {name:8} {last['score']:.2f} +- {last['se']:.2f}  reported "
                f"{last['reported']:.2f}, {last['points']:.1f} points\n"
            )
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure samplers on two objectives.")
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--seeds", type=int, default=8, help="studies per row")
    parser.add_argument("--first", type=int, default=100, help="first seed")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe", "nsga2", "blr_ts"])
    parser.add_argument("--problems", nargs="+", default=["sparse-48", "depth-48"])
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    rows = measure(options.samplers, options.problems, seeds, options.trials)
    content = {**surroundings("fronts.py"), "rows": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
