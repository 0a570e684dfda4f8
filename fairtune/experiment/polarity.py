"""Whether the prompts of a run rank its classes the wrong way round, as far as it was measured."""

from __future__ import annotations

from fairtune.evaluation.polarity import backwards
from fairtune.evaluation.predictions import Predictions
from fairtune.training.recipe import Recipe


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
