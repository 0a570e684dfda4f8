"""The model card that stands beside a retrained model, in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import yaml

from fairtune.data.spec import load_spec
from fairtune.errors import FairtuneError, StudyError
from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import StoredRun
from fairtune.models import spec as models
from fairtune.report import grids, post, provenance
from fairtune.report.edits import APPLIED, edit_words
from fairtune.report.files import put
from fairtune.report.grid import Grid
from fairtune.report.markdown import plain, table, verdict
from fairtune.report.mitigations import mitigation_words
from fairtune.report.scored import Scored, attributes_of, group_frame, on_test, retrained
from fairtune.report.summary import Summary, summarise
from fairtune.report.tables import difference_frame, gap_frame, harm_frame
from fairtune.report.usage import given_words, prompt_grid, text_words_of, usage_words
from fairtune.report.words import LABELS, harm_words, number, objective_words
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview

FILE = "README.md"


@dataclass(frozen=True, eq=False)
class Card:
    """What a card says.

    Attributes:
        title: Heading.
        model: The retrained run on test.
        judge: By what it was judged.
        groups: See `scored.group_frame`, of the model alone.
        recipe: The fields of its recipe.
        provenance: Versions, hashes, seeds.
        summary: The study's verdict; None for a model that nothing was compared with.
        compared: Tables of differences and of who gains and who pays.
        openings: How often the test split had been opened, where that is known.
    """

    title: str
    model: Scored
    judge: Judge
    groups: pd.DataFrame
    recipe: Grid
    provenance: Grid
    summary: Summary | None = None
    compared: Sequence[Grid] = ()
    openings: int | None = None

    @classmethod
    def of_study(cls, view: Overview) -> Card:
        """Return the card of the model that a study deploys.

        Raises:
            StudyError: Nothing was retrained, or the runs are gone.
        """
        if (outcome := Outcome.load(view)) is None:
            raise StudyError(
                "a model card speaks of a retrained model, and there is none yet",
                found=view.place.name,
                todo=f"fairtune finetune --study {view.place.name}",
            )
        return cls.of_outcome(outcome)

    @classmethod
    def of_outcome(cls, outcome: Outcome) -> Card:
        """Return the card of the model that a tested set deploys."""
        view = outcome.view
        model = on_test(outcome.tested[outcome.pick])
        different = grids.differences(difference_frame(outcome), view.judge.primary)
        harmed = grids.harm(harm_frame(outcome), gap_frame(outcome), outcome.delta)
        return cls(
            f"{view.place.name}: {outcome.pick}",
            model,
            view.judge,
            _groups(model, view.judge, attributes_of(view)),
            provenance.recipe(model.run, view.units, outcome.pick),
            provenance.of_run(model.run, view.judge),
            summarise(view, view.candidates(), outcome),
            [*([] if different is None else [different]), *harmed],
            outcome.openings,
        )

    @classmethod
    def of_run(cls, run: StoredRun, judge: Judge, openings: int | None = None) -> Card:
        """Return the card of a run that was retrained without a study."""
        model = retrained(run, judge, "the model")
        return cls(
            f"{PurePath(run.recipe.model.name).stem} for {run.recipe.data.target}",
            model,
            judge,
            _groups(model, judge, list(run.recipe.data.attributes)),
            provenance.recipe(run, None, "the model"),
            provenance.of_run(run, judge),
            openings=openings,
        )


def _groups(model: Scored, judge: Judge, attributes: Sequence[str]) -> pd.DataFrame:
    return group_frame([model], grids.SHOWN, attributes, judge.validation.minimum)


def write(card: Card, to: Path | None = None) -> Path:
    """Write the card, by default beside the model, and return where it stands.

    Raises:
        StorageError: The file cannot be written.
    """
    return put(to or card.model.run.folder / FILE, text(card))


def text(card: Card) -> str:
    """Return the card: YAML for the hub, then Markdown."""
    head = yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True, width=98)
    return f"---\n{head}---\n\n" + "\n".join(_body(card)).rstrip() + "\n"


def _metadata(card: Card) -> dict[str, Any]:
    recipe = card.model.run.recipe
    dataset = PurePath(recipe.data.dataset).stem
    overall = card.groups[card.groups["group"].isna() & card.groups["target"].isna()]
    metrics = []
    for row in overall.to_dict("records"):
        wanted = row["metric"] in ("auc", "worst_auc", "auc_gap", "ece")
        if wanted and row["value"] == row["value"]:
            by = f" by {row['attribute']}" if isinstance(row["attribute"], str) else ""
            kind = "roc_auc" if row["metric"] == "auc" else str(row["metric"])
            value = round(float(row["value"]), 4)
            metrics.append({"type": kind, "name": f"{row['metric']}{by}", "value": value})
    task = {"type": "image-classification", "name": "Image classification"}
    data = {"type": dataset, "name": dataset, "split": "test"}
    return {
        "library_name": "fairtune",
        "pipeline_tag": "image-classification",
        "tags": ["medical-imaging", "fairness", "parameter-efficient-fine-tuning"],
        "model-index": [
            {
                "name": card.title,
                "results": [{"task": task, "dataset": data, "metrics": metrics}],
            }
        ],
    }


def _body(card: Card) -> list[str]:
    lines = [f"# {plain(card.title)}", "", *_about(card)]
    if card.summary is not None:
        lines += verdict(card.summary, "##")
    lines += ["## Use", "", *_use(card), "", "## Fairness", "", plain(_assessed(card)), ""]
    for name in _attributes(card):
        for grid in grids.groups_of_one(card.groups, card.model.label, name, "test", "Groups"):
            lines += table(grid)
    lines += [plain(grids.reading("test", by_group=post.by_group(card.model.run))), ""]
    for grid in card.compared:
        lines += table(grid)
    lines += ["### What was not measured", "", *(f"- {plain(t)}" for t in _unknown(card)), ""]
    lines += ["## How it was made", "", *table(card.recipe)]
    if (prompts := prompt_grid(card.model.run)) is not None:
        lines += table(prompts)
    lines += ["## Licences", "", *_licences(card), ""]
    return [*lines, "## Provenance", "", *table(card.provenance)]


def _about(card: Card) -> list[str]:
    run = card.model.run
    spec = _spec(models.load, run.recipe.model.name)
    name = run.recipe.model.name if spec is None else spec.title
    said = f"{name} at {run.recipe.model.image_size} pixels, {usage_words(run)}"
    if mitigated := mitigation_words(run.recipe):
        said += f" Mitigations: {mitigated}; whether they helped is what its figures say."
    said += edit_words(run)
    if card.summary is None:
        said += " It was retrained on its own: nothing was compared, so no verdict is given."
    return [plain(said), ""]


def _use(card: Card) -> list[str]:
    run = card.model.run
    cut = run.operating["threshold"]
    told = ", ".join(number(c) for c in cut) if isinstance(cut, list) else number(cut)
    alike = "" if post.by_group(run) else ", for every group alike"
    where = "" if cut is None else (
        f" A score at or above {told} was called positive{alike}; the threshold "
        "was frozen on validation."
    )  # fmt: skip
    given = f"{given_words(run)} alone"
    if run.post:
        given = f"{given_words(run)} and the patient's {' and '.join(post.attributes(run))}"
    scores = "scores" if post.by_group(run) else "probabilities"
    needed = [f"**Note.** {plain(APPLIED)}", ""] if run.recipe.edited else []
    needed += [line for said in text_words_of(run) for line in (f"**Note.** {plain(said)}", "")]
    needed += [line for said in post.needs(run) for line in (f"**Note.** {plain(said)}", "")]
    predicts = "`fairtune predict RUN IMAGES` scores images, "
    return [
        *needed,
        f"{predicts if 'text' not in given else ''}`fairtune evaluate RUN --dataset D` "
        "assesses it on other data; RUN is this folder.",
        "",
        plain(
            f"It gives {scores} from {given}.{where} It is a research result, no "
            "medical device: before it supports any decision it needs an assessment on the "
            "patients and devices it is meant for."
        ),
    ]


def _assessed(card: Card) -> str:
    primary = card.judge.primary
    seen = "" if card.openings is None else (
        f" The test split had been opened {card.openings} time(s)."
    )  # fmt: skip
    return (
        f"Assessed on {objective_words(primary)} ({primary}), which speaks of "
        f"{harm_words(primary)}. {LABELS}{seen}"
    )


def _attributes(card: Card) -> list[str]:
    return [str(a) for a in dict.fromkeys(card.groups["attribute"].dropna())]


def _unknown(card: Card) -> list[str]:
    """Return what the figures are silent about."""
    names = _attributes(card)
    found = [
        f"Any attribute but {', '.join(names)}, and what they hide where they meet: nobody looked "
        "whether the model serves such groups worse.",
    ]
    groups = card.groups[(card.groups["metric"] == "auc") & card.groups["group"].notna()]
    few = groups[~groups["shown"]]
    if len(few):
        told = "; ".join(
            dict.fromkeys(f"{a}: {g}" for a, g in zip(few["attribute"], few["group"]))
        )
        found.append(f"Groups with too few patients in the test split to say anything: {told}.")
    return [
        *found,
        "Other hospitals, devices, years and ways of choosing patients: the test patients are of "
        "the same data set as those it was fitted on.",
        "Errors of the labels, which may differ between groups.",
        "What follows from a score: who sees it, what is done, and whether it helps the patient.",
    ]


def _licences(card: Card) -> list[str]:
    recipe = card.model.run.recipe
    lines = []
    for kind, name, spec in (
        ("Pretrained weights", recipe.model.name, _spec(models.load, recipe.model.name)),
        ("Data", recipe.data.dataset, _spec(load_spec, recipe.data.dataset)),
    ):
        terms = "see their source" if spec is None else f"{spec.licence}. {spec.citation}"
        lines.append(f"- {kind} ({plain(PurePath(name).name)}): {plain(terms)}")
    return [*lines, "- This model: what the two allow, and whoever trained it."]


def _spec(load: Any, name: str) -> Any:
    # A card is written for whoever has the run; the spec it was made with may be gone.
    try:
        return load(name)
    except (FairtuneError, OSError):
        return None
