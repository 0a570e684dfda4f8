"""A real small study without torch: real phases, ledger and run folders, synthetic predictions.

The study is created by the study room's own code and worked on by its own loop; only the training
is replaced: a seeded draw of scores whose quality depends on the mask and on the patient's group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fairtune.config.yaml12 import loads
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.scoring import degenerate
from fairtune.experiment.gate import Opening
from fairtune.experiment.judge import Judge
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun, recipe_card
from fairtune.experiment.tables import prediction_frame, probabilities
from fairtune.models.units import Units
from fairtune.study.execute import group_figures
from fairtune.study.final import OPENING, Wanted, choose
from fairtune.study.ledger import Claim, Complete, Failed, Ledger, Options, Outcome, Pruned
from fairtune.study.opening import open_study
from fairtune.study.outcome import FINAL_SET
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.plan import Plan, seeds_of
from fairtune.study.rank import DEGENERATE
from fairtune.study.rows import FINAL, Proposal
from fairtune.study.schema import build_study
from fairtune.study.search import phases
from fairtune.study.worker import Limits, StopFlag, work
from fairtune.training.recipe import Recipe, Seeds

HOSTILE = ("<script>alert(1)</script>", 'M "&"')
"""Names of groups that a page must not take for markup."""

STUDY = """
name: {name}
recipe:
  data: {{dataset: made-up, target: finding, attributes: [sex, age]}}
  model: {{name: tiny, image_size: 64, weights: {weights}}}
  optim: {{epochs: 4}}
  fit: {{precision: fp32}}
space:
  optim.lr: {{float: [1e-5, 1e-3], log: true}}
  adaptation.mask: {{bits: {{types: [norm, attn, mlp]}}}}
objectives: ["{objective}"]
baselines: {{of: [fullft, linear_readout], lr_points: 2}}
budget: {{trials: {trials}}}
sampler: random
pruner: none
confirm: {{top: {top}, seeds: {seeds}}}
"""

BLOCK = ("norm1.weight", "attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight")


def units(depth: int = 3) -> Units:
    names = ["stem", "pos"]
    names += [f"blocks.{i}.{part}" for i in range(depth) for part in BLOCK]
    names += ["final_norm"]

    def of(*parts: str) -> tuple[tuple[str, ...], ...]:
        return tuple(
            tuple(f"blocks.{i}.{p}" for p in BLOCK if p.startswith(parts)) for i in range(depth)
        )

    return Units(
        depth=depth,
        names=tuple(names),
        parameters={n: (n,) for n in names},
        sizes=dict.fromkeys(names, 100),
        types={
            "norm": of("norm1"),
            "attn": of("attn"),
            "mlp": of("mlp"),
            "bias": tuple(() for _ in range(depth)),
            "block": of(""),
        },
    )


@dataclass(frozen=True)
class Made:
    """What is to be made.

    Attributes:
        rare: Name and number of rows of a group of `sex` that is too small to show.
        flat: Phase in which recipes of the search give constant scores: in `search` those that
            train norms alone, in `confirm` all that train a part.
        favours: `baseline` makes every recipe of the search worse than the baselines.
    """

    name: str = "tiny"
    objective: str = "worst_auc@sex"
    trials: int = 10
    top: int = 2
    seeds: int = 2
    rows: int = 360
    groups: tuple[str, str] = ("F", "M")
    rare: tuple[str, int] = ("X", 3)
    task: str = "binary"
    flat: str | None = None
    weights: str = "auto"
    favours: str = "search"
    depth: int = 3
    classes: tuple[str, ...] = field(default=("no", "yes"))


def people(made: Made, split: str) -> tuple[Predictions, list[str]]:
    """Labels, attributes and patients of a split, with scores still to come."""
    rng = np.random.default_rng([len(split), 7])
    n = made.rows
    sex = rng.integers(0, 2, n)
    sex[: made.rare[1]] = 2
    age = rng.integers(0, 2, n)
    patient = np.arange(n) // 2
    label = (rng.random(n) < 0.4).astype(np.int64)
    if made.task == "multiclass":
        label = rng.integers(0, len(made.classes), n)
    attributes = {
        "sex": Attribute("sex", (*made.groups, made.rare[0]), sex),
        "age": Attribute("age", ("<60", "60+"), age),
    }
    score = np.full(n, 0.5)
    if made.task == "multiclass":
        score = np.full((n, len(made.classes)), 1 / len(made.classes))
    table = Predictions(label, score, attributes, patient, task=made.task)  # type: ignore[arg-type]
    return table, [f"p{code:05}" for code in patient]


def logits(
    made: Made, table: Predictions, recipe: Recipe, seeds: Seeds, quality: float
) -> np.ndarray:
    """`(rows, outputs)` seeded scores; fewer trained parts serve group 1 of `sex` worse."""
    rng = np.random.default_rng([seeds.data % 2**31, seeds.init % 2**31, len(table)])
    share = len(recipe.adaptation.mask) / len(units(made.depth).names)
    lift = 0.9 + quality - 0.6 * (1 - share) * (table.attributes["sex"].codes == 1)
    if made.favours == "baseline" and 0 < share < 0.9:
        lift = lift - 0.8
    noise = rng.normal(size=len(table))
    if made.task == "multiclass":
        out = rng.normal(size=(len(table), len(made.classes)))
        out[np.arange(len(table)), table.label] += lift
        return out.astype(np.float32)
    return (lift * (2 * table.label - 1) + noise)[:, None].astype(np.float32)


def is_flat(made: Made, recipe: Recipe, phase: str) -> bool:
    mask = recipe.adaptation.mask
    partly = 0 < len(mask) < len(units(made.depth).names)
    only_norms = partly and all("norm1" in unit for unit in mask)
    return phase == made.flat and (only_norms if phase == "search" else partly)


def write_run(
    made: Made, runs: Runs, judge: Judge, recipe: Recipe, seeds: Seeds, *, test: bool, phase: str
) -> StoredRun:
    table, hashes = people(made, "val")
    sound = 0.0 if is_flat(made, recipe, phase) else 1.0
    epochs = [sound * logits(made, table, recipe, seeds, 0.1 * e) for e in range(4)]
    card = recipe_card(
        recipe,
        seeds,
        task=made.task,
        classes=made.classes,
        judged_by=judge.to_json(),
        provenance={
            "fairtune": "0.1.0", "torch": "2.9", "python": "3.11", "host": "secret-host",
            "study": made.name, "phase": phase,
        },
    )  # fmt: skip
    seen = scored(table, epochs[-1], made.task)

    def fill(folder: Path) -> None:
        (folder / "recipe.json").write_text(json.dumps(card))
        (folder / "mask.txt").write_text("\n".join(recipe.adaptation.mask) + "\n")
        pd.DataFrame(
            {
                "epoch": range(1, 5),
                "train_loss": [0.7, 0.6, 0.5, 0.45],
                "val_loss": [0.69, 0.62, 0.58, 0.57],
                "seconds": [1.5] * 4,
                "images": [800] * 4,
            }
        ).to_parquet(folder / "epochs.parquet", index=False)
        prediction_frame(seen, hashes, made.classes).to_parquet(folder / "val.parquet")
        np.save(folder / "val_scores.npy", np.stack(epochs))
        if test:
            unseen, others = people(made, "test")
            final = scored(unseen, logits(made, unseen, recipe, seeds, 0.25), made.task)
            prediction_frame(final, others, made.classes).to_parquet(folder / "test.parquet")
        operating = {"epoch": 4, "threshold": judge.threshold(seen)}
        (folder / "operating.json").write_text(json.dumps(operating))
        costs = {"seconds": 6.0, "images": 3200, "trained": 1200, "epochs": 4}
        costs |= {"images_per_second": 533.0, "trainable_share": 0.01}
        (folder / "costs.json").write_text(json.dumps(costs))

    return runs.write(card["key"], fill)


def scored(table: Predictions, out: np.ndarray, task: str) -> Predictions:
    return replace(table, score=probabilities(out, task))


@dataclass
class Synthetic:
    """Takes the place of training: writes run folders; trial 5 is pruned, trial 6 fails."""

    made: Made
    plan: Plan
    runs: Runs

    def __call__(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, self.one(claim)

    def one(self, claim: Claim) -> Outcome:
        recipe = self.plan.recipe(
            {
                "adaptation.mask": list(claim.proposal.recipe["adaptation"]["mask"]),
                "optim.lr": claim.proposal.recipe["optim"]["lr"],
                "optim.l2": claim.proposal.recipe["optim"]["l2"],
            }
        )
        if claim.phase == "search" and claim.number == 4:
            spent = {"seconds": 3.0, "epochs": 2.0}
            claim.report(2, 4, 0.7)
            return Pruned(2, [0.55], spent, "below the median of its rung")
        if claim.phase == "search" and claim.number == 5:
            return Failed("oom", "ran out of memory at /home/someone/secret")
        judge = self.plan.study.judge
        seeds = Seeds(**claim.proposal.seed)
        run = write_run(self.made, self.runs, judge, recipe, seeds, test=False, phase=claim.phase)
        seen = run.validation(4)
        attrs: dict[str, object] = {**group_figures(seen, judge), "seconds": 6.0, "epochs": 4.0}
        if (why := degenerate(seen)) is not None:
            attrs[DEGENERATE] = why
        return Complete([judge.values(seen)[str(o)] for o in judge.objectives], attrs)


def plan_of(made: Made) -> Plan:
    text = STUDY.format(**asdict(made))
    study = build_study(loads(text, "study.yaml"))
    base = study.recipe
    pinned = base.to_json()
    pinned["data"] |= {"fingerprint": "f" * 16, "split": "5" * 16}
    pinned["model"] |= {"weights_sha": "a" * 64, "units": units(made.depth).hash}
    return Plan(study, Recipe.model_validate(pinned), units(made.depth))


def search(folder: Path, made: Made) -> Place:
    """Create the study and work on it until nothing is left."""
    plan = plan_of(made)
    place = Place(folder, made.name)
    place.folder.mkdir(parents=True)
    with open_study(place, plan, create=True, options=Options(patience=20.0)) as ledger:
        work(ledger, phases(plan), Synthetic(made, plan, place.runs), Limits(), StopFlag())
    return place


def finetune(place: Place, made: Made, *, seeds: int = 2, openings: int = 1) -> None:
    """Do what `finetune` leaves behind: final runs, one opening, the final set."""
    view = Overview.load(place)
    chosen, candidates = choose(view, Wanted(seeds=seeds))
    entries = []
    with Ledger.open(place.url, place.name) as ledger:
        for i in range(openings):
            when = f"2026-01-0{i + 1}T10:00:00+00:00"
            opening = Opening(when, "fairtune finetune --out /secret/place", "5", ())
            ledger.set_attr(f"{OPENING}{when}", asdict(opening), phase=FINAL)
        for c in candidates:
            keys = []
            for i in range(seeds):
                fresh = seeds_of(view.seed, FINAL, c.digest, i)
                run = write_run(
                    made, place.runs, view.judge, c.recipe, fresh, test=True, phase=FINAL
                )
                keys.append(run.key)
                recipe = c.recipe.to_json()
                proposal = Proposal(
                    FINAL, {}, {}, recipe, c.digest, run.key, fresh.to_json(), i,
                    {"label": c.label},
                )  # fmt: skip
                ledger.append_final(proposal, [0.5], {})
            entries.append(
                {"label": c.label, "keys": keys, "deploy": keys[0], "is_baseline": c.is_baseline}
            )
        final = {"pick": chosen.label, "openings": openings, "entries": entries}
        ledger.set_attr(FINAL_SET, final, phase=FINAL)
