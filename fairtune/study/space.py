"""The searched part of a study file: a tree of nodes that names, draws and encodes parameters.

```
dist   = {int: [lo, hi], step | log} | {float: [lo, hi], step | log}
       | {one_of: [choice, ...]} | declared
choice = SCALAR | dist | member
member = NAME | {NAME: {FIELD: SCALAR | choice | dist}}
```
Conditionality is nesting and nothing else: what stands inside a member is suggested only when the
member is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fairtune.adaptation.rules import NAMED_RULES, Rule
from fairtune.adaptation.spaces import ALIASES, SPACES, MaskSpace
from fairtune.config import Choice, Config, Dimension, Float, Int, Registry
from fairtune.config.dimensions import Scalar, from_json
from fairtune.config.model import Source
from fairtune.config.registry import declared_dimensions, name_of
from fairtune.errors import ConfigError, FairtuneError, did_you_mean
from fairtune.models.units import Units
from fairtune.study.fields import MASK, Field, field_at

Draw = Callable[[str, Dimension], Scalar]
"""Suggests a value: `(parameter name, dimension) -> value`."""


class Node(Protocol):
    """A searched value: what can stand at one path."""

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield parameter name, dimension and whether it is conditional, in drawing order."""

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Suggest every parameter and return the value for the recipe."""

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Return the parameters that draw `value`, or None when this node cannot."""


@dataclass(frozen=True)
class Leaf:
    """A plain distribution: the parameter has the name of its path."""

    dimension: Dimension

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield the one parameter."""
        yield path, self.dimension, False

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Suggest the value."""
        return suggest(path, self.dimension)

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Return the value when it lies in the range."""
        return {path: value} if self.dimension.contains(value) else None


@dataclass(frozen=True)
class Constant:
    """A value that is fixed inside a choice or member."""

    value: Any

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield nothing."""
        return iter(())

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Return the value."""
        return self.value

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Say the value when it is this one."""
        return {} if value == self.value else None


@dataclass(frozen=True)
class Member:
    """A registry member whose fields may be nodes: `{NAME: {FIELD: node}}`."""

    name: str
    fields: tuple[tuple[str, Node], ...]

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield the parameters of the fields, named `path.NAME.FIELD`."""
        for field, node in self.fields:
            for name, dimension, _ in node.names(f"{path}.{self.name}.{field}", units):
                yield name, dimension, True

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Return `{NAME: {FIELD: value}}`."""
        values = {
            field: node.draw(f"{path}.{self.name}.{field}", suggest, units)
            for field, node in self.fields
        }
        return {self.name: values}

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Return the parameters of every field of `{NAME: {FIELD: value}}`."""
        if not isinstance(value, dict) or set(value) != {self.name}:
            return None
        params: dict[str, Scalar] = {}
        for field, node in self.fields:
            part = node.encode(f"{path}.{self.name}.{field}", value[self.name].get(field), units)
            if part is None:
                return None
            params |= part
        return params


@dataclass(frozen=True)
class MaskNode:
    """A mask space: draws the sorted unit names of a mask."""

    name: str
    space: MaskSpace

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield the space's parameters, named `path.SPACE.PARAMETER`."""
        for name, dimension in self.space.dimensions(units).items():
            yield f"{path}.{self.name}.{name}", dimension, False

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Return the unit names of the drawn mask."""
        prefix = f"{path}.{self.name}."
        params = {
            name: suggest(prefix + name, dimension)
            for name, dimension in self.space.dimensions(units).items()
        }
        return list(self.space.decode(params, units).units)

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Return the point of a mask given as a rule or as unit names."""
        from fairtune.adaptation.mask import Mask

        mask = Rule.parse(value).mask(units) if isinstance(value, str) else Mask.of(value, units)
        point = self.space.encode(mask, units)
        if point is None:
            return None
        return {f"{path}.{self.name}.{name}": choice for name, choice in point.items()}


@dataclass(frozen=True)
class OneOf:
    """One of several nodes; the parameter holds the label of the chosen one."""

    options: tuple[tuple[Scalar, Node], ...]

    @property
    def dimension(self) -> Choice:
        """The labels."""
        return Choice(tuple(label for label, _ in self.options))

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield the label, then the conditional parameters of every option."""
        yield path, self.dimension, False
        for _, node in self.options:
            for name, dimension, _ in node.names(_inside(path, node), units):
                yield name, dimension, True

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Suggest the label, then what stands inside."""
        label = suggest(path, self.dimension)
        node = next(n for known, n in self.options if known == label)
        return node.draw(_inside(path, node), suggest, units)

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Return the first option that can say `value`."""
        for label, node in self.options:
            params = node.encode(_inside(path, node), value, units)
            if params is not None:
                return {path: label, **params}
        return None


def _inside(path: str, node: Node) -> str:
    return f"{path}.range" if isinstance(node, Leaf) else path


@dataclass(frozen=True)
class Space:
    """Everything that is searched.

    Attributes:
        nodes: Node by dotted recipe path, in the order of the file.
    """

    nodes: tuple[tuple[str, Node], ...] = ()

    def parameters(self, units: Units) -> dict[str, Dimension]:
        """Return every parameter that a trial can have."""
        return {name: dim for name, dim, _ in self._names(units)}

    def conditional(self, units: Units) -> bool:
        """Tell whether some parameter is not in every trial."""
        return any(inner for _, _, inner in self._names(units))

    def draw(self, suggest: Draw, units: Units) -> dict[str, Any]:
        """Suggest one point; return the recipe fields it sets, by dotted path."""
        return {path: node.draw(path, suggest, units) for path, node in self.nodes}

    def encode(self, values: Mapping[str, Any], units: Units) -> dict[str, Scalar] | None:
        """Return the parameters of `values`, or None when the space cannot say them."""
        params: dict[str, Scalar] = {}
        for path, node in self.nodes:
            part = node.encode(path, values[path], units)
            if part is None:
                return None
            params |= part
        return params

    def get(self, path: str) -> Node | None:
        """Return the node at `path`, or None when it is not searched."""
        return dict(self.nodes).get(path)

    def _names(self, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        for path, node in self.nodes:
            yield from node.names(path, units)


def compile_space(data: Mapping[str, Any], source: Source) -> tuple[Space, list[FairtuneError]]:
    """Return the space written in a study file, and every fault found in it."""
    nodes: list[tuple[str, Node]] = []
    problems: list[FairtuneError] = []
    for path, dist in data.items():
        try:
            nodes.append((path, _distribution(dist, field_at(path))))
        except FairtuneError as error:
            error.where = source.where(path)
            problems.append(error)
    return Space(tuple(nodes)), problems


def _distribution(dist: Any, field: Field) -> Node:
    if dist == "declared":
        if field.declared is None:
            raise ConfigError("the field declares no range", found=dist, allowed=DIST_FORMS)
        return Leaf(field.declared)
    if field.path == MASK and isinstance(dist, str | dict) and not _is_dist(dist):
        return _mask_space(dist)
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


def _plain(dist: dict[str, Any], field: Field) -> Dimension:
    kind = "int" if "int" in dist else "float"
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
    for end in (dimension.low, dimension.high):  # type: ignore[union-attr]
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
        return next(iter(choice)), Leaf(_plain(choice, field))
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
        fields: dict[str, Node] = {k: Leaf(d) for k, d in declared_dimensions(cls).items()}
        return Member(written, tuple(fields.items()))
    if not isinstance(written, dict) or len(written) != 1:
        raise ConfigError(
            f"a {registry.kind} is written NAME or {{NAME: {{FIELD: ...}}}}",
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
        searched = _is_dist(value) or value == "declared"
        nodes.append((key, _distribution(value, inner) if searched else Constant(value)))
    return Member(name, tuple(nodes))


def _mask_space(written: Any) -> MaskNode:
    if isinstance(written, str):
        if written not in ALIASES:
            raise ConfigError(
                "unknown mask space",
                found=written,
                allowed=[*SPACES.names(), *ALIASES],
                todo=did_you_mean(written, [*SPACES.names(), *ALIASES]),
            )
        written = ALIASES[written]
    space: Config = SPACES.parse(written)
    assert isinstance(space, MaskSpace)
    return MaskNode(name_of(space), space)


def _mask_choice(choice: Any) -> tuple[Scalar, Node]:
    if isinstance(choice, str) and choice not in ALIASES:
        rule = str(Rule.parse(choice)) if choice not in NAMED_RULES else choice
        return rule, _FixedMask(rule)
    node = _mask_space(choice)
    label = choice if isinstance(choice, str) else node.name
    return label, node


@dataclass(frozen=True)
class _FixedMask:
    """A mask rule as one choice among spaces."""

    rule: str

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        return iter(())

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        return list(Rule.parse(self.rule).mask(units).units)

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        wanted = Rule.parse(value).mask(units).units if isinstance(value, str) else tuple(value)
        return {} if wanted == Rule.parse(self.rule).mask(units).units else None


def middle(dimension: Float | Int) -> float | int:
    """Return the middle of a range: geometric on a log scale, else arithmetic."""
    point = Float(dimension.low, dimension.high, log=dimension.log).points(1)[0]
    return point if isinstance(dimension, Float) else round(point)
