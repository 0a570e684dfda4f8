"""Measure whole jobs side by side with a plain loop: `python tests/bench/whole.py`.

The matter is a fixed part of the training and validation images. In every repeat, with seeds of
its own, there are three sides:

- *plain*: random `auto_peft1` masks at log-uniform learning rates, each trained and scored by
  `plain.py`'s loop (PIL in a DataLoader, full backward pass, fp32, scored after every epoch) on
  timm's network as it comes: unlike in `loop.py`, attention is not computed as fairtune does,
  unless `--lend-attention` is given;
- *ours*: the same recipes and seeds by fairtune's `run`, into an empty cache: decoding and packing
  the images, measuring the precision and storing every run count;
- *study*: a search with as many trials, again into an empty cache, from the study file to the
  last trial, over masks of the last blocks (see `study_fields`), with anchors, asha after every
  epoch, equal recipes made once, and what is before the blocks kept.

Plain and ours take turns recipe by recipe, and the study comes when half of the recipes are made,
so that a change of the machine's load meets all sides alike. Opening data and network of the
plain side is not counted.

Then the best recipe of the plain side and that of the study are both trained by fairtune's `run`
with the same fresh seeds, four each; this is not counted, as neither side confirms by itself. The
difference of their means has the standard error `sqrt(s_p^2 / 4 + s_c^2 / 4)` over seeds, which
does not hold the noise of the validation images: both are scored on the same ones.

The defaults, 224 training images (seven full batches) and 192 validation images, are chosen for
the time: where the plain loop trains 25 and scores 94 images/s, and fairtune's 62 and 190, three
repeats take about 42 minutes. With 400 training images they would take 70; `--images 400` does so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loop import figure, judged, random_mask
from machine import surroundings
from numpy.typing import NDArray
from plain import Plain
from run import REAL, TINY, say

from fairtune.config import parse, settings, shipped, yaml12
from fairtune.data.spec import load_spec
from fairtune.data.table import Table, group_codes, labels, load_table
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.experiment.tables import probabilities
from fairtune.study.opening import open_study
from fairtune.study.place import Place
from fairtune.study.rank import ranked
from fairtune.study.rows import SEARCH, counts
from fairtune.study.schema import build_study
from fairtune.study.search import check_objectives, make_plan, run_study
from fairtune.study.worker import Exit, StopFlag
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job

OBJECTIVE = "worst_auc@age"
LR = (1e-5, 1e-3)
EPOCHS = 3
FRESH = 4
"""Seeds that a pick is confirmed with."""
PART_SEED = 0
TARGETS = {"same_recipes": 3.0, "whole_study": 8.0, "not_lower": 0.0}
SKIN = {"dataset": "ham10000_mini112", "target": "malignant", "attributes": ["age"]}
CHEST = {"dataset": "nih-cxr-64", "target": "abnormal", "attributes": ["age"]}
FEW = {"n": 2, "positives": 1, "negatives": 1}
"""Group minima that the few images of a quick run meet."""


@dataclass(frozen=True)
class Matter:
    """What all sides work on.

    Attributes:
        recipe: Data, model, optimisation and precision, as a study file has them.
        validation: The validation block.
        roots: Folders with data.
        scratch: Folder for what is thrown away.
    """

    recipe: dict[str, Any]
    validation: dict[str, Any]
    roots: list[Path]
    scratch: Path

    @property
    def judge(self) -> Judge:
        """By what a run is judged."""
        return Judge.of([OBJECTIVE], self.validation)

    def session(self, name: str) -> Session:
        """Return a session whose cache and results are empty and its own."""
        own = dataclasses.replace(
            settings(),
            cache=self.scratch / name / "cache",
            out=self.scratch / name / "out",
            offline=True,
            device="cpu",
        )
        return Session(own, self.roots)

    def resolved(self, session: Session) -> Recipe:
        """Return the recipe of `session`; its mask and learning rate are placeholders."""
        fields = {**self.recipe, "adaptation": {"mask": "block:all"}}
        fields["optim"] = {**fields["optim"], "lr": LR[0]}
        return session.resolve(parse(Recipe, fields))


@dataclass
class Turn:
    """One repeat.

    Attributes:
        plain, ours, study: Seconds of the sides.
        scores, ours_scores: Objective of every recipe, on the plain side and on ours.
        confirmed: Objectives of the fresh seeds, by side.
        picks: What was picked, by side.
        precision: What was measured to be faster, by side.
        trials: Trials of the study by state, and how many recipes they were.
    """

    plain: float = 0.0
    ours: float = 0.0
    study: float = 0.0
    scores: list[float] = field(default_factory=list)
    ours_scores: list[float] = field(default_factory=list)
    confirmed: dict[str, list[float]] = field(default_factory=dict)
    picks: dict[str, str] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)
    trials: dict[str, int] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Confirmed objective of the study's pick less that of the plain side's."""
        return statistics.mean(self.confirmed["study"]) - statistics.mean(self.confirmed["plain"])

    @property
    def error(self) -> float:
        """Standard error of `difference` over seeds."""
        return math.sqrt(sum(statistics.variance(v) / len(v) for v in self.confirmed.values()))

    def to_json(self) -> dict[str, Any]:
        """Return everything with what follows from it."""
        return {
            **vars(self),
            "same_recipes": self.plain / self.ours,
            "whole_study": self.plain / self.study,
            "difference": self.difference,
            "error": self.error,
        }


def main() -> None:
    """Measure and write; what is measured stands in the file after every repeat."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    turns: list[Turn] = []
    for seed in range(1, options.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            matter = prepared(options, Path(folder))
            turn, on = repeat(matter, seed, options)
        turns.append(turn)
        report = {
            "figures": figures(turns),
            "quick": options.quick,
            "repeats": len(turns),
            "turns": [turn.to_json() for turn in turns],
            "matter": on,
            **surroundings("whole.py"),
        }
        options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    for name, one in figures(turns).items():
        say(f"  {name}: {one['value']:.3g} {one['unit']}{judged(one)}")
    say(f"written to {options.out}")


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Measure whole jobs against a plain loop.")
    parser.add_argument("--quick", action="store_true", help="few and small: checks the script")
    parser.add_argument("--images", type=int, help="training images (224; quick: 64)")
    parser.add_argument("--val", type=int, help="validation images (192; quick: 64)")
    parser.add_argument("--recipes", type=int, help="recipes and trials (16; quick: 4)")
    parser.add_argument("--repeats", type=int, help="repeats a median is taken of (3; quick: 1)")
    parser.add_argument("--weights", type=Path, help=f"weights of {REAL[0]}")
    parser.add_argument("--data-root", type=Path, help="folder with ham10000_mini112")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes of the other")
    parser.add_argument(
        "--lend-attention",
        action="store_true",
        help="the plain loop computes attention as fairtune does, as in loop.py",
    )
    parser.add_argument("--threads", type=int, help="torch threads, default: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("whole.json"), help="file to write")
    options = parser.parse_args()
    wanted = {"images": (224, 64), "val": (192, 64), "recipes": (16, 4), "repeats": (3, 1)}
    for name, (full, quick) in wanted.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    if not options.quick and options.weights is None:
        parser.error(f"give --weights FILE of {REAL[0]}, or --quick")
    return options


def prepared(options: argparse.Namespace, scratch: Path) -> Matter:
    """Write the part of the data as a data set of its own, and return what all sides work on."""
    roots = [] if options.data_root is None else [options.data_root]
    data = CHEST if options.quick else SKIN
    name, size = TINY if options.quick else REAL
    path = write_part(data, roots, {"train": options.images, "val": options.val}, scratch)
    weights = "none" if options.quick else str(options.weights.resolve())
    recipe = {
        "data": {**data, "dataset": str(path)},
        "model": {"name": name, "image_size": size, "weights": weights},
        "optim": {"epochs": EPOCHS, "batch_size": 32, "head_lr": 1e-3},
        "fit": {"precision": "fp32" if options.quick else "auto"},
    }
    validation = {"min_group": FEW} if options.quick else {}
    return Matter(recipe, validation, roots, scratch)


def write_part(
    data: dict[str, Any], roots: Sequence[Path], sizes: dict[str, int], folder: Path
) -> Path:
    """Write the spec of a data set without the training and validation rows that are left out."""
    spec = load_spec(data["dataset"])
    given = {"target": data["target"], "attributes": data["attributes"]}
    table = load_table(spec, **given, roots=[*roots, *settings().data])
    ids = table.frame["id"].to_numpy(dtype=str)
    out = [str(ids[row]) for part, size in sizes.items() for row in left_out(table, part, size)]
    document = yaml12.read(shipped.find("datasets", data["dataset"])).data
    document["filter"] = [*document.get("filter", []), {"column": spec.id, "none_of": out}]
    path = folder / f"{data['dataset']}-part.yaml"
    path.write_text(yaml12.dumps(document))
    return path


def left_out(table: Table, part: str, size: int) -> NDArray[np.int64]:
    """Return the rows of a split beyond `size`, which are drawn evenly over label and group."""
    rows = np.flatnonzero(table.frame["split"] == part)
    if size >= len(rows):
        return rows[:0]
    strata = [group_codes(table, name)[rows] for name in table.attributes]
    chance = np.random.default_rng(PART_SEED).random(len(rows))
    order = np.lexsort((chance, *strata, labels(table)[rows]))
    taken = order[np.arange(size) * len(rows) // size]
    return np.delete(rows, taken)


def repeat(matter: Matter, seed: int, options: argparse.Namespace) -> tuple[Turn, dict[str, Any]]:
    """Make all sides once; return what was measured and on what."""
    aside, mine = matter.session("plain"), matter.session("ours")
    recipe = matter.resolved(aside)
    ground = aside.ground(recipe)
    train, val = (ground.pack.rows(name) for name in ("train", "val"))
    plain = Plain(
        ground,
        train,
        val,
        recipe.optim.batch_size,
        options.workers,
        untouched=not options.lend_attention,
    )
    recipes = drawn(recipe, ground.units, options.recipes, np.random.default_rng(seed))
    turn, runs = Turn(), Runs(matter.scratch / "ours" / "out")
    turn.precision["ours"] = recipe.fit.precision
    best: Recipe | None = None
    for i, one in enumerate(recipes):
        if i == len(recipes) // 2:
            best = study(matter, turn, seed, options.recipes)
        seeds = Seeds(data=seed * 1000 + i, init=seed * 1000 + i)
        sides = [
            lambda one=one, seeds=seeds: plainly(plain, one, seeds, matter, turn),
            lambda one=one, seeds=seeds: ours(one, seeds, matter, mine, runs, turn),
        ]
        for side in sides if i % 2 else reversed(sides):
            side()
        say(
            f"repeat {seed}, recipe {i + 1}/{len(recipes)}: plain {turn.plain:.1f} s "
            f"({turn.scores[-1]:.3f})  ours {turn.ours:.1f} s ({turn.ours_scores[-1]:.3f})"
        )
    assert best is not None
    naive = recipes[int(np.argmax(turn.scores))]
    for name, pick in (("plain", naive), ("study", best)):
        # Both are judged in one precision, should the two have measured differently.
        fitted = pick.model_copy(update={"fit": recipe.fit})
        turn.confirmed[name] = confirmed(fitted, seed, matter, mine)
        turn.picks[name] = described(pick, ground.mask(pick).glyph(ground.units))
    say(f"repeat {seed}: study less plain {turn.difference:+.3f}, standard error {turn.error:.3f}")
    return turn, told(recipe, ground, (len(train), len(val)), options)


def told(
    recipe: Recipe, ground: Any, rows: tuple[int, int], options: argparse.Namespace
) -> dict[str, Any]:
    """Return on what it was measured."""
    return {
        "data": Path(recipe.data.dataset).stem.removesuffix("-part"),
        "target": recipe.data.target,
        "objective": OBJECTIVE,
        "model": recipe.model.name,
        "image_size": recipe.model.image_size,
        "train_rows": rows[0],
        "val_rows": rows[1],
        "batch_size": recipe.optim.batch_size,
        "epochs": EPOCHS,
        "recipes": options.recipes,
        "precision": recipe.fit.precision,
        "decoding_processes": options.workers,
        "attention_of_plain": "fairtune's" if options.lend_attention else "timm's own",
        "fresh_seeds": FRESH,
        "masks_of_study": masks(ground.units.depth),
    }


def drawn(recipe: Recipe, units: Any, count: int, rng: np.random.Generator) -> list[Recipe]:
    """Return recipes with random masks of FairTune's space and log-uniform learning rates."""
    found = []
    for _ in range(count):
        mask = tuple(sorted(random_mask(units, rng)))
        lr = float(np.exp(rng.uniform(*np.log(LR))))
        part = recipe.adaptation.model_copy(update={"mask": mask})
        optim = recipe.optim.model_copy(update={"lr": lr})
        found.append(recipe.model_copy(update={"adaptation": part, "optim": optim}))
    return found


def plainly(plain: Plain, recipe: Recipe, seeds: Seeds, matter: Matter, turn: Turn) -> None:
    """Train a recipe by the plain loop; its objective is computed after every epoch."""
    ground, judge = plain.ground, matter.judge
    values: list[float] = []

    def take(logit: NDArray[np.float32]) -> None:
        score = probabilities(logit[:, None], "binary")
        values.append(judge.values(ground.pack.predictions(plain.val, score))[OBJECTIVE])

    began = time.perf_counter()
    plain.run(ground.units.tensors(ground.mask(recipe).units), recipe.optim, seeds.init, take)
    turn.plain += time.perf_counter() - began
    turn.scores.append(values[-1])


def ours(
    recipe: Recipe, seeds: Seeds, matter: Matter, session: Session, runs: Runs, turn: Turn
) -> None:
    """Make and store the run of a recipe; the first one opens everything."""
    began = time.perf_counter()
    if not turn.ours_scores:
        matter.resolved(session)
    made = run(Job(recipe, seeds), session, runs, matter.judge)
    turn.ours += time.perf_counter() - began
    turn.ours_scores.append(objective_of(made, matter))


def objective_of(made: Any, matter: Matter) -> float:
    """Return the objective of a stored run."""
    assert isinstance(made, StoredRun)
    return matter.judge.values(made.validation())[OBJECTIVE]


def masks(depth: int) -> list[str]:
    """Return the masks that the study chooses from: none, or the last block or quarter of them."""
    types = ("norm", "attn", "mlp", "block")
    counts_ = sorted({1, max(1, depth // 4)})
    return ["none", *(f"{kind}:last-{count}" for count in counts_ for kind in types)]


def study_fields(matter: Matter, depth: int, seed: int, trials: int) -> dict[str, Any]:
    """Return the study: masks of the last quarter of the network, the same rates."""
    return {
        "name": "whole",
        "seed": seed,
        "recipe": matter.recipe,
        "space": {
            "optim.lr": {"float": list(LR), "log": True},
            "adaptation.mask": {"one_of": masks(depth)},
        },
        "objectives": [OBJECTIVE],
        "validation": matter.validation,
        "baselines": [],
        "budget": {"trials": trials},
        "sampler": "auto",
        "pruner": {"asha": {"min_resource": 1}},
        "confirm": {"top": 0},
    }


def study(matter: Matter, turn: Turn, seed: int, trials: int) -> Recipe:
    """Make a whole search and return its best recipe, by the shrunken means of the study."""
    began = time.perf_counter()
    session = matter.session("study")
    depth = session.units(parse(Recipe, matter.recipe)).depth
    document = yaml12.dumps(study_fields(matter, depth, seed, trials))
    file = build_study(yaml12.loads(document, "study.yaml"))
    place = Place(session.settings.out, file.name)
    plan = make_plan(file, session, None)
    turn.precision["study"] = plan.base.fit.precision
    check_objectives(plan, session)
    place.folder.mkdir(parents=True)
    with open_study(place, plan, create=True) as ledger:
        left = run_study(ledger, plan, session, place, StopFlag())
        rows = ledger.rows(SEARCH)
    turn.study = time.perf_counter() - began
    assert left is Exit.DONE
    turn.trials = {state: count for state, count in counts(rows).items() if count}
    turn.trials["recipes"] = len(Counter(row.digest for row in rows))
    say(f"repeat {seed}: study {turn.study:.1f} s, {turn.trials}")
    return plan.recipe_of(ranked(rows, matter.judge.primary.sign)[0].rows[0])


def confirmed(pick: Recipe, seed: int, matter: Matter, session: Session) -> list[float]:
    """Return the objectives of a pick with fresh seeds, by fairtune's own loop."""
    found = []
    for i in range(FRESH):
        seeds = Seeds(data=10**6 + seed * 1000 + i, init=10**6 + seed * 1000 + i)
        runs = Runs(matter.scratch / "confirmed")
        found.append(objective_of(run(Job(pick, seeds), session, runs, matter.judge), matter))
    return found


def described(recipe: Recipe, glyph: str) -> str:
    """Return mask and learning rate of a pick in words."""
    return glyph if recipe.solved else f"{glyph} @ {recipe.optim.lr:.2g}"


def figures(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the medians over repeats."""

    def median(values: Any) -> float:
        return statistics.median(values(turn) for turn in turns)

    return {
        "plain": figure(median(lambda t: t.plain), "s"),
        "ours": figure(median(lambda t: t.ours), "s"),
        "study": figure(median(lambda t: t.study), "s"),
        "same_recipes": figure(
            median(lambda t: t.plain / t.ours), "x plain", TARGETS["same_recipes"]
        ),
        "whole_study": figure(
            median(lambda t: t.plain / t.study), "x plain", TARGETS["whole_study"]
        ),
        "confirmed_plain": figure(
            median(lambda t: statistics.mean(t.confirmed["plain"])), OBJECTIVE
        ),
        "confirmed_study": figure(
            median(lambda t: statistics.mean(t.confirmed["study"])), OBJECTIVE
        ),
        "difference": figure(median(lambda t: t.difference), f"{OBJECTIVE}, study less plain"),
        "error": figure(median(lambda t: t.error), "standard error of the difference"),
        "not_lower": figure(
            median(lambda t: t.difference + t.error),
            "difference and one standard error",
            TARGETS["not_lower"],
        ),
    }


if __name__ == "__main__":
    main()
