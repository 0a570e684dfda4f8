"""What a planted bias does to plain training: `python tests/bench/planted_erm.py out.json`.

For every strength and seed, both arms of `planted.plant` are written and one recipe is trained on
each with no mitigation, then scored on the test, once. Both arms have the same training rows, so
the model is the same, and only what its validation says of it differs. `--fit plain` trains on
the group without markers alone: what is there to be won back without the biased rows. The options
`--strengths` and `--arms` take several values, so name the file to write before them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import surroundings
from planted import ARMS, GROUPS, Marker, plant

from fairtune.config import parse, settings
from fairtune.evaluation.intervals import delong
from fairtune.evaluation.predictions import Predictions
from fairtune.experiment.finetune import Entry, finetune
from fairtune.experiment.gate import Gate
from fairtune.experiment.judge import Judge
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session

OPTIM = {"lr": 1e-4, "head_lr": 1e-3, "epochs": 4, "batch_size": 32}
MASK = "block:last-2"


def main() -> None:
    """Measure and write."""
    options = arguments()
    rows: list[dict[str, Any]] = []
    session = Session(dataclasses.replace(settings(), offline=True, device="cpu"))
    with tempfile.TemporaryDirectory() as name:
        for strength in options.strengths:
            for seed in range(options.first, options.first + options.seeds):
                rows += measured(options, session, strength, seed, Path(name))
                say(rows)
    made = {"options": {k: str(v) for k, v in vars(options).items()}, "rows": rows}
    content = {**surroundings("planted_erm.py"), **made, "means": means(rows)}
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    for mean in means(rows):
        sys.stdout.write(json.dumps(mean) + "\n")


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="JSON to write")
    parser.add_argument("--source", type=Path, required=True, help="data root of the source")
    parser.add_argument("--weights", default="auto", help="weights of vit_small_dinov2")
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=[0, 0.6, 0.8, 0.9, 0.95, 1.0]
    )
    parser.add_argument("--seeds", type=int, default=3, help="plants, each trained once")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--plant-seed", type=int, help="one plant for all seeds of training")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--elsewhere", choices=["never", "half"], default="never")
    parser.add_argument("--marker", type=float, default=Marker().side, help="side of the square")
    parser.add_argument("--fit", choices=["all", "plain"], default="all", help="training rows")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--mask", default=MASK)
    parser.add_argument("--lr", type=float, default=OPTIM["lr"])
    parser.add_argument("--epochs", type=int, default=OPTIM["epochs"])
    return parser.parse_args()


def measured(
    options: argparse.Namespace, session: Session, strength: float, seed: int, out: Path
) -> list[dict[str, Any]]:
    """Return the figures of one plant: of the test, and of the validation of each arm."""
    found = []
    for arm in options.arms:
        of = seed if options.plant_seed is None else options.plant_seed
        folder = out / f"{strength:g}-{of}-{arm}"
        rows = plant(
            options.source,
            folder,
            strength=strength,
            arm=arm,
            seed=of,
            elsewhere=options.elsewhere,
            marker=Marker(options.marker),
        )
        if options.fit == "plain":
            kept = (rows["split"] != "train") | (rows["group"] == "plain")
            rows[kept].to_csv(folder / "planted.csv", index=False, lineterminator="\n")
        began = time.perf_counter()
        run = trained(options, session, folder, seed)
        seconds = time.perf_counter() - began
        about = {"strength": strength, "seed": seed, "arm": arm}
        spent = {"seconds": seconds, "fit_seconds": float(run.costs["seconds"])}
        found.append({**about, "rows": f"val {arm}", **figures(run.validation()), **spent})
        found.append({**about, "rows": "test", **figures(run.test())})
    return found


def trained(options: argparse.Namespace, session: Session, folder: Path, seed: int) -> StoredRun:
    """Return a run of the recipe on a planted data set, tested."""
    fields = {
        "data": {
            "dataset": str(folder / "planted.yaml"),
            "target": "malignant",
            "attributes": ["group", "marker"],
        },
        "model": {"name": "vit_small_dinov2", "image_size": 70, "weights": options.weights},
        "adaptation": {"mask": options.mask},
        "optim": {**OPTIM, "lr": options.lr, "epochs": options.epochs},
        "fit": {"precision": options.precision},
    }
    recipe = session.resolve(parse(Recipe, fields))
    options.precision = recipe.fit.precision  # measured once: every run must have the same
    entry = Entry("erm", recipe, (Seeds(data=seed, init=seed),))
    runs, judge = Runs(folder), Judge.of(["worst_auc@group", "auc"])
    done = finetune([entry], session, runs, judge, Gate(folder), command="planted_erm.py")
    return done.runs["erm"][0]


def figures(p: Predictions) -> dict[str, Any]:
    """Return AUC with DeLong's SE of all, of each group, and the gap of the groups."""
    group, marker = p.attribute("group"), p.attribute("marker")
    sets = {"all": np.arange(len(p))}
    sets |= {name: np.flatnonzero(group.codes == group.names.index(name)) for name in GROUPS}
    out: dict[str, Any] = {}
    for name, rows in sets.items():
        area = delong(p.label[rows], p.score[rows], p.patient[rows])
        out |= {
            name: area.auc,
            f"se {name}": float(np.sqrt(area.variance)),
            f"n {name}": len(rows),
        }
    out["worst"] = min(out[name] for name in GROUPS)
    # Above 0: the marked group is served worse.
    out["gap"] = out["plain"] - out["marked"]
    out["se gap"] = float(np.hypot(out["se plain"], out["se marked"]))
    # How much the square alone moves the score of a marked-group image of one label, in logits.
    logit = np.log(p.score) - np.log1p(-p.score)
    inside, on = group.codes == GROUPS.index("marked"), marker.codes == 0
    moved = [
        logit[inside & on & (p.label == label)].mean()
        - logit[inside & ~on & (p.label == label)].mean()
        for label in (0, 1)
        if (inside & on & (p.label == label)).any() and (inside & ~on & (p.label == label)).any()
    ]
    out["shift"] = float(np.mean(moved)) if moved else None
    return out


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return means over the seeds by strength and rows, with the standard error between seeds.

    `harm` is what the marked group loses by the bias: its AUC at strength 0 less that at this
    one, of the same seed, so on the same images; the random division into groups drops out of it.
    """
    names = ("all", "marked", "plain", "worst", "gap", "harm", "shift")
    clean = {(r["rows"], r["seed"]): r["marked"] for r in rows if r["strength"] == 0}
    out = []
    for key in dict.fromkeys((r["strength"], r["rows"]) for r in rows):
        mine = [dict(r) for r in rows if (r["strength"], r["rows"]) == key]
        # The test of both arms is the same.
        mine = list({r["seed"]: r for r in mine}.values())
        for one in mine:
            base = clean.get((key[1], one["seed"]))
            one["harm"] = None if base is None else base - one["marked"]
        row: dict[str, Any] = {"strength": key[0], "rows": key[1], "seeds": len(mine)}
        for name in names:
            seen = np.array([r[name] for r in mine if r[name] is not None])
            if len(seen):
                row[name] = round(float(seen.mean()), 4)
            if len(seen) > 1:
                row[f"se {name}"] = round(float(seen.std(ddof=1) / len(seen) ** 0.5), 4)
        out.append(row)
    return out


def say(rows: Sequence[Mapping[str, Any]]) -> None:
    """Tell of the latest plant."""
    last = rows[-1]
    for row in (r for r in rows if (r["strength"], r["seed"]) == (last["strength"], last["seed"])):
        sys.stdout.write(
            f"{row['strength']:g} seed {row['seed']} {row['rows']:12} "
            + " ".join(f"{k} {row[k]:.3f}" for k in ("all", "marked", "plain", "gap"))
            + f" +- {row['se gap']:.3f} shift {row['shift']} {row.get('seconds', 0):.1f} s\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
