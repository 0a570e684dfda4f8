"""A mask from outside brought into a study: recipe.json, a rule, or a FairTune vector."""

from __future__ import annotations

from fairtune.config import parse
from fairtune.errors import ConfigError
from fairtune.experiment.masks import read_card, read_mask
from fairtune.study.overview import Overview
from fairtune.study.rank import ranked
from fairtune.study.rows import SEARCH
from fairtune.training.recipe import Recipe


def with_mask(text: str, layout: str | None, view: Overview) -> Recipe:
    """Return the study's recipe with the mask `text`.

    recipe.json brings everything of its own but its fold. A rule or vector takes the rest from
    the study: its fixed part, and for what was searched the values of its best recipe; never a
    default.

    Raises:
        FairtuneError: The mask cannot be read or does not fit; the study has no finished trial.
    """
    if text.endswith(".json"):
        recipe = parse(Recipe, read_card(text)["recipe"]).of_data(fold=None)
        return recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"rows": "train"})})
    names = read_mask(text, layout, view.units).units
    best = ranked(view.rows[SEARCH], view.judge.primary.sign)
    if not best:
        raise ConfigError(
            "the study has no finished trial to take the learning rate from",
            where=f"--study {view.place.name}",
            todo="let `fairtune search` run first, or give --recipe",
        )
    recipe = parse(Recipe, dict(best[0].rows[0].recipe))
    adaptation = recipe.adaptation.model_copy(update={"mask": names})
    optim = recipe.optim
    if names and optim.lr is None:
        fitted = [e.rows[0].recipe["optim"]["lr"] for e in best]
        optim = optim.model_copy(update={"lr": next((lr for lr in fitted if lr), None)})
    return recipe.model_copy(update={"adaptation": adaptation, "optim": optim})
