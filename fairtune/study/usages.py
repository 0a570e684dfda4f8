"""Usages as something that a study searches: which one stands for all, and what clashes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from fairtune.config import Choice, Dimension, Float, Int, parse
from fairtune.config.dimensions import Scalar
from fairtune.config.model import Source
from fairtune.config.registry import written
from fairtune.errors import ConfigError, FairtuneError
from fairtune.models.units import Units
from fairtune.study.baselines import named_usage
from fairtune.study.fields import MASK, USAGE
from fairtune.study.space import Node, OneOf, Space, middle
from fairtune.training.recipe import Recipe
from fairtune.usage import USAGES, Usage

_NO_UNITS = Units(0, (), {}, {}, {})
_MOST = 64
"""Settings of one usage that are looked at."""


def usages_of(space: Space) -> list[Usage]:
    """Return every usage that is searched, once for all choices of its fields.

    Ranges are at their middle.
    """
    node = space.get(USAGE)
    if node is None:
        return []
    options = [option for _, option in node.options] if isinstance(node, OneOf) else [node]
    return list(dict.fromkeys(usage for option in options for usage in _variants(option)))


def with_usage(recipe: dict[str, Any], space: Space) -> dict[str, Any]:
    """Return the fixed part of a study with the usage that stands for those that are searched.

    Data and model are opened by it: one that reads prompts, where there is any.
    """
    found = sorted(usages_of(space), key=lambda usage: not usage.reads_prompts)
    if not found or USAGE in recipe:
        return recipe
    return {**recipe, USAGE: written(found[0])}  # type: ignore[arg-type]


def usage_faults(recipe: Recipe | None, space: Space, source: Source) -> list[FairtuneError]:
    """Return what keeps the usage, or those that are searched, from standing in one study.

    Args:
        recipe: The fixed part.
        space: The searched part.
        source: The document.
    """
    if recipe is None:
        return []
    searched = usages_of(space)
    found = list(_faults(recipe, space, searched or [recipe.usage]))
    for error in found:
        error.where = source.where("space", USAGE if searched else MASK)
    return found


def _faults(recipe: Recipe, space: Space, usages: list[Usage]) -> Iterator[FairtuneError]:
    if len({usage.reads_text for usage in usages}) > 1:
        yield ConfigError(
            "some of these usages read the rows' texts and some do not: they have other rows, so "
            "their figures cannot be compared",
            found=[written(usage) for usage in usages],  # type: ignore[arg-type]
            todo="make a study of each; of classify name its features, "
            "{classify: {features: image}}",
        )
    masked = {"mask": "fullft"} if space.get(MASK) is not None else {}
    fields = recipe.to_json()
    fields["adaptation"] |= masked
    for usage in usages:
        if masked and usage.fits in ("head", "nothing"):
            yield ConfigError(
                "a mask is searched beside a usage that trains no units of the model",
                found=named_usage(usage),
                todo="take one of the two out of the space",
            )
            continue
        if space.get(USAGE) is None:
            continue  # the fixed part has been read already
        try:
            parse(Recipe, {**fields, USAGE: written(usage)})  # type: ignore[arg-type]
        except FairtuneError as error:
            yield from getattr(error, "problems", [error])


def _variants(node: Node) -> Iterator[Usage]:
    named = {n: d for n, d, _ in node.names(USAGE, _NO_UNITS)}
    choices = {n: d.options for n, d in named.items() if isinstance(d, Choice)}
    for drawn in itertools.islice(itertools.product(*choices.values()), _MOST):
        chosen = dict(zip(choices, drawn, strict=True))

        def value(name: str, dimension: Dimension, chosen: dict[str, Scalar] = chosen) -> Scalar:
            return middle(dimension) if isinstance(dimension, Float | Int) else chosen[name]

        made = USAGES.parse(node.draw(USAGE, value, _NO_UNITS))
        assert isinstance(made, Usage)
        yield made
