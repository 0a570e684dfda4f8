"""Usages as something that a study searches: which one stands for all, and what clashes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fairtune.config import Dimension, Float, Int, parse
from fairtune.config.dimensions import Scalar
from fairtune.config.model import Source
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError, FairtuneError
from fairtune.models.units import Units
from fairtune.study.fields import MASK, USAGE
from fairtune.study.space import Node, OneOf, Space, middle
from fairtune.training.recipe import Recipe
from fairtune.usage import USAGES, Usage

_NO_UNITS = Units(0, (), {}, {}, {})


def usages_of(space: Space) -> list[Usage]:
    """Return every usage that is searched, its fields at the middle or at the first choice."""
    node = space.get(USAGE)
    if node is None:
        return []
    options = [option for _, option in node.options] if isinstance(node, OneOf) else [node]
    return [_built(option) for option in options]


def with_usage(recipe: dict[str, Any], space: Space) -> dict[str, Any]:
    """Return the fixed part of a study with the usage that stands for those that are searched.

    Data and model are opened by it: one that reads prompts, where there is any.
    """
    found = sorted(usages_of(space), key=lambda usage: not usage.reads_prompts)
    if not found or USAGE in recipe:
        return recipe
    first: Any = found[0]
    return {**recipe, USAGE: {name_of(first): first.to_json()}}


def usage_faults(recipe: Recipe | None, space: Space, source: Source) -> list[FairtuneError]:
    """Return what keeps the searched usages from standing in one study.

    Args:
        recipe: The fixed part.
        space: The searched part.
        source: The document.
    """
    usages = usages_of(space)
    if recipe is None or not usages:
        return []
    found = list(_faults(recipe, space, usages))
    for error in found:
        error.where = source.where("space", USAGE)
    return found


def _faults(recipe: Recipe, space: Space, usages: list[Usage]) -> Iterator[FairtuneError]:
    if len({usage.reads_text for usage in usages}) > 1:
        yield ConfigError(
            "some of these usages read the rows' texts and some do not: they have other rows, so "
            "their figures cannot be compared",
            found={_name(usage): usage.reads_text for usage in usages},
            todo="make a study of each",
        )
    masked = {"mask": "fullft"} if space.get(MASK) is not None else {}
    fields = recipe.to_json()
    fields["adaptation"] |= masked
    for usage in usages:
        if masked and usage.fits in ("head", "nothing"):
            yield ConfigError(
                "a mask is searched beside a usage that trains no units of the model",
                found=_name(usage),
                todo="take one of the two out of the space",
            )
            continue
        written = {_name(usage): usage.to_json()}  # type: ignore[attr-defined]
        try:
            parse(Recipe, {**fields, USAGE: written})
        except FairtuneError as error:
            yield from getattr(error, "problems", [error])


def _built(node: Node) -> Usage:
    made = USAGES.parse(node.draw(USAGE, _central, _NO_UNITS))
    assert isinstance(made, Usage)
    return made


def _central(name: str, dimension: Dimension) -> Scalar:
    return middle(dimension) if isinstance(dimension, Float | Int) else dimension.options[0]


def _name(usage: Usage) -> str:
    name: str = name_of(usage)  # type: ignore[arg-type]
    return name
