"""Time of a step with each mitigation: `mitigation_steps.py OUT --data-root DIR`.

One run of every mitigation and one of plain training take steps in turns, on the images and the
network of `planted-bias.yaml`, with the group attribute of real people (`age`); nothing is kept of
frozen blocks, or everything. First fits, scoring and post-processing are no steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import surroundings

from fairtune.config import parse, settings
from fairtune.mitigation import MITIGATIONS
from fairtune.training.cuts import Expected
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session

PLAIN = "plain"
MORE: dict[str, Any] = {
    "sinkhorn, distance: sinkhorn": {"sinkhorn": {"distance": "sinkhorn"}},
    "sinkhorn, distance: energy": {"sinkhorn": {"distance": "energy"}},
    "sinkhorn, queue: 256": {"sinkhorn": {"queue": 256}},
}


def members() -> dict[str, list[Any]]:
    """Return the mitigations of every case by its name."""
    ours = [n for n in MITIGATIONS if MITIGATIONS.get(n).trains]  # type: ignore[attr-defined]
    return {PLAIN: [], **{n: [n] for n in ours}, **{n: [m] for n, m in MORE.items()}}


def recipe(mitigations: list[Any], batch: int) -> Recipe:
    """Return the recipe of a case."""
    data = {"dataset": "ham10000_mini112", "target": "malignant", "attributes": ["age"]}
    return parse(
        Recipe,
        {
            "data": data,
            "model": {"name": "vit_small_dinov2", "image_size": 70},
            "adaptation": {"mask": "block:last-2"},
            "optim": {"lr": 1e-4, "batch_size": batch, "epochs": 2},
            "fit": {"precision": "bf16"},
            "mitigations": mitigations,
        },
    ).attributed("age")


def lanes(session: Session, batch: int) -> dict[str, Lane]:
    """Return a run of every case, ready for its first step."""
    found = {}
    for name, mitigations in members().items():
        resolved = session.resolve(recipe(mitigations, batch))
        lane = Lane(resolved, Seeds(), session.ground(resolved))
        for first in lane.mitigating.identify:
            rows = len(lane.ground.fit_rows(resolved))
            first.take(np.random.default_rng(0).normal(size=(rows, 1)).astype(np.float32))
        found[name] = lane
    return found


def times(session: Session, batch: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Return median milliseconds of a step of every case and its ratio to plain training."""
    made = lanes(session, batch)
    batches = {
        name: itertools.cycle(list(lane.loader.epoch())[:-1]) for name, lane in made.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(repetitions + 1):
        for name, lane in made.items():
            one = next(batches[name])
            began = time.perf_counter()
            float(lane.step(one))
            if turn:
                taken[name].append(1e3 * (time.perf_counter() - began))
    plain = statistics.median(taken[PLAIN])
    return {
        name: {"milliseconds": statistics.median(t), "ratio": statistics.median(t) / plain}
        for name, t in taken.items()
    }


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {**surroundings("mitigation_steps.py"), **vars(options)}
    found = {name: value for name, value in found.items() if not isinstance(value, Path)}
    for name, reuse in (("nothing kept", False), ("frozen blocks kept", True)):
        session = Session(
            dataclasses.replace(settings(), device="cpu"),
            data_roots=(options.data_root,),
            reuse=reuse,
            expected=Expected({10: 20.0}, 5),
        )
        found[name] = times(session, options.batch, options.repetitions)
        for case, took in found[name].items():
            sys.stdout.write(
                f"{name}: {case:<32} {took['milliseconds']:7.1f} ms {took['ratio']:.2f}\n"
            )
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
