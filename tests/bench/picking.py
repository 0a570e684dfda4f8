"""Measure what confirming is worth: `python tests/bench/picking.py {pool,judge}`.

`pool` trains recipes (masks of the last block, learning rates, loss) for a pass over 2,000 lesions
of HAM10000, each with six seeds, and keeps their scores on all other lesions. `judge` then plays
the end of a search over and over: 400 of the other lesions are validation, drawn by age group
and label, the rest is the truth.
At a budget of as many runs as there are recipes, the naive side runs every recipe once and takes
the best value; the confirming side runs fewer recipes, runs the best again with fresh seeds and
takes the best mean of these. What a pick is truly worth is its mean over two seeds that neither
side saw, on lesions that neither side saw. Reported values are compared with that truth: as they
are, and corrected by the bootstrap of `fairtune.evaluation.optimism`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from machine import surroundings
from sklearn.model_selection import train_test_split

from fairtune.config import parse, settings
from fairtune.config.shipped import find
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.optimism import bias_corrected
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.cuts import Expected
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job

LESIONS, TRAINED = 4488, 2000
SEEDS, UNSEEN = 6, 2
EPOCHS, SIZE, LAST = 1, 70, 11
VALIDATION = 400
TYPES = ("norm", "attn", "mlp")
ATTRIBUTE, GROUP = "age", "60+"
WORST, FIXED = "worst_auc@age", "auc of 60+"
WAYS = {"top 3, 3 seeds": (3, 3), "top 5, 3 seeds": (5, 3), "top 3, 2 seeds": (3, 2)}
REPLICATES = 200


def recipes(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return what differs between the recipes, drawn evenly."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        kinds = [t for t, on in zip(TYPES, rng.random(3) < 0.5) if on] or [str(rng.choice(TYPES))]
        found.append(
            {
                "mask": ",".join(f"{t}:last-1" for t in kinds),
                "lr": float(10 ** rng.uniform(-5, -2)),
                "head_lr": float(10 ** rng.uniform(-4, -2)),
                "class_weights": str(rng.choice(["none", "balanced"])),
                "label_smoothing": float(rng.uniform(0, 0.2)),
            }
        )
    return found


_HERE: dict[str, Any] = {}


def described(folder: Path) -> Path:
    """Write the data set: one source, and so many lesions to train on."""
    spec = yaml.safe_load(find("datasets", "ham10000").read_text())
    spec["filter"] = [{"column": "source", "equals": "ham10000"}]
    share = TRAINED / LESIONS
    fractions = {"train": share, "val": 1 - share, "test": 0.0}
    spec["split"] = {"fractions": fractions, "stratify": "malignant"}
    file = folder / "ham10000_pool.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file


def opened(root: Path, file: Path) -> None:
    """Open data and model once in a process."""
    torch.set_num_threads(1)
    offline = dataclasses.replace(settings(), offline=True)
    expected = Expected({LAST: 1000}, EPOCHS)
    session = Session(offline, data_roots=[root], expected=expected)
    _HERE.update(session=session, runs=Runs(file.parent / f"runs-{os.getpid()}"), file=file)


def trained(given: Mapping[str, Any], seed: int) -> tuple[np.ndarray, Predictions]:
    """Return the scores of one run on its validation rows, and their table."""
    session, judge = _HERE["session"], Judge.of([WORST])
    optim = {k: v for k, v in given.items() if k != "mask"}
    recipe = {
        "data": {"dataset": str(_HERE["file"]), "target": "malignant", "attributes": [ATTRIBUTE]},
        "model": {"name": "vit_small_dinov2", "image_size": SIZE},
        "adaptation": {"mask": given["mask"]},
        "optim": {**optim, "epochs": EPOCHS, "batch_size": 32},
    }
    job = Job(session.resolve(parse(Recipe, recipe)), Seeds(data=seed, init=seed))
    made = run(job, session, _HERE["runs"], judge)
    assert isinstance(made, StoredRun)
    table = made.validation(judge.epoch_of(made))
    return np.asarray(table.score, dtype=np.float32), table


def pool(options: argparse.Namespace) -> None:
    """Train every recipe with every seed and write their scores."""
    given = recipes(options.recipes)
    jobs = [(i, s) for i in range(len(given)) for s in range(SEEDS)]
    with tempfile.TemporaryDirectory() as name:
        start = (options.data_root, described(Path(name)))
        with ProcessPoolExecutor(2, initializer=opened, initargs=start) as at:
            done = at.map(trained, [given[i] for i, _ in jobs], [s for _, s in jobs])
            made = []
            for (i, s), one in zip(jobs, done):
                made.append(one)
                say(f"recipe {i + 1} of {len(given)}, seed {s}")
    table = made[0][1]
    age = table.attribute(ATTRIBUTE)
    np.savez_compressed(
        options.out,
        scores=np.stack([scores for scores, _ in made]).reshape(len(given), SEEDS, -1),
        label=table.label,
        patient=table.patient,
        codes=age.codes,
        names=np.array(age.names),
        about=json.dumps({"recipes": given, **surroundings("picking.py")}),
    )


@dataclass(frozen=True, eq=False)
class Pool:
    """Scores `(recipes, seeds, rows)` and the table they belong to."""

    scores: np.ndarray
    label: np.ndarray
    patient: np.ndarray
    age: Attribute

    @classmethod
    def read(cls, file: Path) -> tuple[Pool, dict[str, Any]]:
        """Return the pool of a file and what the file says of itself."""
        with np.load(file) as held:
            names = tuple(str(name) for name in held["names"])
            age = Attribute(ATTRIBUTE, names, held["codes"])
            scores = held["scores"].astype(np.float64)
            about = json.loads(str(held["about"]))
            return cls(scores, held["label"], held["patient"], age), about

    @cached_property
    def in_group(self) -> np.ndarray:
        """Which rows the group fixed beforehand has."""
        return np.asarray(self.age.codes == self.age.names.index(GROUP))

    def table(self, recipe: int, seed: int, rows: np.ndarray, what: str) -> Predictions:
        """Return the predictions of one run on `rows`, for FIXED on those of its group."""
        kept = rows[self.in_group[rows]] if what == FIXED else rows
        age = self.age.take(kept)
        score = self.scores[recipe, seed, kept]
        return Predictions(self.label[kept], score, {ATTRIBUTE: age}, self.patient[kept])

    def divided(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return validation and other rows; of both groups and classes as many in every draw."""
        cell = 2 * self.age.codes + self.label
        stratify = np.where(self.age.codes < 0, -1, cell)
        rows = np.arange(len(cell))
        seed = int(rng.integers(2**31))
        seen, rest = train_test_split(
            rows, train_size=VALIDATION, stratify=stratify, random_state=seed
        )
        return np.sort(seen), np.sort(rest)


def objective_of(what: str) -> Objective:
    """Return the objective that is read on the tables of `what`."""
    return Objective.parse(WORST if what == WORST else "auc")


def value(p: Predictions, what: str) -> float:
    """Return the value of a run."""
    objective = objective_of(what)
    found = evaluate_objectives(p, [objective], minimum=GroupMinimum(), threshold=0.5)
    return found[str(objective)]


def played(held: Pool, what: str, top: int, fresh: int, repeat: int) -> dict[str, float]:
    """Return one repeat: what both picks are worth, and what was reported of them."""
    rng = np.random.default_rng([repeat, top, fresh])
    count, seeds, _ = held.scores.shape
    seen, rest = held.divided(rng)
    order = np.array([rng.permutation(seeds) for _ in range(count)])

    def truth(recipe: int) -> float:
        hidden = order[recipe, seeds - UNSEEN :]
        return float(np.mean([value(held.table(recipe, s, rest, what), what) for s in hidden]))

    once = {i: [held.table(i, order[i, 0], seen, what)] for i in range(count)}
    values = np.array([value(once[i][0], what) for i in range(count)])
    naive = int(values.argmax())
    searched = rng.permutation(count)[: count - top * fresh]
    best = searched[np.argsort(-values[searched])[:top]]
    again = {
        int(i): [held.table(int(i), s, seen, what) for s in order[i, 1 : 1 + fresh]] for i in best
    }
    means = {i: float(np.mean([value(p, what) for p in tables])) for i, tables in again.items()}
    confirmed = max(means, key=lambda i: means[i])
    worth = {"naive": truth(naive), "confirmed": truth(confirmed)}
    return {
        "gain": worth["confirmed"] - worth["naive"],
        "random": truth(int(searched[0])) - worth["naive"],
        "naive": values[naive] - worth["naive"],
        "naive corrected": values[naive] - optimism(once, what) - worth["naive"],
        "confirmed": means[confirmed] - worth["confirmed"],
        "among confirmed": means[confirmed] - optimism(again, what) - worth["confirmed"],
        "among searched": means[confirmed]
        - optimism({int(i): once[i] for i in searched}, what)
        - worth["confirmed"],
    }


def optimism(tables: Mapping[int, Sequence[Predictions]], what: str) -> float:
    """Return what choosing the best of these recipes adds to its value, never below 0."""
    found = bias_corrected(
        {str(i): held for i, held in tables.items()},
        objective_of(what),
        minimum=GroupMinimum(),
        threshold=0.5,
        replicates=REPLICATES,
    )
    return found.naive - found.corrected


def judge(options: argparse.Namespace) -> None:
    """Play searches on a pool and write what came of them."""
    held, about = Pool.read(options.pool)
    found = []
    with ProcessPoolExecutor(os.cpu_count()) as at:
        for what in (WORST, FIXED):
            for name, (top, fresh) in WAYS.items():
                n = options.repeats
                args = ([held] * n, [what] * n, [top] * n, [fresh] * n, range(n))
                each = list(at.map(played, *args, chunksize=8))
                found.append({"objective": what, "way": name, "repeats": n, **summary(each)})
                say(json.dumps(found[-1]))
    result = {
        **surroundings("picking.py"),
        "pool": about,
        "recipes": len(held.scores),
        "seeds": SEEDS,
        "validation": VALIDATION,
        "truth": held.scores.shape[2] - VALIDATION,
        "positives": int(held.label.sum()),
        "rows": found,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def summary(each: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return means with standard errors over the repeats, and how often confirming was as good."""
    figures: dict[str, Any] = {}
    for name in each[0]:
        drawn = np.array([one[name] for one in each])
        se = float(drawn.std(ddof=1) / np.sqrt(len(drawn)))
        figures[name] = {"mean": float(drawn.mean()), "se": se}
    figures["as good"] = float(np.mean([one["gain"] >= 0 for one in each]))
    return figures


def say(text: str) -> None:
    """Tell the user."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> None:
    """Make a pool, or judge one."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = reader.add_subparsers(required=True)
    make = verbs.add_parser("pool", help="train the recipes")
    make.add_argument("--data-root", type=Path, required=True)
    make.add_argument("--recipes", type=int, default=60)
    make.add_argument("--out", type=Path, default=Path("pool.npz"), help="file to write")
    make.set_defaults(call=pool)
    read = verbs.add_parser("judge", help="play searches on a pool")
    read.add_argument("pool", type=Path)
    read.add_argument("out", type=Path, help="JSON to write")
    read.add_argument("--repeats", type=int, default=300)
    read.set_defaults(call=judge)
    options = reader.parse_args(words)
    options.call(options)


if __name__ == "__main__":
    main()
