"""The runs that one trial stands for: levels of fidelity, and folds of each. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import folded_key
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.recipe_parts import FoldPart


@dataclass(frozen=True)
class Part:
    """One run of a trial.

    Attributes:
        recipe: What is trained; that of the last level is the trial's own, but for the fold.
        level, levels: Level of fidelity, counted from 1.
        fold, folds: Fold it is validated on, counted from 1.
    """

    recipe: Recipe
    level: int = 1
    levels: int = 1
    fold: int = 1
    folds: int = 1

    @property
    def ends_level(self) -> bool:
        """Whether the level has no run after this one."""
        return self.fold == self.folds

    @property
    def place(self) -> dict[str, int]:
        """What progress says of it: level and fold where there are several."""
        found: dict[str, int] = {}
        if self.levels > 1:
            found |= {"level": self.level, "levels": self.levels}
        if self.folds > 1:
            found |= {"fold": self.fold, "folds": self.folds}
        return found


def folds_of(recipe: Recipe, judge: Judge) -> list[Recipe]:
    """Return the recipe of every fold, stratified by the primary objective's attribute."""
    folds = judge.validation.folds
    if folds == 1:
        return [recipe]
    by = judge.primary.attribute
    return [recipe.of_data(fold=FoldPart(index=i, of=folds, by=by)) for i in range(1, folds + 1)]


def parts(levels: Sequence[Recipe], judge: Judge) -> list[Part]:
    """Return the runs of a trial in their order.

    Args:
        levels: The recipe at every level, the last as the trial has it.
        judge: Its validation block says how many folds there are.
    """
    return [
        Part(recipe, i, len(levels), fold, judge.validation.folds)
        for i, level in enumerate(levels, 1)
        for fold, recipe in enumerate(folds_of(level, judge), 1)
    ]


def trial_key(recipe: Recipe, seeds: Seeds, judge: Judge) -> str:
    """Return the key of a trial: of its one run, or of the runs of its folds together."""
    return folded_key([fold.key(seeds) for fold in folds_of(recipe, judge)])


def runs_before(progress: Mapping[str, Any]) -> int:
    """Return how many runs of its trial come before the one that says `progress` of itself."""
    level, fold = progress.get("level", 1), progress.get("fold", 1)
    return int((level - 1) * progress.get("folds", 1) + fold - 1)


def share_done(progress: Mapping[str, Any]) -> float:
    """Return the share of its trial that a run has done, by epochs of all its runs."""
    if not progress.get("of"):
        return 0.0
    runs = progress.get("levels", 1) * progress.get("folds", 1)
    return float((runs_before(progress) + progress["epoch"] / progress["of"]) / runs)


def shown(progress: Mapping[str, Any]) -> str:
    """Return `level 1/3 fold 2/5 ` of what a run says of itself, as far as there are several."""
    words = [
        f"{name} {progress[name]}/{progress[f'{name}s']} "
        for name in ("level", "fold")
        if name in progress
    ]
    return "".join(words)
