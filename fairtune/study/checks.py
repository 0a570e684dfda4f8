"""What is wrong with the parts of a study file when they are seen together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from fairtune.adaptation.placement import DIRECT, METHOD, Methods
from fairtune.config import Choice, parse
from fairtune.config.model import Source
from fairtune.errors import ConfigError, FairtuneError
from fairtune.mitigation import MITIGATIONS as REGISTRY
from fairtune.mitigation.combine import excluded, unnamed
from fairtune.study.baselines import baseline_of
from fairtune.study.fields import MASK, MITIGATIONS, PINNED, parts_of
from fairtune.study.space import Constant, Leaf, Member, Node, OneOf, Single, Space, Subset
from fairtune.training.recipe import Recipe

_TRIED = ("attribute", "score")
"""Fields of a mitigation of which every value that may be drawn has to go with the recipe."""


def pinned(recipe: dict[str, Any], source: Source) -> list[FairtuneError]:
    """Return the fields of `recipe` that are computed, never written."""
    out: list[FairtuneError] = []
    for path in PINNED:
        part, name = path.split(".")
        if isinstance(recipe.get(part), dict) and name in recipe[part]:
            where = source.where("recipe", part, name)
            out.append(
                ConfigError("this field is computed, not written", where=where, todo="remove it")
            )
    return out


def twice(recipe: dict[str, Any], space: dict[str, Any], source: Source) -> list[FairtuneError]:
    """Return the fields that stand both in `recipe` and in `space`."""
    out: list[FairtuneError] = []
    for path in space:
        node: Any = recipe
        for part in parts_of(path):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            out.append(
                ConfigError(
                    "the field stands both in recipe and in space",
                    where=source.where("space", path),
                    found=path,
                    todo="keep one of them",
                )
            )
    return out


def methods(recipe: Recipe | None, space: dict[str, Any], source: Source) -> list[FairtuneError]:
    """Return that a method for the whole mask stands beside methods of unit types."""
    typed = [path for path in space if path.startswith(f"{METHOD}.")]
    if not typed:
        return []
    fixed = None if recipe is None else recipe.adaptation.method
    named = fixed is not None and not fixed.by_type and fixed != Methods.parse(DIRECT)
    if METHOD not in space and not named:
        return []
    return [
        ConfigError(
            "a method for the whole mask stands beside methods of unit types",
            where=source.where("space", typed[0]),
            found=[METHOD, *typed],
            todo="keep one of the two",
        )
    ]


def mitigation_faults(
    recipe: Recipe | None, space: Space, attribute: str | None, source: Source
) -> list[FairtuneError]:
    """Return what is wrong with fixed and searched mitigations in this recipe.

    Args:
        recipe: The fixed part.
        space: The searched part.
        attribute: The attribute of those that name none.
        source: The document.
    """
    if recipe is None:
        return []
    members = list(members_of(space.get(MITIGATIONS)))
    out: list[FairtuneError] = []
    nameless = unnamed(recipe.attributed(attribute).mitigations)
    if nameless is not None:
        nameless.where = source.where("recipe", MITIGATIONS)
        out.append(nameless)
    for member in members:
        for error in _member_faults(member, recipe, attribute, space):
            error.where = source.where("space", MITIGATIONS)
            out.append(error)
    return out


def _member_faults(
    member: Member, recipe: Recipe, attribute: str | None, space: Space
) -> Iterator[FairtuneError]:
    cls: Any = REGISTRY.get(member.name)
    for path in (f"optim.{field}" for field in excluded(cls)):
        if space.get(path) is not None:
            yield ConfigError(
                "a mitigation is searched beside a field that does not go together with it",
                found=[member.name, path],
                todo="keep one of the two",
            )
    fields = dict(member.fields)
    fixed = {name: node.value for name, node in member.fields if isinstance(node, Constant)}
    tried = [_values(fields[name]) if name in fields else [None] for name in _TRIED]
    for values in itertools.product(*tried):
        chosen = {name: v for name, v in zip(_TRIED, values, strict=True) if v is not None}
        given = {**fixed, **chosen}
        try:
            made = parse(Recipe, {**recipe.to_json(), MITIGATIONS: [{member.name: given}]})
        except FairtuneError as error:
            yield error
            continue
        nameless = unnamed(made.attributed(attribute).mitigations)
        if nameless is not None:
            yield nameless


def members_of(node: Node | None) -> Iterator[Member]:
    """Yield the members that a node of a list may bring."""
    match node:
        case Subset(members):
            yield from members
        case Single(member):
            yield member
        case OneOf(options):
            for _, option in options:
                yield from members_of(option)


def _values(node: Node) -> list[Any]:
    match node:
        case Constant(value):
            return [value]
        case Leaf(Choice(options)):
            return list(options)
        case OneOf(options):
            return [value for _, option in options for value in _values(option)]
    return [None]


def sense(
    recipe: Recipe, searched: dict[str, Any], names: Sequence[str], source: Source
) -> list[FairtuneError]:
    """Return that nothing is searched, or that something is trained without a learning rate."""
    if not searched:
        return [
            ConfigError(
                "the study searches nothing",
                where=source.where("space"),
                todo="name a mask space, e.g. space: {adaptation.mask: auto_peft1}",
            )
        ]
    out: list[FairtuneError] = []
    if "optim.lr" in searched or recipe.optim.lr is not None:
        return out
    todo = "search it: space.optim.lr: {float: [1e-5, 1e-3], log: true}"
    if MASK in searched or not recipe.head_only:
        where = source.where("space")
        out.append(
            ConfigError("a mask is trained without a learning rate", where=where, todo=todo)
        )
        return out
    for name in names:
        if _trains(name, recipe):
            out.append(
                ConfigError(
                    "a baseline is trained without a learning rate",
                    where=source.where("baselines"),
                    found=name,
                    todo=f"{todo}, or leave out baselines that train a mask",
                )
            )
    return out


def _trains(name: str, recipe: Recipe) -> bool:
    try:
        return bool(baseline_of(name, recipe.usage).rule.terms)
    except FairtuneError:
        return False  # said elsewhere
