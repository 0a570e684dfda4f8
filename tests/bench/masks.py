"""Measure samplers and mask spaces on synthetic masks: `python tests/bench/masks.py out.json`.

An objective of a mask is `f(x) = sum a_i x_i + sum b_ij x_i x_j` over the switches (block, type)
of a model with 12 blocks, standardised to mean 0 and SD 1 over uniform masks. A study of 100
trials sees it with noise of SD .5. Its score is the true value of the trial with the best noisy
value, over the true value of the optimum: a random mask has 0, the optimum 1.

- `sparse`: x in {0, 1}; a, b ~ N(0, 1) for 2 n random pairs. No structure.
- `depth`: x in {-1, 1}; each type's effect is linear in depth with a random sign and crossing
  point, plus N(0, .35) of each switch and N(0, .15) of each pair of switches that are in one
  block, or neighbours in depth and of one type.
- `+lr`: a learning rate joins that explains half of the variance: `(f(x) + g(u)) / sqrt(2)`, with
  g a hump over the log scale, twice as steep on its upper side, standardised over uniform u.

Studies run through the project's own draw in memory, samplers and mask spaces by their registry
names; nothing is told what kind of objective it has. Seeds below 50 are for tuning; what is
reported has seeds from 100.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import surroundings
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairtune.adaptation.spaces import SPACES
from fairtune.config import Dimension, Float, digest
from fairtune.models.partition import partition
from fairtune.models.spec import UnitNames
from fairtune.models.units import Units
from fairtune.study.distributions import to_optuna
from fairtune.study.overlay import Draw, Drawn
from fairtune.study.samplers import SAMPLERS

BLOCKS = 12
NOISE = 0.5
PREFIX = "adaptation.mask"
LR = "optim.lr"
RANGE = Float(1e-5, 1e-2, log=True)
UP = [StudyDirection.MAXIMIZE]
FIRST_SEED = 100
PROBLEMS = {
    "sparse-12": ("sparse", 1, False),
    "depth-12": ("depth", 1, False),
    "sparse-24": ("sparse", 2, False),
    "sparse-48": ("sparse", 4, False),
    "sparse-96": ("sparse", 8, False),
    "depth-48": ("depth", 4, False),
    "depth-96": ("depth", 8, False),
    "sparse-24+lr": ("sparse", 2, True),
    "sparse-48+lr": ("sparse", 4, True),
    "sparse-96+lr": ("sparse", 8, True),
    "depth-48+lr": ("depth", 4, True),
    "depth-96+lr": ("depth", 8, True),
}
"""Kind of objective, unit types and whether a learning rate is searched, by name."""

FIELDS = {"topk": {"share": 0.5}}
"""Fields of mask spaces that have no default; all units of the model are of one size."""

TARGETS = {
    "sparse-24": 0.70,
    "sparse-48": 0.55,
    "sparse-96": 0.40,
    "depth-48": 0.70,
    "depth-96": 0.58,
    "sparse-24+lr": 0.56,
    "sparse-48+lr": 0.44,
    "sparse-96+lr": 0.32,
    "depth-48+lr": 0.56,
    "depth-96+lr": 0.464,
}
"""Least mean score of `auto` on the space `bits` after 100 trials."""


@dataclass(frozen=True)
class Quadratic:
    """`linear . s + s' pairs s / 2` over signs s in {-1, 1}.

    Attributes:
        linear: `(switches,)`.
        pairs: `(switches, switches)`, symmetric, zero on the diagonal.
    """

    linear: np.ndarray
    pairs: np.ndarray

    @classmethod
    def standard(cls, linear: np.ndarray, pairs: np.ndarray) -> Quadratic:
        spread = np.sqrt((linear**2).sum() + (np.triu(pairs) ** 2).sum())
        return cls(linear / spread, pairs / spread)

    def __call__(self, signs: np.ndarray) -> float:
        return float(self.linear @ signs + signs @ self.pairs @ signs / 2)

    def best(self, rng: np.random.Generator, starts: int = 60) -> float:
        """Return the highest value that single flips reach from `starts` random points."""
        found = -np.inf
        for start in range(starts):
            signs = (
                np.sign(self.linear) if start == 0 else rng.choice([-1.0, 1.0], len(self.linear))
            )
            gain = -2 * signs * (self.linear + self.pairs @ signs)
            while gain.max() > 1e-12:
                signs[gain.argmax()] *= -1
                gain = -2 * signs * (self.linear + self.pairs @ signs)
            found = max(found, self(signs))
        return found


def sparse(types: int, rng: np.random.Generator) -> Quadratic:
    """Return an objective without structure, written in signs."""
    count = BLOCKS * types
    pairs = np.zeros((count, count))
    for _ in range(2 * count):
        i, j = rng.choice(count, 2, replace=False)
        pairs[i, j] += (effect := rng.standard_normal())
        pairs[j, i] += effect
    # x = (1 + s) / 2 moves a part of each pair into its two switches.
    linear = rng.standard_normal(count) / 2 + pairs.sum(axis=1) / 4
    return Quadratic.standard(linear, pairs / 4)


def depth(types: int, rng: np.random.Generator) -> Quadratic:
    """Return an objective in which depth matters."""
    place = np.linspace(-1, 1, BLOCKS)[:, None]
    linear = rng.choice([-1, 1], types) * (place - rng.uniform(-0.8, 0.8, types))
    linear = (linear + rng.normal(0, 0.35, (BLOCKS, types))).ravel()
    block, kind = np.divmod(np.arange(BLOCKS * types), types)
    beside = np.abs(block[:, None] - block) == 1
    near = (block[:, None] == block) | (beside & (kind[:, None] == kind))
    pairs = np.triu(np.where(near, rng.normal(0, 0.15, near.shape), 0.0), 1)
    return Quadratic.standard(linear, pairs + pairs.T)


@dataclass(frozen=True)
class Hump:
    """What a learning rate does: mean 0 and SD 1 over a uniform position on its log scale."""

    centre: float
    mean: float
    spread: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Hump:
        raw = cls(rng.uniform(0.3, 0.8), 0.0, 1.0)
        seen = np.array([raw(u) for u in (np.arange(4096) + 0.5) / 4096])
        return cls(raw.centre, float(seen.mean()), float(seen.std()))

    def __call__(self, place: float) -> float:
        width = 0.3 if place < self.centre else 0.15
        raw = np.exp(-(((place - self.centre) / width) ** 2) / 2)
        return float((raw - self.mean) / self.spread)


@dataclass(frozen=True)
class Problem:
    """An objective over masks and perhaps a learning rate."""

    units: Units
    quadratic: Quadratic
    best: float
    hump: Hump | None

    @classmethod
    def drawn(cls, name: str, seed: int) -> Problem:
        kind, types, searched = PROBLEMS[name]
        rng = np.random.default_rng([seed, types, kind == "depth"])
        quadratic = (depth if kind == "depth" else sparse)(types, rng)
        best, hump = quadratic.best(rng), None
        if searched:
            hump = Hump.drawn(rng)
            best = (best + hump(hump.centre)) / np.sqrt(2)
        return cls(model(types), quadratic, best, hump)

    def score(self, mask: Sequence[str], params: Mapping[str, Any]) -> float:
        """Return the true value, as a part of the optimum's."""
        inside = set(mask)
        signs = np.array([1.0 if unit in inside else -1.0 for unit in self.units.names[1:]])
        value = self.quadratic(signs)
        if self.hump is not None:
            place = np.log(params[LR] / RANGE.low) / np.log(RANGE.high / RANGE.low)
            value = (value + self.hump(place)) / np.sqrt(2)
        return value / self.best


def model(types: int) -> Units:
    """Return the units of a model with 12 blocks and `types` types, one unit each."""
    kinds = [f"t{i}" for i in range(types)]
    names = UnitNames(
        blocks="blocks", types={k: (k,) for k in kinds}, singles={"stem": ("patch_embed",)}
    )
    inside = [(f"blocks.{block}.{k}.weight", 10) for block in range(BLOCKS) for k in kinds]
    return partition(names, [("patch_embed.weight", 10), *inside])


def study(problem: Problem, sampler: Any, space: Any, trials: int, seed: int) -> dict[str, float]:
    """Run one study; return its score, seconds per draw and different masks."""
    rng = np.random.default_rng([seed, 7])
    dimensions = {
        f"{PREFIX}.{space.registered_name}.{name}": dimension
        for name, dimension in space.dimensions(problem.units).items()
    }
    if problem.hump is not None:
        dimensions = {LR: RANGE, **dimensions}
    done: list[FrozenTrial] = []
    values, true, masks, spent = [], [], set(), 0.0
    for count in range(trials):
        began = time.perf_counter()
        point = drawn(done, dimensions, sampler, [seed, count])
        spent += time.perf_counter() - began
        params = point.params
        inner = {name.split(".", 3)[3]: v for name, v in params.items() if name != LR}
        mask = space.decode(inner, problem.units)
        masks.add(mask.hash)
        true.append(problem.score(mask.units, params))
        values.append(true[-1] * problem.best + NOISE * rng.standard_normal())
        done.append(finished(count, point, values[-1]))
    return {
        "score": true[int(np.argmax(values))],
        "seconds": spent / trials,
        "different": len(masks),
    }


def drawn(
    done: Sequence[FrozenTrial], dimensions: Mapping[str, Dimension], sampler: Any, mark: Any
) -> Drawn:
    """Draw one point as the ledger does."""
    draw = Draw(done, UP, lambda index: sampler.build(int(digest([mark, index])[:8], 16)))
    point = draw()
    for name, dimension in dimensions.items():
        point.suggest(name, dimension)
    return point


def finished(number: int, point: Drawn, value: float) -> FrozenTrial:
    """Return a complete trial, with what the sampler keeps beside it."""
    made = create_trial(
        state=TrialState.COMPLETE,
        value=value,
        params=dict(point.params),
        distributions={name: to_optuna(d) for name, d in point.dimensions.items()},
        system_attrs=point.system_attrs,
    )
    made.number = made._trial_id = number
    return made


def measure(
    names: Sequence[str],
    samplers: Sequence[str],
    spaces: Sequence[str],
    seeds: Sequence[int],
    trials: int,
    say: Callable[[str], object],
) -> list[dict[str, Any]]:
    """Return one row per objective, sampler and space."""
    rows = []
    for name in names:
        problems = {seed: Problem.drawn(name, seed) for seed in seeds}
        for space in spaces:
            types = [f"t{i}" for i in range(PROBLEMS[name][1])]
            member = SPACES.parse({space: {"types": types, **FIELDS.get(space, {})}})
            for sampler in samplers:
                made = SAMPLERS.parse(sampler)
                runs = [study(problems[s], made, member, trials, s) for s in seeds]
                rows.append(row(name, sampler, space, trials, runs))
                say(
                    f"{name:14} {sampler:8} {space:8} {rows[-1]['score']:.3f} "
                    f"+- {rows[-1]['se']:.3f}  {1000 * rows[-1]['seconds']:.1f} ms"
                )
    return rows


def row(
    name: str, sampler: str, space: str, trials: int, runs: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Return mean and standard error of some studies."""
    scores = [run["score"] for run in runs]
    target = TARGETS.get(name) if (sampler, space, trials) == ("auto", "bits", 100) else None
    mean = statistics.fmean(scores)
    return {
        "problem": name,
        "sampler": sampler,
        "space": space,
        "trials": trials,
        "seeds": len(runs),
        "score": mean,
        "se": statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else None,
        "seconds": statistics.fmean(run["seconds"] for run in runs),
        "different": statistics.fmean(run["different"] for run in runs),
        "target": target,
        "met": None if target is None else mean >= target,
    }


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a row is of."""
    return tuple(row[name] for name in ("problem", "sampler", "space", "trials"))


def main() -> None:
    """Measure and write, a file that is there being added to."""
    parser = argparse.ArgumentParser(description="Measure samplers on synthetic masks.")
    parser.add_argument("out", type=Path, help="JSON file; rows of it that are not redone stay")
    parser.add_argument("--seeds", type=int, default=20, help="studies per row")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="first seed")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS.names(), metavar="NAME")
    parser.add_argument("--spaces", nargs="+", default=["bits"], metavar="NAME")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    known = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    rows = measure(
        options.problems,
        options.samplers,
        options.spaces,
        seeds,
        options.trials,
        lambda line: sys.stderr.write(line + "\n"),
    )
    fresh = {identity(r) for r in rows}
    kept = [r for r in known["rows"] if identity(r) not in fresh]
    about = surroundings("masks.py")
    for one in rows:
        one["commit"] = about["commit"]
    commands = [*known.get("commands", []), about.pop("command")]
    content = {
        **about,
        "commands": list(dict.fromkeys(commands)),
        "noise": NOISE,
        "first_seed": options.first,
        "rows": [*kept, *rows],
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
