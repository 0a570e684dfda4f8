"""Train every adaptation method on real images: `python tests/bench/methods.py --data-root DIR`.

Each method gets the same blocks, three learning rates and two epochs; the rate with the best
validation AUC is run again with a second seed. Everything is written to methods.json, from which
`measured.py` makes its table. `--seconds` times the methods of such a file anew, one pass of each
in turn, so that a change of the machine's load meets all alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import surroundings

from fairtune.adaptation.methods import METHODS
from fairtune.config import parse, settings
from fairtune.evaluation.table import group_table
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job

BLOCKS = "last-4"
MATRICES = f"attn:{BLOCKS},mlp:{BLOCKS}"
MASKS = {
    "ln_tuning": f"norm:{BLOCKS}",
    "adaptformer": f"mlp:{BLOCKS}",
    "vpt": f"block:{BLOCKS}",
    "ssf": f"{MATRICES},norm:{BLOCKS}",
}
"""Masks of the methods that do not act on the matrices of attention and MLP."""

WHOLE = (3e-5, 1e-4, 3e-4)
ADAPTERS = (3e-4, 1e-3, 3e-3)
FEW = (1e-3, 3e-3, 1e-2)
RATES = {
    "direct": WHOLE,
    **dict.fromkeys(("bitfit", "ln_tuning", "ssf", "ia3", "vpt", "vera"), FEW),
    "fourierft": (1e-2, 3e-2, 1e-1),
}
"""Learning rates tried, by method; `ADAPTERS` for all others."""

WORST = "worst_auc"

TIMED, ROUNDS = 320, 5
"""Training images of a pass whose time is taken, and passes that a median is of."""


@dataclass(frozen=True)
class Bench:
    """What every method is trained on.

    Attributes:
        session: Holds data and model.
        runs: Where runs are stored for the time of the script.
        judge: Objectives.
        base: Recipe fields that all methods share.
        attribute: Attribute of the groups.
    """

    session: Session
    runs: Runs
    judge: Judge
    base: dict[str, Any]
    attribute: str

    def recipe(self, name: str, lr: float) -> Recipe:
        """Return the recipe of one method."""
        recipe = {
            **self.base,
            "adaptation": {"mask": MASKS.get(name, MATRICES), "method": name},
            "optim": {**self.base["optim"], "lr": lr},
        }
        return self.session.resolve(parse(Recipe, recipe))

    def lane(self, name: str, lr: float) -> Lane:
        """Return a lane whose passes are over the first training rows only."""
        recipe = self.recipe(name, lr)
        ground = self.session.ground(recipe)
        made = Lane(recipe, Seeds(), ground)
        size = recipe.optim.batch_size
        made.loader = ground.loader(
            ground.fit_rows(recipe)[:TIMED], size, edit=None, serve=made.start.server(size)
        )
        return made

    def run(self, name: str, lr: float, seed: int) -> StoredRun:
        """Train one method once."""
        job = Job(self.recipe(name, lr), Seeds(data=seed, init=seed))
        made = run(job, self.session, self.runs, self.judge)
        assert isinstance(made, StoredRun)
        return made

    def figures(self, made: StoredRun) -> dict[str, dict[str, float]]:
        """Return validation AUC and worst AUC with 95 % intervals."""
        table = group_table(
            made.validation(self.judge.epoch_of(made)),
            ["auc"],
            [self.attribute],
            minimum=self.judge.validation.minimum,
            threshold=self.judge.validation.rule,
            floors=False,
        )
        overall = table[(table.metric == "auc") & table.attribute.isna()].iloc[0]
        worst = table[(table.metric == WORST) & (table.attribute == self.attribute)].iloc[0]
        return {
            "auc": {k: float(overall[k]) for k in ("value", "low", "high")},
            WORST: {k: float(worst[k]) for k in ("value", "low", "high")},
        }


def main() -> None:
    """Train and write."""
    options = arguments()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = prepared(options, Path(folder))
        if options.seconds:
            retimed(options.out, bench)
            return
        bench.run(options.only[0] if options.only else "direct", 1e-9, 99)  # opens everything
        for name in options.only or METHODS.names():
            rows.append(measured(name, bench))
            say(shown(rows[-1]))
        report = {"methods": rows, "matter": matter(bench, options), **surroundings("methods.py")}
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    say(f"written to {options.out}")


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Train every adaptation method on real images.")
    parser.add_argument("--data-root", type=Path, action="append", default=[])
    parser.add_argument("--dataset", default="ham10000_mini112")
    parser.add_argument("--target", default="malignant")
    parser.add_argument("--attribute", default="age")
    parser.add_argument("--model", default="vit_small_dinov2")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, default=70)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=METHODS.names(), help="train these only")
    parser.add_argument("--out", type=Path, default=Path("methods.json"), help="file to write")
    parser.add_argument("--seconds", action="store_true", help="time what is in the file anew")
    return parser.parse_args()


def prepared(options: argparse.Namespace, folder: Path) -> Bench:
    """Open data and model."""
    session = Session(dataclasses.replace(settings(), offline=True), data_roots=options.data_root)
    base = {
        "data": {
            "dataset": options.dataset,
            "target": options.target,
            "attributes": [options.attribute],
        },
        "model": {
            "name": options.model,
            "image_size": options.image_size,
            "weights": options.weights,
        },
        "optim": {"epochs": options.epochs, "batch_size": 32},
    }
    judge = Judge.of([f"{WORST}@{options.attribute}", "auc"], {})
    return Bench(session, Runs(folder), judge, base, options.attribute)


def measured(name: str, bench: Bench) -> dict[str, Any]:
    """Return the figures of one method: every rate, then a second seed of the best."""
    tried = {lr: bench.run(name, lr, 0) for lr in RATES.get(name, ADAPTERS)}
    auc = {lr: bench.figures(made)["auc"]["value"] for lr, made in tried.items()}
    best = max(auc, key=lambda lr: auc[lr])
    again = bench.run(name, best, 1)
    both = [tried[best], again]
    costs = [made.costs for made in (*tried.values(), again)]
    return {
        "method": name,
        "mask": MASKS.get(name, MATRICES),
        "trainable": costs[0]["trainable"],
        "trainable_share": costs[0]["trainable_share"],
        "seconds_per_epoch": statistics.median(c["seconds"] / c["epochs"] for c in costs),
        "auc_by_lr": {f"{lr:g}": value for lr, value in auc.items()},
        "lr": best,
        "seeds": [bench.figures(made) for made in both],
    }


def retimed(file: Path, bench: Bench) -> None:
    """Write the seconds of an epoch of every method of `file`, each the median of its passes."""
    report = json.loads(file.read_text())
    lanes = {row["method"]: bench.lane(row["method"], row["lr"]) for row in report["methods"]}
    taken: dict[str, list[float]] = {name: [] for name in lanes}
    for i in range(ROUNDS + 1):
        for name, lane in lanes.items():
            began = time.perf_counter()
            lane.epoch()
            if i:  # the first round warms up
                taken[name].append(time.perf_counter() - began)
        say(f"round {i}")
    share = report["matter"]["train_rows"] / TIMED
    for row in report["methods"]:
        row["seconds_per_epoch"] = share * statistics.median(taken[row["method"]])
        say(f"{row['method']:12s} {row['seconds_per_epoch']:6.1f} s/epoch")
    report["seconds"] = surroundings("methods.py")
    file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def matter(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Return data and model of the figures."""
    recipe = bench.session.resolve(parse(Recipe, {**bench.base, "adaptation": {"mask": MATRICES}}))
    ground = bench.session.ground(recipe)
    return {
        "data": recipe.data.dataset,
        "target": recipe.data.target,
        "attribute": options.attribute,
        "model": recipe.model.name,
        "image_size": recipe.model.image_size,
        "weights": "random" if recipe.model.weights == "none" else "pretrained",
        "blocks": BLOCKS,
        "train_rows": len(ground.fit_rows(recipe)),
        "val_rows": len(ground.val_rows(recipe)),
        "epochs": recipe.optim.epochs,
        "batch_size": recipe.optim.batch_size,
        "precision": recipe.fit.precision,
    }


def shown(row: dict[str, Any]) -> str:
    """Return one row for people."""
    seeds = "  ".join(
        f"auc {s['auc']['value']:.3f} worst {s[WORST]['value']:.3f}" for s in row["seeds"]
    )
    return (
        f"{row['method']:12s} {row['trainable_share']:8.3%}  "
        f"{row['seconds_per_epoch']:6.1f} s/epoch  lr {row['lr']:g}  {seeds}"
    )


def say(text: str) -> None:
    """Tell the user."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
