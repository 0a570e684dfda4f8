"""What is to be known of a run with words before its figures are believed."""

from __future__ import annotations

from fairtune.data.spec import load_spec
from fairtune.errors import FairtuneError
from fairtune.evaluation.polarity import backwards
from fairtune.evaluation.predictions import Predictions
from fairtune.experiment.stored import StoredRun
from fairtune.training.recipe import Recipe
from fairtune.training.usages import cautions as of_recipe


def cautions(run: StoredRun) -> list[str]:
    """Return what a run's prompts, texts and validation scores give cause to doubt.

    Those of the data set are left out where its spec is not here any more.
    """
    try:
        found = of_recipe(run.recipe, load_spec(run.recipe.data.dataset))
    except FairtuneError:
        found = []
    measured = run.recipe.usage.reads_prompts and run.recipe.fit.rows == "train"
    return found + (wrong_way(run.recipe, run.validation()) if measured else [])


def wrong_way(recipe: Recipe, predictions: Predictions) -> list[str]:
    """Return that the prompts of a recipe rank the wrong way round, where they do.

    Args:
        recipe: A recipe whose usage may read prompts.
        predictions: Its validation predictions.
    """
    if not recipe.usage.reads_prompts:
        return []
    return [
        f"{why}; the prompts of the classes may be the wrong way round, or the model does not "
        "know these words"
        for why in backwards(predictions)
    ]
