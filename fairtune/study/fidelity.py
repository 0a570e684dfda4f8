"""Levels of fidelity: what a trial is trained on before it is trained as its recipe says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic

from fairtune.config import Config, parse
from fairtune.config.model import Source, carried
from fairtune.errors import ConfigError, FairtuneError
from fairtune.study.pruners import Pruner, Rule
from fairtune.training.recipe import Recipe

EPOCHS = "epochs"
_KEYS = 100

Share = Annotated[float, pydantic.Field(gt=0, le=1)]
Side = Annotated[int, pydantic.Field(gt=0)]


class Fidelity(Config):
    """In what the cheap runs differ by which trials are pruned; nothing: pruned by epochs.

    Attributes:
        fraction: Shares of the training patients, level by level; the last is the recipe's own.
        image_size: Sides of the images in pixels, likewise.
    """

    fraction: tuple[Share, ...] = ()
    image_size: tuple[Side, ...] = ()

    @pydantic.model_validator(mode="after")
    def _rising(self) -> Fidelity:
        if self.fraction and self.image_size:
            error = ConfigError("trials rise in one thing", found=["fraction", "image_size"])
            raise carried(error)
        if not self.values:
            return self
        if len(self.values) < 2 or list(self.values) != sorted(set(self.values)):
            error = ConfigError(
                "levels of fidelity rise, and there are two or more",
                found=list(self.values),
                allowed="e.g. [0.25, 0.5, 1.0]" if self.fraction else "e.g. [56, 70]",
            )
            raise carried(error, self.name)
        return self

    @property
    def name(self) -> str:
        """What differs between the levels."""
        return "fraction" if self.fraction else "image_size" if self.image_size else EPOCHS

    @property
    def values(self) -> tuple[float, ...]:
        """Its values, level by level; none for epochs."""
        return self.fraction or self.image_size

    @property
    def price(self) -> float:
        """What a trial that reaches the last level costs, in runs of that level.

        The sum of the shares; of image sizes the sum of their squares over the last one's, as the
        cost of an image goes with its pixels.
        """
        power = 2 if self.image_size else 1
        return sum((v / self.values[-1]) ** power for v in self.values) if self.values else 1.0

    def at(self, recipe: Recipe, level: int) -> Recipe:
        """Return `recipe` with the value of `level`, counted from 1; the last leaves it alone."""
        if level >= len(self.values):
            return recipe
        if self.fraction:
            return recipe.of_data(fraction=self.fraction[level - 1])
        size = {"image_size": self.image_size[level - 1]}
        return recipe.model_copy(update={"model": recipe.model.model_copy(update=size)})

    def judging(self, pruner: Pruner) -> Pruner:
        """Return the pruner as it judges trials of this fidelity."""
        return ByLevel(pruner) if self.values else pruner


@dataclass(frozen=True)
class ByLevel:
    """A pruner that judges after levels.

    Attributes:
        pruner: The pruner.
    """

    pruner: Pruner

    def build(self, *, levels: bool = True) -> Rule:
        """Return the working rule."""
        return self.pruner.build(levels=levels)


def fidelity_field(value: Any) -> Any:
    """Return what stands under `fidelity:` of a study file as a value of the field.

    Raises:
        ValueError: It is neither `epochs` nor levels.
    """
    if isinstance(value, Fidelity):
        return value
    if value == EPOCHS:
        return Fidelity()
    try:
        if isinstance(value, dict) and value:
            return parse(Fidelity, value)
        raise ConfigError(
            "not a fidelity",
            found=value,
            allowed="epochs, {fraction: [0.25, 0.5, 1.0]} or {image_size: [56, 70]}",
        )
    except FairtuneError as error:
        raise carried(error) from None


def level_faults(
    fidelity: Fidelity, recipe: Recipe, pruner: Pruner, source: Source
) -> Iterator[FairtuneError]:
    """Yield what keeps levels from being those of a study: its last one is the recipe itself."""
    if not fidelity.values:
        return
    last = fidelity.values[-1]
    own = recipe.data.fraction if fidelity.fraction else recipe.model.image_size
    if own != last:
        path = "data.fraction" if fidelity.fraction else "model.image_size"
        yield ConfigError(
            "the last level is the recipe itself",
            where=source.where("fidelity", fidelity.name, len(fidelity.values) - 1),
            found=last,
            allowed=f"recipe.{path}: {own}",
            todo=f"write recipe.{path}: {last:g}, or end the levels with {own}"
            if own is not None
            else f"write recipe.{path}: {last:g}",
        )
    rule = pruner.build(levels=True)
    if not any(rule.rungs(len(fidelity.values), str(key)) for key in range(_KEYS)):
        yield ConfigError(
            "levels are trained so that trials can be pruned, and this pruner judges at none",
            where=source.where("pruner"),
            allowed="asha, median or hyperband, with min_resource below the number of levels",
            todo="choose one, or leave out fidelity",
        )
