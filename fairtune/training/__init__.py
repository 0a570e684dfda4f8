"""From a recipe and a seed to scores: the inner run of a study. It does not know Optuna."""

from fairtune.training.observer import Decision, Epoch, Observer
from fairtune.training.recipe import PROTOCOL, Recipe, Seeds

__all__ = ["PROTOCOL", "Decision", "Epoch", "Observer", "Recipe", "Seeds"]
