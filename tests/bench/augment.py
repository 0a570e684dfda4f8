"""Measure what each kind of augmentation costs in AUC and gains in speed: `python augment.py`.

Every kind is trained with the same masks, seeds and steps and scored on the validation split;
the result goes to a JSON file that `measured.py` renders.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import surroundings

from fairtune.config import parse, settings
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.paired import paired_difference
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job

KINDS: dict[str, dict[str, Any]] = {
    "none": {"augment": "none"},
    "copies": {"augment": "medical", "copies": 4},
    "free": {"augment": "medical"},
}
"""No augmentation, four fixed copies of every image, and a new draw every time."""

MASKS = ("norm:all", "block:last-3")
RATES = {"norm:all": 1e-3, "block:last-3": 1e-4}
"""Fixed, the same for every kind: what is compared is augmentation."""


@dataclass(frozen=True)
class Matter:
    """What is trained.

    Attributes:
        session: Holds data and model.
        judge: Reads AUC and the worst group's.
        fields: Recipe fields that all runs share.
        seeds: Runs of each mask and kind.
    """

    session: Session
    judge: Judge
    fields: dict[str, Any]
    seeds: int


def main() -> None:
    """Measure and write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    matter = prepared(options)
    found = [one for seed in range(matter.seeds) for one in trained(matter, seed)]
    report = {
        "kind": "augment",
        "quick": options.quick,
        "seeds": matter.seeds,
        "rows": rows(found),
        "differences": differences(found, matter.judge),
        "matter": measured_on(matter),
        **surroundings("augment.py"),
    }
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Measure what augmentation costs and gains.")
    parser.add_argument("--data-root", type=Path, help="folder with ham10000_mini112")
    parser.add_argument("--weights", default="auto", help="weights of vit_small_dinov2")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each mask and kind")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the training rows")
    parser.add_argument("--threads", type=int, help="torch threads, default: torch's own choice")
    parser.add_argument("--quick", action="store_true", help="small and random: checks the script")
    parser.add_argument("--out", type=Path, default=Path("augment.json"), help="file to write")
    return parser.parse_args()


def prepared(options: argparse.Namespace) -> Matter:
    """Open data and model."""
    quick: bool = options.quick
    # The quick data have too few patients of each age.
    attribute = "sex" if quick else "age"
    roots = () if options.data_root is None else (options.data_root,)
    own = dataclasses.replace(settings(), offline=True, device="cpu")
    data = {
        "dataset": "nih-cxr-64" if quick else "ham10000_mini112",
        "target": "abnormal" if quick else "malignant",
        "attributes": [attribute],
        **({"where": {"view": "AP"}} if quick else {}),
    }
    model = {
        "name": "test_vit" if quick else "vit_small_dinov2",
        "image_size": 32 if quick else 70,
        "weights": "none" if quick else options.weights,
    }
    fields = {
        "data": data,
        "model": model,
        "optim": {"epochs": 1 if quick else options.epochs, "batch_size": 32},
        "fit": {"precision": "auto"},
    }
    minimum = {"n": 5, "positives": 2, "negatives": 2} if quick else {}
    judge = Judge.of([f"worst_auc@{attribute}", "auc"], {"min_group": minimum})
    return Matter(Session(own, roots), judge, fields, 1 if quick else options.seeds)


def trained(matter: Matter, seed: int) -> Sequence[dict[str, Any]]:
    """Train every mask with every kind of augmentation; kinds take turns within a mask."""
    found = []
    for mask, kind in itertools.product(MASKS, KINDS):
        began = time.perf_counter()
        one = {"mask": mask, "kind": kind, "seed": seed, **trained_one(matter, mask, kind, seed)}
        found.append(one)
        took = time.perf_counter() - began
        sys.stdout.write(f"{mask} {kind} seed {seed}: AUC {one['auc']:.3f}, {took:.0f} s\n")
        sys.stdout.flush()
    return found


def trained_one(matter: Matter, mask: str, kind: str, seed: int) -> dict[str, Any]:
    """Return the figures of one run."""
    fields = {
        **matter.fields,
        "adaptation": {"mask": mask},
        "optim": {**matter.fields["optim"], "lr": RATES[mask]},
        "fit": {**matter.fields["fit"], **KINDS[kind]},
    }
    recipe = matter.session.resolve(parse(Recipe, fields))
    # Precision is measured once: every run must have the same.
    matter.fields["fit"]["precision"] = recipe.fit.precision
    with tempfile.TemporaryDirectory() as folder:
        job = Job(recipe, Seeds(data=seed, init=seed))
        made = run(job, matter.session, Runs(Path(folder)), matter.judge)
        assert isinstance(made, StoredRun)
        predictions = made.validation()
        values = matter.judge.values(predictions)
        return {
            "auc": float(values["auc"]),
            "worst_auc": float(values[str(matter.judge.primary)]),
            "predictions": predictions,
            "images_per_second": made.costs["images_per_second"],
        }


def rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return means over seeds by mask and kind."""
    out = []
    for mask, kind in itertools.product(MASKS, KINDS):
        mine = [one for one in found if (one["mask"], one["kind"]) == (mask, kind)]
        names = ("auc", "worst_auc", "images_per_second")
        out.append(
            {
                "mask": mask,
                "augment": kind,
                **{name: statistics.mean(one[name] for one in mine) for name in names},
            }
        )
    return out


def differences(found: Sequence[dict[str, Any]], judge: Judge) -> list[dict[str, Any]]:
    """Return AUC of each kind less that of none, by mask, with a 95 % interval by patient.

    Patients of the validation split and seeds are drawn again, the same patients on both sides.
    """
    out = []
    objective = Objective.parse("auc")
    for mask in MASKS:
        sides = {
            kind: [x["predictions"] for x in found if (x["mask"], x["kind"]) == (mask, kind)]
            for kind in KINDS
        }
        for kind in list(KINDS)[1:]:
            gain = paired_difference(
                sides[kind],
                sides["none"],
                objective,
                minimum=judge.validation.minimum,
                thresholds_a=judge.validation.rule,
                thresholds_b=judge.validation.rule,
            )
            ends = {"low": gain.low, "high": gain.high}
            out.append({"mask": mask, "augment": kind, "value": gain.value, **ends})
    return out


def measured_on(matter: Matter) -> dict[str, Any]:
    """Return data, model and fit of the figures."""
    fields = {**matter.fields, "adaptation": {"mask": MASKS[0]}}
    recipe = parse(Recipe, {**fields, "optim": {**fields["optim"], "lr": RATES[MASKS[0]]}})
    ground = matter.session.ground(recipe)
    return {
        "data": recipe.data.dataset,
        "model": recipe.model.name,
        "image_size": recipe.model.image_size,
        "weights": "random" if recipe.model.weights == "none" else "pretrained",
        "train_rows": len(ground.fit_rows(recipe)),
        "val_rows": len(ground.val_rows(recipe)),
        "epochs": recipe.optim.epochs,
        "batch_size": recipe.optim.batch_size,
        "precision": recipe.fit.precision,
        "rates": RATES,
        "ranges": ground.pack.table.spec.ranges().to_json(),
        "flip": ground.pack.table.spec.flip,
    }


if __name__ == "__main__":
    main()
