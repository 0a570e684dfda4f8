"""What edits do to real images: `python tests/bench/editing.py --data-root DIR --weights FILE`.

On chest X-rays (`nih-cxr-64`) an edit is learned to hide sex from the frozen model, by every mode
with the same number of queries and several seeds, then by some with more; on dermatoscopic images
with a marker that tells sex (`marked.py`), by some. Each is assessed on the test patients beside
its controls (`fairtune.experiment.assess`), with thresholds from validation. One query is one
batch of 32 images. Jobs are shared by two processes of one thread each; a job that is in the
output already is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import surroundings
from marked import tie

from fairtune.config import parse, settings
from fairtune.editing.learn import BLACK_BOX
from fairtune.experiment.assess import assess
from fairtune.experiment.assessed import Arm, Assessment
from fairtune.experiment.gate import Gate
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session

XRAYS, MARKED = "nih-cxr-64", "marked"
RELEASED = {
    "mode": "gezo_as_published",
    "objective": "neg_ce",
    "regulariser": "l2",
    "lambda_reg": 1e-3,
    "clamp": False,
    "init_std": 0.0,
}
SERVED = {"utility_weight": 1.0, "refit_every": 40}
OFTEN = {**SERVED, "refit_every": 5}
"""A step of the black box asks 16 times what a step of `white` does."""

METHODS: dict[str, dict[str, Any]] = {
    "white": {"mode": "white"},
    "white, refit and utility": {"mode": "white", **SERVED},
    **{
        mode: {"mode": mode}
        for mode in (
            "gezo",
            "two_point",
            "spsa",
            "spsa_gc",
            "zo_sign",
            "zo_adam",
            "scalar_normalised",
            "snes",
            "fzoo",
        )
    },
    f"{BLACK_BOX}, refit and utility": {"mode": BLACK_BOX, **OFTEN},
    "gezo_as_published": RELEASED,
}
"""Rules by name: what differs from the defaults of a learned edit."""


L2 = {XRAYS: 0.3, MARKED: 1e-2}
"""Penalty of the task head: of 1e-3 to 30 the best AUC on validation, without edit."""


@dataclass(frozen=True)
class Task:
    """One edit that is learned and assessed."""

    data: str
    method: str
    queries: int
    seed: int

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.data}/{self.method}/{self.queries}/{self.seed}"


@dataclass(frozen=True)
class Place:
    """Where things are, for a process of its own."""

    roots: tuple[Path, ...]
    weights: Path
    marked: Path
    cache: Path


def main() -> None:
    """Learn, assess, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of vit_small_dinov2")
    parser.add_argument("--out", type=Path, default=Path("editing.json"))
    parser.add_argument("--cache", type=Path, help="kept packs and edits")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--more", type=int, default=2000, help="queries of those carried on")
    parser.add_argument("--carried", nargs="*", help="methods carried on; default: the best")
    parser.add_argument("--best", type=int, default=3, help="black boxes that are carried on")
    parser.add_argument("--only", nargs="*", help="methods, all by default")
    marked = ["white", "white, refit and utility", BLACK_BOX, "gezo_as_published"]
    parser.add_argument("--marked", nargs="*", default=marked)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tied = Path(folder) / "marked"
        tie(options.data_root, tied)
        place = Place(
            (options.data_root,),
            options.weights,
            tied,
            options.cache or settings().cache,
        )
        held = _read(options.out)
        first = [
            Task(XRAYS, method, options.queries, seed)
            for seed in range(options.seeds)
            for method in (options.only or METHODS)
        ]
        _make(first, place, held, options)
        carried = options.carried
        if carried is None:
            carried = [*best(held, options.queries, options.best), "gezo_as_published"]
        second = [Task(MARKED, method, options.queries, 0) for method in options.marked]
        second += [Task(XRAYS, method, options.more, 0) for method in carried]
        _make(second, place, held, options)


def best(held: dict[str, Any], queries: int, most: int = 3) -> list[str]:
    """Return the black-box methods after which a re-trained head reads sex least, on average."""
    found: dict[str, list[float]] = {}
    for made in held.values():
        if (made["data"], made["queries"]) == (XRAYS, queries):
            value = made["arms"]["edit"]["figures"]["sa_auc_retrained"]["value"]
            found.setdefault(made["method"], []).append(value)
    searched = [name for name in found if METHODS[name]["mode"] not in ("white", RELEASED["mode"])]
    return sorted(searched, key=lambda name: sum(found[name]) / len(found[name]))[:most]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["edits"] if path.is_file() else {}


def _make(tasks: Sequence[Task], place: Place, held: dict[str, Any], options: Any) -> None:
    wanted = [task for task in tasks if task.name not in held]
    with ProcessPoolExecutor(options.processes, initializer=_alone) as pool:
        going = {pool.submit(made, task, place): task for task in wanted}
        for end in as_completed(going):
            held[going[end].name] = end.result()
            options.out.write_text(
                json.dumps({**surroundings("editing.py"), "edits": held}, indent=1)
            )
            figures = held[going[end].name]["arms"]["edit"]["figures"]
            shown = {k: round(v["value"], 3) for k, v in figures.items()}
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {going[end].name} {shown}\n")


def _alone() -> None:
    import torch

    torch.set_num_threads(1)


def made(task: Task, place: Place) -> dict[str, Any]:
    """Return an edit's figures."""
    began = time.perf_counter()
    held = Session(dataclasses.replace(settings(), cache=place.cache, device="cpu"), place.roots)
    recipe = held.resolve(recipe_of(task, place))
    with tempfile.TemporaryDirectory() as folder:
        found = assess(
            recipe, held, split="test", gate=Gate(Path(folder)), command="tests/bench/editing.py"
        )
    return {
        "data": task.data,
        "method": task.method,
        "queries": task.queries,
        "seed": task.seed,
        "seconds": time.perf_counter() - began,
        **numbers(found),
    }


def recipe_of(task: Task, place: Place) -> Recipe:
    """Return the recipe whose edit is assessed."""
    marked = task.data == MARKED
    rule = {
        "attribute": "sex",
        "queries": task.queries,
        "seed": task.seed,
        "batch_size": 32,
        **METHODS[task.method],
    }
    return parse(
        Recipe,
        {
            "data": {
                "dataset": str(place.marked / "marked.yaml") if marked else XRAYS,
                "target": "malignant" if marked else "abnormal",
                "attributes": ["sex"],
            },
            "model": {
                "name": "vit_small_dinov2",
                "image_size": 70,
                "weights": str(place.weights),
            },
            "edit": {"dne": rule},
            "optim": {"l2": L2[task.data]},
            "fit": {"precision": "bf16"},
        },
    )


def numbers(found: Assessment) -> dict[str, Any]:
    """Return what the page needs of an assessment."""
    return {
        "rows": found.rows,
        "patients": found.patients,
        "fitted": found.fitted,
        "asked": dict(found.queries),
        "arms": {arm.name: _arm(arm) for arm in found.arms},
        "changes": [
            {"figure": c.figure, "against": c.against, **dataclasses.asdict(c.change)}
            for c in found.changes
        ],
    }


def _arm(arm: Arm) -> dict[str, Any]:
    return {
        "figures": {name: dataclasses.asdict(f) for name, f in arm.figures.items()},
        "groups": {
            g.name: {"n": g.n, **{k: dataclasses.asdict(f) for k, f in g.figures.items()}}
            for g in arm.groups
        },
        "released": dict(arm.released),
        "norms": dict(arm.norms),
    }


if __name__ == "__main__":
    main()
