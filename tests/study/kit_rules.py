"""A study whose runs are drawn instead of trained: real phases, rows and files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from kit_plan import plan

from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.experiment.judge import Judge
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun, recipe_card
from fairtune.experiment.tables import prediction_frame, probabilities
from fairtune.study.execute import group_figures
from fairtune.study.final import Wanted, choose
from fairtune.study.ledger import Claim, Complete, Ledger, Options, Outcome
from fairtune.study.opening import open_study
from fairtune.study.outcome import FINAL_SET
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.plan import Plan, seeds_of
from fairtune.study.rows import FINAL, part_of
from fairtune.study.samplers.random import Random
from fairtune.study.search import phases
from fairtune.study.shortlist import DRAWS, draws_of
from fairtune.study.worker import Limits, StopFlag, work
from fairtune.training.recipe import Recipe, Seeds

ROWS, EPOCHS = 240, 2


def people(split: str) -> tuple[Predictions, list[str]]:
    """Labels, groups and patients (two rows each) of a split."""
    rng = np.random.default_rng(len(split))
    patient = np.arange(ROWS) // 2
    sex, age = (rng.integers(0, 2, ROWS // 2)[patient] for _ in range(2))
    label = (rng.random(ROWS) < 0.45).astype(np.int64)
    attributes = {
        "sex": Attribute("sex", ("F", "M"), sex),
        "age": Attribute("age", ("<60", "60+"), age),
    }
    names = [f"p{code:04}" for code in patient]
    return Predictions(label, np.full(ROWS, 0.5), attributes, patient), names


def logits(split: str, recipe: Recipe, seeds: Seeds, epoch: int) -> np.ndarray:
    """`(rows, 1)`: large masks serve men well, small ones women; later epochs are better."""
    table, _ = people(split)
    rng = np.random.default_rng([seeds.data % 2**31, seeds.init % 2**31, len(split)])
    share = len(recipe.adaptation.mask) / 45
    men = table.attributes["sex"].codes == 1
    lift = 0.5 + 0.2 * epoch + np.where(men, share, 0.6 - 0.5 * share)
    drawn = lift * (2 * table.label - 1) + rng.normal(size=ROWS)
    return np.asarray(drawn[:, None].astype(np.float32))


def write_run(
    runs: Runs, judge: Judge, recipe: Recipe, seeds: Seeds, *, test: bool = False
) -> StoredRun:
    """Write the folder of one run."""
    table, names = people("val")
    scores = np.stack([logits("val", recipe, seeds, epoch) for epoch in range(EPOCHS)])
    seen = replace(table, score=probabilities(scores[-1], "binary"))
    card = recipe_card(
        recipe, seeds, task="binary", classes=("no", "yes"), judged_by=judge.to_json(),
        provenance={},
    )  # fmt: skip

    def fill(folder: Path) -> None:
        (folder / "recipe.json").write_text(json.dumps(card))
        np.save(folder / "val_scores.npy", scores)
        prediction_frame(seen, names, ("no", "yes")).to_parquet(folder / "val.parquet")
        operating = {"epoch": EPOCHS, "threshold": judge.threshold(seen)}
        (folder / "operating.json").write_text(json.dumps(operating))
        trained = 100.0 * len(recipe.adaptation.mask) + 10
        (folder / "costs.json").write_text(json.dumps({"trainable": trained, "seconds": 1.0}))
        if test:
            unseen, others = people("test")
            final = probabilities(logits("test", recipe, seeds, EPOCHS), "binary")
            frame = prediction_frame(replace(unseen, score=final), others, ("no", "yes"))
            frame.to_parquet(folder / "test.parquet")

    return runs.write(card["key"], fill)


@dataclass
class Drawn:
    """Takes the place of training."""

    plan: Plan
    runs: Runs

    def __call__(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, self.one(claim)

    def one(self, claim: Claim) -> Outcome:
        judge = self.plan.study.judge.on(part_of(claim.phase))
        recipe = Recipe.model_validate(dict(claim.proposal.recipe))
        run = write_run(self.runs, judge, recipe, Seeds(**claim.proposal.seed))
        whole = run.validation(judge.epoch_of(run))
        seen, rules = judge.seen(whole), judge.validation
        attrs: dict[str, Any] = {**group_figures(seen, judge), "seconds": 1.0}
        if len(judge.objectives) > 1:
            attrs[DRAWS] = draws_of(
                seen, judge.objectives, minimum=rules.minimum, threshold=rules.rule
            )
        return Complete(list(judge.values(whole).values()), attrs)


def search(folder: Path, made: Plan) -> Place:
    """Create the study and work on it until nothing is left."""
    place = Place(folder, made.study.name)
    place.folder.mkdir(parents=True, exist_ok=True)
    options = Options(sampler=Random(), pruner=made.study.pruner, patience=20.0)  # type: ignore[arg-type]
    with open_study(place, made, create=True, options=options) as ledger:
        work(ledger, phases(made), Drawn(made, place.runs), Limits(), StopFlag())
    return place


def finetune(place: Place, wanted: Wanted | None = None) -> None:
    """Leave behind what `finetune` would: final runs and the tested set."""
    view = Overview.load(place)
    chosen, candidates = choose(view, wanted or Wanted(seeds=2))
    entries = []
    for c in candidates:
        seeds = [seeds_of(view.seed, FINAL, c.digest, i) for i in range(2)]
        keys = [write_run(place.runs, view.judge, c.recipe, s, test=True).key for s in seeds]
        entries.append(
            {"label": c.label, "keys": keys, "deploy": keys[0], "is_baseline": c.is_baseline}
        )
    with Ledger.open(place.url, place.name) as ledger:
        final = {"pick": chosen.label, "openings": 1, "entries": entries}
        ledger.set_attr(FINAL_SET, final, phase=FINAL)


def front_plan(**changes: Any) -> Plan:
    """A plan with one objective of groups, a control and a confirm part."""
    fields: dict[str, Any] = {
        "objectives": ["worst_auc@sex"],
        "budget": {"trials": 6},
        "confirm": {"top": 2, "seeds": 2},
        "baselines": {"of": ["linear_readout", "norm:all"], "lr_points": 1, "control": "random"},
        "validation": {
            "confirm_part": 0.5,
            "min_group": {"n": 10, "positives": 5, "negatives": 5},
        },
    }
    return plan(**(fields | changes))
