"""The searched part of a study file as it is written, turned into nodes.

```
dist   = {int: [lo, hi], step | log} | {float: [lo, hi], step | log}
       | {one_of: [choice, ...]} | declared
       | {subset_of: [member, ...], max: k}       of a field that holds a list
choice = SCALAR | dist | member
member = NAME | {NAME: {FIELD: SCALAR | choice | dist}}
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairtune.adaptation.rules import NAMED_RULES, Rule
from fairtune.adaptation.spaces import ALIASES, SPACES, read_space
from fairtune.config import Choice, Config, Dimension, Float, Int, Registry
from fairtune.config.dimensions import Scalar, from_json
from fairtune.config.model import Source
from fairtune.errors import ConfigError, FairtuneError, did_you_mean
from fairtune.study.fields import MASK, Field, field_at
from fairtune.study.space import (
    Constant,
    FixedMask,
    Leaf,
    MaskNode,
    Member,
    Node,
    OneOf,
    Single,
    Space,
    Subset,
)


def compile_space(data: Mapping[str, Any], source: Source) -> tuple[Space, list[FairtuneError]]:
    """Return the space written in a study file, and every fault found in it."""
    nodes: list[tuple[str, Node]] = []
    problems: list[FairtuneError] = []
    for path, dist in data.items():
        try:
            nodes.append((path, _distribution(dist, field_at(path))))
        except FairtuneError as error:
            for part in getattr(error, "problems", [error]):
                part.where = source.where(path)
                problems.append(part)
    return Space(tuple(nodes)), problems


def _distribution(dist: Any, field: Field) -> Node:
    if field.listed:
        return _of_list(dist, field)
    if dist == "declared":
        if field.among and field.registry is not None:
            return _one_of({"one_of": list(field.among)}, field)
        if field.declared is None:
            raise ConfigError("the field declares no range", found=dist, allowed=DIST_FORMS)
        return Leaf(field.declared)
    if field.path == MASK and isinstance(dist, str | dict) and not _is_dist(dist):
        return MaskNode(*read_space(dist))
    if not isinstance(dist, dict):
        raise ConfigError("not a distribution", found=dist, allowed=DIST_FORMS)
    if "one_of" in dist:
        return _one_of(dist, field)
    if "subset_of" in dist:
        raise ConfigError("subset_of is for list fields only", found=dist, allowed=DIST_FORMS)
    if not _is_dist(dist):
        raise ConfigError("not a distribution", found=dist, allowed=DIST_FORMS)
    return Leaf(_plain(dist, field))


DIST_FORMS = (
    "{int: [lo, hi]}, {float: [lo, hi]} with step: or log: true, {one_of: [...]}, declared"
)
_KEYS = {"int": {"int", "step", "log"}, "float": {"float", "step", "log"}, "one_of": {"one_of"}}


def _is_dist(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in (*_KEYS, "subset_of"))


def _kind(dist: dict[str, Any]) -> str:
    return next(kind for kind in (*_KEYS, "subset_of") if kind in dist)


def _plain(dist: dict[str, Any], field: Field) -> Dimension:
    kind = _kind(dist)
    if field.registry is not None:
        raise ConfigError(
            f"{field.registry.one} is chosen by name",
            found=dist,
            allowed=f"{{one_of: [...]}} of {', '.join(field.registry.names())}",
        )
    if kind not in ("int", "float"):
        raise ConfigError(
            f"{kind} does not stand inside one_of", found=dist, allowed="a value, int or float"
        )
    for key in dist:
        if key not in _KEYS[kind]:
            raise ConfigError(
                f"unknown key '{key}' in a distribution",
                found=dist,
                allowed=sorted(_KEYS[kind]),
                todo=did_you_mean(key, _KEYS[kind]),
            )
    ends = dist[kind]
    numbers = isinstance(ends, list) and len(ends) == 2
    if not numbers or not all(type(e) in (int, float) for e in ends):
        raise ConfigError("a range is [low, high]", found=ends, allowed=DIST_FORMS)
    if kind == "int" and not all(type(e) is int for e in ends):
        raise ConfigError("an int range has whole ends", found=ends)
    dimension = from_json(dist)
    assert isinstance(dimension, Float | Int)
    for end in (dimension.low, dimension.high):
        field.check(end)
    return dimension


def _one_of(dist: dict[str, Any], field: Field) -> Node:
    choices = dist["one_of"]
    if len(dist) > 1 or not isinstance(choices, list) or not choices:
        raise ConfigError("one_of takes a list of choices and nothing else", found=dist)
    if field.path == MASK:
        options = tuple(_mask_choice(choice) for choice in choices)
    else:
        options = tuple(_choice(choice, field) for choice in choices)
    if all(isinstance(node, Constant) for _, node in options) and field.registry is None:
        if field.path != MASK:
            return Leaf(Choice(tuple(label for label, _ in options)))
    elif len(options) == 1:
        return options[0][1]
    Choice(tuple(label for label, _ in options))  # refuses a label that stands twice
    return OneOf(options)


def _choice(choice: Any, field: Field) -> tuple[Scalar, Node]:
    if _is_dist(choice):
        return _kind(choice), Leaf(_plain(choice, field))
    if field.registry is not None and choice != "none":
        node = _member(choice, field.registry)
        return node.name, node
    if isinstance(choice, dict | list) or choice is None:
        raise ConfigError("not a choice of this field", found=choice, allowed="a plain value")
    field.check(choice)
    return choice, Constant(choice)


def _member(written: Any, registry: Registry[Any]) -> Member:
    if isinstance(written, str):
        cls = registry.get(written)
        return Member(written, tuple(_declared(cls)))
    if not isinstance(written, dict) or len(written) != 1:
        raise ConfigError(
            f"{registry.one} is written NAME or {{NAME: {{FIELD: ...}}}}",
            found=written,
            allowed=registry.names(),
        )
    ((name, given),) = written.items()
    cls = registry.get(name)
    nodes = []
    for key, value in (given or {}).items():
        if key not in cls.model_fields:
            raise ConfigError(
                f"unknown field '{key}' of {registry.kind} '{name}'",
                found=key,
                allowed=list(cls.model_fields),
                todo=did_you_mean(key, cls.model_fields),
            )
        inner = Field.of(f"{name}.{key}", cls, key)
        nodes.append((key, _of_field(value, inner)))
    return Member(name, tuple(nodes))


def _of_field(value: Any, field: Field) -> Node:
    """Return the node of a field of a member: searched, chosen by name, or a value as it is."""
    if _is_dist(value) or value == "declared":
        return _distribution(value, field)
    if isinstance(value, dict | list) and field.registry is None:
        field.check(tuple(value) if isinstance(value, list) else value)
        return Constant(value)
    return _choice(value, field)[1]


def _declared(cls: type[Config]) -> Iterator[tuple[str, Node]]:
    """Yield the fields of a member that declare what they are tried with, in their order."""
    for name in cls.model_fields:
        field = Field.of(name, cls, name)
        if field.declared is not None or field.among:
            yield name, _distribution("declared", field)


LIST_FORMS = "{subset_of: [member, ...], max: k}, or {one_of: [none, member, ...]} for at most one"


def _of_list(dist: Any, field: Field) -> Node:
    """Return the node of a field that holds a list of members."""
    assert field.registry is not None
    kinds = [k for k in ("subset_of", "one_of") if isinstance(dist, dict) and k in dist]
    if len(kinds) != 1 or not isinstance(dist[kinds[0]], list) or not dist[kinds[0]]:
        raise ConfigError("not a choice among members of a list", found=dist, allowed=LIST_FORMS)
    (kind,) = kinds
    strange = sorted(set(dist) - {kind} - ({"max"} if kind == "subset_of" else set()))
    if strange:
        raise ConfigError(f"unknown key '{strange[0]}'", found=dist, allowed=LIST_FORMS)
    written = [choice for choice in dist[kind] if kind == "subset_of" or choice != "none"]
    members = tuple(_member(choice, field.registry) for choice in written)
    names = [member.name for member in members]
    if len(set(names)) != len(names):
        raise ConfigError("a member stands twice", found=names, todo="keep one of them")
    if kind == "subset_of":
        most = dist.get("max", len(members))
        if type(most) is not int or most < 1:
            raise ConfigError("max is a whole number above 0", found=most)
        return Subset(members, most)
    options: list[tuple[Scalar, Node]] = [("none", Constant([]))] if "none" in dist[kind] else []
    options += [(member.name, Single(member)) for member in members]
    return options[0][1] if len(options) == 1 else OneOf(tuple(options))


def _mask_choice(choice: Any) -> tuple[Scalar, Node]:
    if isinstance(choice, str) and choice not in (*ALIASES, *SPACES):
        rule = str(Rule.parse(choice)) if choice not in NAMED_RULES else choice
        return rule, FixedMask(rule)
    node = MaskNode(*read_space(choice))
    label = choice if isinstance(choice, str) else node.name
    return label, node
