"""Whose groups an edit is made to hide, seen from a recipe. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence

from fairtune.editing import EditRule
from fairtune.errors import ConfigError


def foreign(rule: EditRule, known: Sequence[str]) -> ConfigError | None:
    """Return that an edit is of what is not an attribute, or crossing, of `known`, or None."""
    if rule.attribute is None:
        return None
    parts = rule.attribute.split("*")
    if set(parts) <= set(known) and len(set(parts)) == len(parts):
        return None
    return ConfigError(
        "an edit is of what is not an attribute of the recipe",
        where="recipe.edit",
        found=rule.attribute,
        allowed=[*known, "crossings such as A*B"],
        todo="add it to recipe.data.attributes",
    )


def nameless(rule: EditRule) -> ConfigError | None:
    """Return that an edit acts on an attribute and nothing says on which, or None."""
    if "attribute" not in type(rule).model_fields or rule.attribute is not None:  # type: ignore[attr-defined]
        return None
    return ConfigError(
        "an edit is learned for groups, and nothing says of which attribute",
        where="recipe.edit",
        todo="name it there, or in an objective such as worst_auc@ATTRIBUTE",
    )
