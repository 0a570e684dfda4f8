"""What is searched: a tree of nodes that names, draws and encodes parameters.

Conditionality is nesting and nothing else: what stands inside a member is suggested only when the
member is chosen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fairtune.adaptation.rules import Rule
from fairtune.adaptation.spaces import MaskSpace
from fairtune.config import Choice, Config, Dimension, Float, Int
from fairtune.config.dimensions import Scalar
from fairtune.config.registry import written
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.combine import fits
from fairtune.models.units import Units

SWITCH = Choice((False, True))

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
class Single:
    """One member as a list of one."""

    member: Member

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield the parameters of the member."""
        return self.member.names(path, units)

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Return a list of the member."""
        return [self.member.draw(path, suggest, units)]

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Return the parameters of a list of the member."""
        if not isinstance(value, list) or len(value) != 1:
            return None
        return self.member.encode(path, value[0], units)


@dataclass(frozen=True)
class Subset:
    """Some of several members of a registry; each is switched on or off by a boolean.

    A draw with more than `most` members on, or with two that do not go together, keeps some of
    them: which ones follows from the set that was on, spread evenly over such sets, and what is
    recorded is what was kept. No draw has to be repeated, however few sets are allowed.

    Attributes:
        members: In the order of the file.
        most: Members that may be on at once.
    """

    members: tuple[Member, ...]
    most: int

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield the booleans, then the conditional parameters of every member."""
        for member in self.members:
            yield f"{path}.{member.name}", SWITCH, False
        for member in self.members:
            yield from member.names(path, units)

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Return the members that are on, as `[{NAME: {FIELD: value}}, ...]`."""
        on = [m for m in self.members if suggest(f"{path}.{m.name}", SWITCH)]
        kept = self.kept([m.name for m in on])
        return [m.draw(path, suggest, units) for m in self.members if m.name in kept]

    def kept(self, on: Sequence[str]) -> list[str]:
        """Return which of the members `on` stay."""

        def place(name: str) -> str:
            return hashlib.sha256("/".join([name, *sorted(on)]).encode()).hexdigest()

        found: list[str] = []
        for name in sorted(on, key=place):
            others = [MITIGATIONS.get(other) for other in found]
            if len(found) < self.most and fits(MITIGATIONS.get(name), others):
                found.append(name)
        return found

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Return the parameters of a list of members."""
        if not isinstance(value, list) or len(value) > self.most:
            return None
        given = {name: item for item in value if isinstance(item, dict) for name in item}
        known = {member.name: member for member in self.members}
        if not set(given) <= set(known):
            return None
        params: dict[str, Scalar] = {f"{path}.{name}": name in given for name in known}
        for name, item in given.items():
            part = known[name].encode(path, item, units)
            if part is None:
                return None
            params |= part
        return params

    def switches(self, path: str, value: Any) -> dict[str, Scalar]:
        """Return the booleans of a list that was drawn."""
        on = {name for item in value for name in item}
        return {f"{path}.{member.name}": member.name in on for member in self.members}


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
class FixedMask:
    """A mask rule as one choice among spaces."""

    rule: str

    def names(self, path: str, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        """Yield nothing; refuse a model that the rule does not fit."""
        Rule.parse(self.rule).mask(units)
        return iter(())

    def draw(self, path: str, suggest: Draw, units: Units) -> Any:
        """Return the unit names of the rule."""
        return list(Rule.parse(self.rule).mask(units).units)

    def encode(self, path: str, value: Any, units: Units) -> dict[str, Scalar] | None:
        """Say the mask when it is this one."""
        wanted = Rule.parse(value).mask(units).units if isinstance(value, str) else tuple(value)
        return {} if wanted == Rule.parse(self.rule).mask(units).units else None


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

    def switches(self, values: Mapping[str, Any]) -> dict[str, Scalar]:
        """Return the booleans of subsets as `values` has them, which a draw may have corrected."""
        found: dict[str, Scalar] = {}
        for path, node in self.nodes:
            if isinstance(node, Subset):
                found |= node.switches(path, values[path])
        return found

    def constants(self) -> dict[str, Any]:
        """Return the values that the file fixes inside members, by parameter name."""
        return {name: value for path, node in self.nodes for name, value in _fixed(path, node)}

    def get(self, path: str) -> Node | None:
        """Return the node at `path`, or None when it is not searched."""
        return dict(self.nodes).get(path)

    def mask_spaces(self) -> list[dict[str, Any]]:
        """Return every mask space as `{NAME: {FIELD: value}}`: its ranges do not tell it all."""
        found: list[dict[str, Any]] = []
        for _, node in self.nodes:
            for inner in dict(node.options).values() if isinstance(node, OneOf) else (node,):
                if isinstance(inner, MaskNode) and isinstance(inner.space, Config):
                    found.append(written(inner.space))
        return found

    def _names(self, units: Units) -> Iterator[tuple[str, Dimension, bool]]:
        for path, node in self.nodes:
            yield from node.names(path, units)


def _fixed(path: str, node: Node) -> Iterator[tuple[str, Any]]:
    match node:
        case OneOf(options):
            for _, option in options:
                if not isinstance(option, Constant):
                    yield from _fixed(path, option)
        case Single(member):
            yield from _fixed(path, member)
        case Subset(members):
            for member in members:
                yield from _fixed(path, member)
        case Member(name, fields):
            for field, inner in fields:
                yield from _fixed(f"{path}.{name}.{field}", inner)
        case Constant(value):
            yield path, value


def middle(dimension: Float | Int) -> float | int:
    """Return the middle of a range, on its grid: geometric on a log scale, else arithmetic."""
    point = Float(dimension.low, dimension.high, log=dimension.log).points(1)[0]
    if dimension.step is not None:
        steps = math.floor((point - dimension.low) / dimension.step + 1e-9)
        point = dimension.low + steps * dimension.step
    return point if isinstance(dimension, Float) else round(point)
