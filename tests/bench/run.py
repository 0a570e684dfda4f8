"""Measure the speed of this machine's fairtune: `python tests/bench/run.py`, or `make bench`.

Everything is measured several times in one process and the median is written to bench.json as
`{name: {value, unit, target, met}}`; a comparison alternates the two sides, so that a change of
the machine's load meets both alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bare
import numpy as np
import torch
from machine import surroundings
from safetensors.torch import save_file

from fairtune.config import parse, settings
from fairtune.evaluation.groups import group_rows
from fairtune.evaluation.metrics import metric
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.resampling import resample
from fairtune.evaluation.rules import ThresholdRule
from fairtune.evaluation.thresholds import decide
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import Unwatched, run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.models import load, weights
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job

HERE = Path(__file__).resolve().parent
REAL, TINY = ("vit_small_dinov2", 70), ("test_vit", 64)
MASK = "attn:all,norm:all"


@dataclass(frozen=True)
class Bench:
    """What is measured on.

    Attributes:
        session: Holds data and model; every later run of the process finds them open.
        recipe: Resolved.
        repeats: Runs a median is taken of.
        quick: Whether the figures are only a check of the script.
        scratch: Folder for what is thrown away.
    """

    session: Session
    recipe: Recipe
    repeats: int
    quick: bool
    scratch: Path


class Clock(Unwatched):
    """Notes when a run takes its first step."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first: float | None = None

    def poll(self) -> None:
        if self.first is None:
            self.first = time.perf_counter() - self.began


def main() -> None:
    """Measure and write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.child:
        say(json.dumps({"peak_mib": child(json.loads(Path(options.child).read_text()))}))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = prepared(options, Path(folder))
        found: dict[str, Any] = {}
        for name, measure in MEASURES.items():
            if options.only and name not in options.only:
                continue
            say(f"{name} ...")
            for key, figure in measure(bench).items():
                found[key] = figure
                say(f"  {key}: {figure['value']:.4g} {figure['unit']}{judged(figure)}")
    report = {
        "figures": found,
        "quick": bench.quick,
        "repeats": bench.repeats,
        "matter": measured_on(bench),
        **surroundings(),
    }
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    say(f"written to {options.out}")


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Measure the speed of fairtune on this machine.")
    parser.add_argument("--quick", action="store_true", help="few and small: checks the script")
    parser.add_argument("--repeats", type=int, help="runs a median is taken of (3; quick: 2)")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), help="measure these only")
    parser.add_argument("--weights", type=Path, help=f"weights of {REAL[0]}, if not in the cache")
    parser.add_argument("--threads", type=int, help="torch threads, default: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def prepared(options: argparse.Namespace, scratch: Path) -> Bench:
    """Open data and model; without pretrained weights a small random model stands in."""
    own = dataclasses.replace(settings(), offline=True, device="cpu")
    given = None if options.weights is None else str(options.weights.resolve())
    held = given or ("auto" if weights.cached(load(REAL[0]), own) else None)
    real = held is not None and not options.quick
    if not real and not options.quick:
        say(
            f"The weights of {REAL[0]} are not in the cache: measuring {TINY[0]} with random "
            f"weights. Give --weights FILE, or run `fairtune models pull {REAL[0]}` first."
        )
    name, size = REAL if real else TINY
    where = {"where": {"view": "AP"}} if options.quick else {}
    fields = {
        "data": {
            "dataset": "nih-cxr-64",
            "target": "abnormal",
            "attributes": ["sex", "age"],
            **where,
        },
        "model": {"name": name, "image_size": size, "weights": held if real else "none"},
        "adaptation": {"mask": MASK},
        "optim": {"lr": 1e-4, "epochs": 1, "batch_size": 32},
        "fit": {"precision": "auto"},
    }
    session = Session(own)
    recipe = session.resolve(parse(Recipe, fields))
    repeats = options.repeats or (2 if options.quick else 3)
    return Bench(session, recipe, repeats, options.quick, scratch)


def trial(bench: Bench, seed: int) -> tuple[float, float]:
    """Make one run; return its wall time and the time until its first step."""
    judge = Judge.of(["auc"], {"min_group": {"n": 2, "positives": 1, "negatives": 1}})
    clock = Clock()
    made = run(
        Job(bench.recipe, Seeds(data=seed, init=seed)),
        bench.session,
        Runs(bench.scratch),
        judge,
        watcher=clock,
    )
    assert isinstance(made, StoredRun)
    assert clock.first is not None
    return time.perf_counter() - clock.began, clock.first


def overhead(bench: Bench) -> dict[str, Any]:
    """Measure a trial against the bare loop, and how soon a later trial steps."""
    matter = bare.read(stored(bench))
    trial(bench, 0)
    bare.loop(matter)
    trials, starts, bares = [], [], []
    for seed in range(1, bench.repeats + 1):
        seconds, start = trial(bench, seed)
        trials.append(seconds)
        starts.append(start)
        began = time.perf_counter()
        bare.loop(matter, seed)
        bares.append(time.perf_counter() - began)
    ours, theirs = statistics.median(trials), statistics.median(bares)
    return {
        "trial": figure(ours, "s"),
        "bare_loop": figure(theirs, "s"),
        "trial_overhead": figure(ours / theirs, "x bare loop", 1.10),
        "later_trial_start": figure(statistics.median(starts), "s to the first step", 1.0),
    }


def stored(bench: Bench) -> Path:
    """Write data and network for the bare loop, free of fairtune's formats; return the folder."""
    folder = bench.scratch / "bare"
    if folder.is_dir():
        return folder
    folder.mkdir()
    ground, optim = bench.session.ground(bench.recipe), bench.recipe.optim
    rows = np.sort(np.concatenate([ground.pack.rows("train"), ground.pack.rows("val")]))
    np.savez(
        folder / "data.npz",
        image=ground.pack.images(rows),
        label=ground.pack.labels(rows),
        group=ground.pack.groups(rows),
        train=np.flatnonzero(np.isin(rows, ground.pack.rows("train"))),
        val=np.flatnonzero(np.isin(rows, ground.pack.rows("val"))),
    )
    state = ground.backbone.net.state_dict()
    save_file({name: value.clone() for name, value in state.items()}, folder / "net.safetensors")
    how = {
        "architecture": ground.spec.architecture,
        "arguments": {"num_classes": 0, "img_size": bench.recipe.model.image_size},
        "dim": ground.backbone.dim,
        "mean": ground.spec.mean,
        "std": ground.spec.std,
        "mask": ground.units.tensors(ground.mask(bench.recipe).units),
        "precision": bench.recipe.fit.precision,
        **optim.model_dump(include=set(BARE_FIELDS)),
    }
    (folder / "how.json").write_text(json.dumps(how))
    return folder


BARE_FIELDS = ("lr", "head_lr", "weight_decay", "epochs", "batch_size", "clip_norm")


def memory(bench: Bench) -> dict[str, Any]:
    """Measure the peak memory of a process that makes one trial, and of one with the bare loop."""
    threads = str(torch.get_num_threads())
    job = bench.scratch / "job.json"
    own = bench.session.settings
    job.write_text(
        json.dumps(
            {
                "recipe": bench.recipe.to_json(),
                "cache": str(own.cache),
                "out": str(bench.scratch / "child"),
            }
        )
    )
    ours = [str(HERE / "run.py"), "--child", str(job), "--threads", threads]
    theirs = [str(HERE / "bare.py"), str(stored(bench)), threads]
    peaks: dict[str, list[float]] = {"trial": [], "bare": []}
    # Peaks hardly differ from run to run.
    for _ in range(min(2, bench.repeats)):
        for name, command in (("trial", ours), ("bare", theirs)):
            said = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True)
            peaks[name].append(json.loads(said.stdout)["peak_mib"])
    one, other = (statistics.median(values) for values in peaks.values())
    return {
        "trial_peak": figure(one, "MiB"),
        "bare_peak": figure(other, "MiB"),
        "extra_memory": figure(one - other, "MiB over bare loop", 300),
    }


def child(job: Mapping[str, Any]) -> float:
    """Make one trial as a worker's process does; return its peak memory in MiB."""
    # A worker holds the study's rooms too, with optuna and the database driver.
    import fairtune.study.search  # noqa: F401

    own = dataclasses.replace(
        settings(), cache=Path(job["cache"]), offline=True, device="cpu", out=Path(job["out"])
    )
    recipe = parse(Recipe, job["recipe"])
    # A folder of its own: a run that is stored already would not be made.
    own.out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=own.out) as folder:
        trial(Bench(Session(own), recipe, 1, False, Path(folder)), 0)
    return bare.peak_mib()


def precision(bench: Bench) -> dict[str, Any]:
    """Measure a step in single precision and under bf16 autocast."""
    ground = bench.session.ground(bench.recipe)
    lanes = {}
    for name in ("fp32", "bf16"):
        fit = bench.recipe.fit.model_copy(update={"precision": name})
        recipe = bench.recipe.model_copy(update={"fit": fit})
        lanes[name] = Lane(recipe, Seeds(), ground)
    batch = next(iter(lanes["fp32"].loader.epoch()))
    times: dict[str, list[float]] = {name: [] for name in lanes}
    for _ in range(2 + 4 * bench.repeats):
        for name, lane in lanes.items():
            times[name].append(seconds(lambda lane=lane: lane.step(batch)))
    full, half = (1000 * statistics.median(values[2:]) for values in times.values())
    return {
        "step_fp32": figure(full, "ms"),
        "step_bf16": figure(half, "ms"),
        "bf16_gain": figure(full / half, "x fp32 speed"),
    }


def starting(bench: Bench) -> dict[str, Any]:
    """Measure `fairtune --help` in a fresh process."""
    command = [sys.executable, "-c", "from fairtune.cli.app import main; main()", "--help"]
    said = [
        seconds(lambda: subprocess.run(command, capture_output=True, check=True))
        for _ in range(1 + bench.repeats)
    ]
    return {"help": figure(statistics.median(said[1:]), "s")}


def metrics(bench: Bench) -> dict[str, Any]:
    """Measure the Bayesian bootstrap of five metrics in six groups."""
    rows, draws = (1_000, 200) if bench.quick else (10_000, 2_000)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, rows)
    score = 1 / (1 + np.exp(-(label + rng.standard_normal(rows))))
    groups = Attribute("group", tuple("abcdef"), rng.integers(0, 6, rows))
    p = Predictions(label, score, {"group": groups})
    asked = [metric(name) for name in ("auc", "tpr", "fpr", "acc", "brier")]
    chosen = decide(p, ThresholdRule(), 5, 0)
    inside = group_rows(groups)

    def statistic(weight: np.ndarray) -> np.ndarray:
        return np.stack([one.values(p, chosen, inside, weight) for one in asked])

    assert p.patient is not None
    times = [
        seconds(lambda: resample(p.patient, statistic, draws))
        for _ in range(min(3, bench.repeats))
    ]
    unit = f"s for {draws:,} draws x {rows:,} rows x 6 groups x 5 metrics"
    return {"bootstrap": figure(statistics.median(times), unit, None if bench.quick else 5.0)}


MEASURES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "overhead": overhead,
    "memory": memory,
    "precision": precision,
    "starting": starting,
    "metrics": metrics,
}


def figure(value: float, unit: str, target: float | None = None) -> dict[str, Any]:
    """Return one figure; smaller is better wherever there is a target."""
    met = None if target is None else value <= target
    return {"value": value, "unit": unit, "target": target, "met": met}


def judged(figure: Mapping[str, Any]) -> str:
    """Return the target in words."""
    if figure["target"] is None:
        return ""
    return f" (target {figure['target']:g}: {'met' if figure['met'] else 'missed'})"


def measured_on(bench: Bench) -> dict[str, Any]:
    """Return data, model and recipe of the figures."""
    recipe, ground = bench.recipe, bench.session.ground(bench.recipe)
    return {
        "data": recipe.data.dataset,
        "model": recipe.model.name,
        "image_size": recipe.model.image_size,
        "weights": "random" if recipe.model.weights == "none" else "pretrained",
        "mask": MASK,
        "train_rows": len(ground.fit_rows(recipe)),
        "val_rows": len(ground.val_rows(recipe)),
        "epochs": recipe.optim.epochs,
        "batch_size": recipe.optim.batch_size,
        "precision": recipe.fit.precision,
    }


def seconds(act: Callable[[], object]) -> float:
    """Return the wall time of `act`."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def say(text: str) -> None:
    """Tell the user."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
