"""Measure the inner loop side by side with a plain one: `python tests/bench/loop.py`.

In every round each side makes one epoch of the same images with the same number of steps and
scores the same validation images, so that a change of the machine's load meets all sides alike.
A factor is the median over rounds of (seconds of the plain loop / seconds of ours).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import surroundings
from plain import How, Plain
from run import REAL, TINY, say, seconds

from fairtune.adaptation.spaces import SPACES
from fairtune.config import parse, settings
from fairtune.models import load, weights
from fairtune.training.cuts import Expected
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one

TARGETS = {"random_masks": 2.5, "last_3_blocks": 6.0, "readout_again": 40.0, "steady_state": 0.6}
WITHOUT_BF16 = 1.3
"""Target for random masks where the processor has no bf16 instructions."""


@dataclass(frozen=True)
class Sides:
    """What is compared.

    Attributes:
        session: Holds data and model.
        recipe: Resolved; its mask is a placeholder.
        train, val: Rows of one epoch and of its validation.
        plain: The other side.
    """

    session: Session
    recipe: Recipe
    train: np.ndarray
    val: np.ndarray
    plain: Plain

    def masked(self, mask: list[str]) -> Recipe:
        """Return the recipe with another mask."""
        part = self.recipe.adaptation.model_copy(update={"mask": tuple(sorted(mask))})
        return self.recipe.model_copy(update={"adaptation": part})

    def lane(self, mask: list[str]) -> Lane:
        """Return a lane that trains on the rows of this comparison."""
        recipe = self.masked(mask)
        made = Lane(recipe, Seeds(), self.session.ground(recipe))
        size = recipe.optim.batch_size
        made.loader = made.ground.loader(
            self.train, size, edit=None, serve=made.start.server(size)
        )
        return made

    def ours(self, lane: Lane) -> Callable[[], None]:
        """Return one epoch of ours with its validation."""

        def epoch() -> None:
            lane.epoch()
            lane.score(self.val)

        return epoch


def main() -> None:
    """Measure and write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        sides = opened(options, Path(folder))
        found = measured(sides, options.rounds)
    report = {
        "figures": found,
        "quick": options.quick,
        "rounds": options.rounds,
        "matter": {
            "data": sides.recipe.data.dataset,
            "model": sides.recipe.model.name,
            "image_size": sides.recipe.model.image_size,
            "train_rows": len(sides.train),
            "val_rows": len(sides.val),
            "batch_size": sides.recipe.optim.batch_size,
            "precision": sides.recipe.fit.precision,
            "decoding_processes": options.workers,
        },
        **surroundings("loop.py"),
    }
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    say(f"written to {options.out}")


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Measure fairtune's inner loop.")
    parser.add_argument("--quick", action="store_true", help="few and small: checks the script")
    parser.add_argument("--rounds", type=int, default=5, help="epochs a median is taken of")
    parser.add_argument("--images", type=int, help="training images of an epoch, default: all")
    parser.add_argument("--weights", type=Path, help=f"weights of {REAL[0]}, if not in the cache")
    parser.add_argument("--data-root", type=Path, help="folder with ham10000_mini112")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes of the other")
    parser.add_argument("--threads", type=int, help="torch threads, default: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("loop.json"), help="file to write")
    return parser.parse_args()


def opened(options: argparse.Namespace, scratch: Path) -> Sides:
    """Open data and model; the prefix is kept in a cache of its own and thrown away."""
    own = dataclasses.replace(settings(), offline=True, device="cpu")
    given = None if options.weights is None else str(options.weights.resolve())
    held = given or ("auto" if weights.cached(load(REAL[0]), own) else None)
    real = held is not None and not options.quick
    name, size = REAL if real else TINY
    roots = [] if options.data_root is None else [options.data_root]
    skin = any((root / "ham10000_mini112").is_dir() for root in (*roots, *own.data))
    data = {"dataset": "ham10000_mini112", "target": "malignant", "attributes": ["age"]}
    if not skin:
        data = {"dataset": "nih-cxr-64", "target": "abnormal", "attributes": ["age"]}
    fields = {
        "data": data,
        "model": {"name": name, "image_size": size, "weights": held if real else "none"},
        "adaptation": {"mask": "block:all"},
        "optim": {"lr": 1e-5, "epochs": 10, "batch_size": 32},
        "fit": {"precision": "fp32" if options.quick else "auto"},
    }
    session = Session(dataclasses.replace(own, cache=scratch) if options.quick else own, roots)
    recipe = session.resolve(parse(Recipe, fields))
    # As in a study that expects many runs of late blocks: what is before them is kept.
    depth = session.units(recipe).depth
    session.expected = Expected({depth - 3: 1e3}, recipe.optim.epochs)
    ground = session.ground(recipe)
    train = ground.pack.rows("train")[: 128 if options.quick else options.images]
    val = ground.pack.rows("val")[: 64 if options.quick else None]
    plain = Plain(ground, train, val, recipe.optim.batch_size, options.workers)
    return Sides(session, recipe, train, val, plain)


def measured(sides: Sides, rounds: int) -> dict[str, Any]:
    """Return all figures."""
    ground = sides.session.ground(sides.recipe)
    units = ground.units
    late = [u for u in units.names if (units.depth_of(u) or 0) >= units.depth - 3]
    late = [u for u in late if units.depth_of(u) is not None]
    began = time.perf_counter()
    last = sides.lane(late)
    making = time.perf_counter() - began
    say(f"last 3 blocks: {last.start.why}")
    readout(sides)
    rng = np.random.default_rng(0)
    half = sides.recipe.fit.precision == "bf16"
    times: dict[str, list[float]] = {}
    for i in range(rounds + 1):
        mask = random_mask(units, rng)
        tensors = list(units.tensors(mask))
        plainly = {
            "plain": How(),
            "packed": How(packed=True),
            "skipped": How(packed=True, skipped=True),
            "half": How(packed=True, skipped=True, half=half),
            "unscored": How(packed=True, skipped=True, half=half, scored=False),
        }
        acts = {
            name: (lambda how=how, tensors=tensors: sides.plain.epoch(tensors, how))
            for name, how in plainly.items()
        }
        acts |= {
            "random": sides.ours(sides.lane(mask)),
            "late": sides.ours(last),
            "readout": lambda: readout(sides),
        }
        for name, act in acts.items():
            took = seconds(act)
            if i:  # the first round warms up
                times.setdefault(name, []).append(took)
        say(f"round {i}: " + "  ".join(f"{n} {t[-1]:.2f} s" for n, t in times.items()))
    return figures(sides, times, making) | steady(sides, rounds)


def readout(sides: Sides) -> None:
    """Make one linear readout, as a later trial does; its features are kept."""
    train_one(Job(sides.masked([]), Seeds()), sides.session)


def random_mask(units: Any, rng: np.random.Generator) -> list[str]:
    """Return a random mask of FairTune's space: three bits for each block."""
    space = SPACES.parse({"bits": {"types": ["norm", "attn", "mlp"]}})
    names = space.dimensions(units)
    return list(space.decode({name: bool(rng.integers(2)) for name in names}, units).units)


def figures(sides: Sides, times: dict[str, list[float]], making: float) -> dict[str, Any]:
    """Return the factors against the plain loop and between its steps."""
    half = sides.recipe.fit.precision == "bf16"
    wanted = TARGETS | ({} if half else {"random_masks": WITHOUT_BF16})

    def factor(slow: str, fast: str) -> float:
        return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))

    images = len(sides.train)
    found = {
        "plain_images": figure(images / statistics.median(times["plain"]), "images/s"),
        "random_masks": figure(factor("plain", "random"), "x plain", wanted["random_masks"]),
        "last_3_blocks": figure(factor("plain", "late"), "x plain", wanted["last_3_blocks"]),
        "readout_again": figure(
            factor("plain", "readout"), "x one plain epoch", wanted["readout_again"]
        ),
        "by_decoding_once": figure(factor("plain", "packed"), "x"),
        "by_skipped_gradients": figure(factor("packed", "skipped"), "x"),
        "by_bf16": figure(factor("skipped", "half"), "x"),
        "by_scoring": figure(factor("half", "unscored"), "x if nothing were scored"),
        "by_the_rest": figure(factor("half", "random"), "x"),
        "prefix_made_in": figure(making, "s"),
    }
    for name, one in found.items():
        say(f"  {name}: {one['value']:.3g} {one['unit']}{judged(one)}")
    return found


def steady(sides: Sides, rounds: int) -> dict[str, Any]:
    """Return the share of the rate of the model's own products that a full step reaches."""
    lane = sides.lane(list(sides.session.units(sides.recipe).names))
    batch = next(iter(lane.loader.epoch()))
    step, ideal = [], []
    for i in range(2 + 4 * rounds):
        took = seconds(lambda: float(lane.step(batch)))
        if i >= 2:
            step.append(took)
            ideal.append(products(sides, len(batch)))
    share = statistics.median(ideal) / statistics.median(step)
    found = figure(share, "of the rate of the matrix products", TARGETS["steady_state"])
    say(f"  steady_state: {share:.3g}{judged(found)}")
    return {"steady_state": found}


def products(sides: Sides, batch: int) -> float:
    """Return the seconds of all products of the linear layers of one full step.

    Operations over this time is the harmonic mean of the rates, weighted by operations: forward,
    gradient of the input and gradient of the weight of every layer, in the dtype of the run.
    """
    backbone = sides.session.ground(sides.recipe).backbone
    dtype = torch.bfloat16 if sides.recipe.fit.precision == "bf16" else torch.float32
    rows = batch * (backbone.tokens + 1)
    shapes: dict[tuple[int, int], int] = {}
    for module in backbone.net.modules():
        if isinstance(module, torch.nn.Linear):
            shape = (module.in_features, module.out_features)
            shapes[shape] = shapes.get(shape, 0) + 1
    return sum(count * layer(rows, *shape, dtype) for shape, count in shapes.items())


def layer(rows: int, wide: int, out: int, dtype: torch.dtype) -> float:
    """Return the seconds of the three products of one linear layer."""
    x, w = torch.randn(rows, wide, dtype=dtype), torch.randn(out, wide, dtype=dtype)
    y = torch.randn(rows, out, dtype=dtype)
    total = 0.0
    for one, other in ((x, w.T), (y, w), (y.T, x)):
        torch.mm(one, other)
        total += min(seconds(lambda a=one, b=other: torch.mm(a, b)) for _ in range(3))
    return total


def figure(value: float, unit: str, target: float | None = None) -> dict[str, Any]:
    """Return one figure; larger is better wherever there is a target."""
    met = None if target is None else value >= target
    return {"value": value, "unit": unit, "target": target, "met": met}


def judged(one: dict[str, Any]) -> str:
    """Return the target in words."""
    if one["target"] is None:
        return ""
    return f" (target at least {one['target']:g}: {'met' if one['met'] else 'missed'})"


if __name__ == "__main__":
    main()
