"""Retrain one mask without a study: recipe.json, or a mask with everything else from one."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairtune.adaptation import Mask
from fairtune.config import parse
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError
from fairtune.evaluation.table import group_table
from fairtune.experiment.finetune import Entry, Finetuned, finetune, seeds_for, taken_over
from fairtune.experiment.gate import Gate
from fairtune.experiment.judge import Judge
from fairtune.experiment.masks import read_card, read_mask, with_edit
from fairtune.experiment.run import Watcher
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.experiment.text_facts import words_of
from fairtune.mitigation.post import post_processing
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session


@dataclass(frozen=True, eq=False)
class Alone:
    """A retrained recipe.

    Attributes:
        made: Its runs, and the one to deploy.
        judge: By what it was judged.
        said: Where everything but the mask came from, in words.
    """

    made: Finetuned
    judge: Judge
    said: str

    @property
    def deploy(self) -> StoredRun:
        """The run to deploy."""
        return self.made.deploy["pick"]


def finetune_alone(
    mask: str | None,
    session: Session,
    out: Path,
    *,
    recipe_file: Path | None = None,
    layout: str | None = None,
    edit: str | None = None,
    rows: Literal["train", "train+val"] = "train",
    seeds: int = 1,
    seed: int | None = None,
    command: str,
    watch: Callable[[str, int, int], Watcher] | None = None,
    shared: str | None = None,
) -> Alone:
    """Retrain a mask with fresh seeds and test it in one opening of the gate.

    Args:
        mask: recipe.json, a mask rule, or a mask file of another tool; None for that of the
            recipe.
        session: What the process keeps between runs.
        out: Results folder.
        recipe_file: recipe.json, or a recipe in YAML, that a bare mask takes everything else
            from.
        layout: FairTune tuning method of a `.npy` mask.
        edit: Edit file whose edit takes the place of the recipe's own.
        rows: Rows to fit on.
        seeds: Fresh seeds; where nothing is fitted they do not matter, and one run is made.
        seed: Where they follow from; None draws one.
        command: The user's command, for the ledger of openings.
        watch: Progress.
        shared: URL of the runs that machines share.

    Raises:
        ConfigError: A bare mask without a recipe, or a trained mask without a learning rate.
    """
    source = mask if mask is not None and mask.endswith(".json") else recipe_file
    if source is None:
        raise ConfigError(
            "a bare mask says nothing of data, model and learning rate",
            where=f"--mask {mask}",
            todo="give --study NAME or --recipe recipe.json that it takes them from",
        )
    card = read_card(source)
    recipe, judge = parse(Recipe, card["recipe"]), Judge.from_json(card["judged_by"])
    fold = recipe.data.fold
    recipe = recipe.of_data(fold=None)
    recipe = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"rows": "train"})})
    said = f"everything from {Path(source).name}"
    if fold is not None:
        said += f", on the official split, not its fold {fold.index} of {fold.of}"
    if mask is not None and not mask.endswith(".json"):
        units = read_mask(mask, layout, session.units(recipe)).units
        recipe = recipe.model_copy(
            update={"adaptation": recipe.adaptation.model_copy(update={"mask": units})}
        )
        said = f"mask {mask}; {said}"
    if edit is not None:
        recipe = with_edit(recipe, edit)
        said += f", edit from {Path(edit).name}"
    found: StoredRun | None = None
    if rows == "train+val":
        recipe, found = _settled(recipe, Path(str(source)).expanduser().parent)
    base = secrets.randbits(30) if seed is None else seed
    fresh = tuple(Seeds(data=base + i, init=base + i) for i in range(seeds_for(recipe, seeds)))
    resolved = session.resolve(recipe)
    _refuse_idle(resolved)
    entry = Entry("pick", resolved, fresh, *(() if found is None else taken_over(found)))
    runs = Runs.at(out, shared)
    session.keeps_best = not isinstance(judge.validation.epoch, str)
    made = finetune([entry], session, runs, judge, Gate(out), command=command, watch=watch)
    return Alone(made, judge, said)


def _refuse_idle(recipe: Recipe) -> None:
    if recipe.scored and recipe.mitigated:
        raise ConfigError(
            "nothing is trained, so no mitigation can act on training",
            where="recipe.mitigations",
            found=[name_of(m) for m in recipe.mitigations if m.trains],  # type: ignore[attr-defined]
            todo="give a mask, or leave them out",
        )


def test_text(alone: Alone) -> str:
    """Return the test figures of the run to deploy, with intervals, as text."""
    run, judge = alone.deploy, alone.judge
    cut: Any = run.operating["threshold"]
    threshold = tuple(cut) if isinstance(cut, list) else cut
    frame = group_table(
        run.test(),
        ["auc"],
        list(run.recipe.data.attributes),
        minimum=judge.validation.minimum,
        threshold=judge.validation.rule if threshold is None else threshold,
    )
    columns = ["metric", "attribute", "group", "value", "low", "high", "n", "positives"]
    shown = frame[columns].round(3).astype(object).fillna("").to_string(index=False)
    mask = Mask(tuple(run.recipe.adaptation.mask)) if not run.recipe.solved else Mask(())
    trained = (
        f"{len(mask.units)} units, {run.costs['trainable_share']:.2%} of the backbone trained"
    )
    lines = [
        alone.said,
        "nothing was fitted: images are scored by prompts" if run.recipe.scored else trained,
        *words_of(run),
        shown,
        f"the test split has been opened {alone.made.openings} time(s) from this folder",
        f"checkpoint: {run.folder}",
    ]
    return "\n".join(lines)


def _settled(recipe: Recipe, folder: Path) -> tuple[Recipe, StoredRun]:
    """Return the recipe for train+val with epochs of the run in `folder`, and that run.

    Raises:
        ConfigError: The recipe.json does not stand in a finished run's folder.
    """
    run = StoredRun(folder)
    if not (folder / "operating.json").is_file():
        raise ConfigError(
            "train+val takes epochs and threshold from the run that recipe.json belongs to",
            where=folder,
            todo="give the recipe.json inside its run folder, or use --on train",
        )
    if post_processing(recipe.mitigations) and "post" not in run.operating:
        raise ConfigError(
            "train+val takes post-processing from the run that recipe.json belongs to, and that "
            "run has none",
            where=folder / "operating.json",
            todo="use --on train, which fits it on validation",
        )
    settled = recipe.model_copy(
        update={
            "fit": recipe.fit.model_copy(update={"rows": "train+val"}),
            "optim": recipe.optim.model_copy(update={"epochs": int(run.operating["epoch"])}),
        }
    )
    return settled, run
