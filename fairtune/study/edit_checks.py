"""What is wrong with the edits of a study file, fixed and searched, beside the rest of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fairtune.config import Choice, Float, Int, parse
from fairtune.config.model import Source
from fairtune.editing.attributes import nameless
from fairtune.errors import ConfigError, FairtuneError
from fairtune.study.fields import EDIT
from fairtune.study.space import Constant, Leaf, Member, Node, OneOf, Space
from fairtune.training.recipe import Recipe

MOST = 512
"""Combinations of values up to which all of them are looked at."""


def edit_faults(
    recipe: Recipe | None, space: Space, attribute: str | None, source: Source
) -> list[FairtuneError]:
    """Return what is wrong with the fixed edit, and with every one that may be drawn.

    Args:
        recipe: The fixed part.
        space: The searched part.
        attribute: The attribute of an edit that names none.
        source: The document.
    """
    if recipe is None:
        return []
    out: list[FairtuneError] = []
    error = nameless(recipe.attributed(attribute).rule)
    if error is not None:
        error.where = source.where("recipe", EDIT)
        out.append(error)
    for place, member in members_of_edit(space.get(EDIT)):
        where = source.where("space", EDIT, *place)
        told: set[str] = set()
        for fault in _member_faults(member, recipe, attribute):
            fault.where = where
            if str(fault) not in told:
                out.append(fault)
            told.add(str(fault))
    return out


def members_of_edit(node: Node | None) -> Iterator[tuple[tuple[str | int, ...], Member]]:
    """Yield the edits that may be drawn, each with its place below the field."""
    match node:
        case Member():
            yield ("one_of", 0), node
        case OneOf(options):
            for i, (_, option) in enumerate(options):
                if isinstance(option, Member):
                    yield ("one_of", i), option


def rules_of(member: Member) -> Iterator[dict[str, Any]]:
    """Yield what may be drawn of an edit, as `{NAME: {FIELD: value}}`, ranges at both ends.

    Every combination of what the fields may say, fields inside a mode or objective each by itself;
    where there are more than 512, every combination of two fields.
    """
    fields = {name: _values(node) for name, node in member.fields}
    if math.prod(map(len, fields.values())) <= MOST:
        for values in itertools.product(*fields.values()):
            yield {member.name: dict(zip(fields, values))}
        return
    first = {name: values[0] for name, values in fields.items()}
    for one, other in itertools.combinations(fields, 2):
        for pair in itertools.product(fields[one], fields[other]):
            yield {member.name: first | dict(zip((one, other), pair))}


def _member_faults(
    member: Member, recipe: Recipe, attribute: str | None
) -> Iterator[FairtuneError]:
    for written in rules_of(member):
        try:
            made = parse(Recipe, {**recipe.to_json(), EDIT: written}).attributed(attribute)
        except FairtuneError as error:
            yield from getattr(error, "problems", [error])
            continue
        unnamed = nameless(made.rule)
        if unnamed is not None:
            yield unnamed
        if (loose := _unpinned(member, written[member.name])) is not None:
            yield loose


def _unpinned(member: Member, fields: Mapping[str, Any]) -> FairtuneError | None:
    """Return that an edit in a file is searched without the digest that says which it is."""
    if "path" not in fields or fields.get("sha") is not None:
        return None
    from pathlib import Path

    from fairtune.editing.stored import read_edit  # loads torch, to tell what to write

    try:
        sha = read_edit(Path(str(fields["path"])).expanduser()).sha
    except FairtuneError as error:
        return error
    return ConfigError(
        "a searched edit from a file needs the digest of its values, so that all trials mean it",
        found=str(fields["path"]),
        todo=f"write {member.name}: {{path: {fields['path']}, sha: {sha}}}",
    )


def _values(node: Node) -> list[Any]:
    """Return what a field may be: every choice, both ends of a range."""
    match node:
        case Constant(value):
            return [value]
        case Leaf(Choice(options)):
            return list(options)
        case Leaf(Float(low, high) | Int(low, high)):
            return [low, high]
        case OneOf(options):
            return [value for _, option in options for value in _values(option)]
        case Member(name, fields):
            first = {field: _values(inner)[0] for field, inner in fields}
            return [
                {name: first | {field: value}}
                for field, inner in fields
                for value in _values(inner)
            ] or [name]
    raise AssertionError(node)
