"""Whether the methods of a study fit some mask that it can draw; tried before anything is trained.

A trial whose mask a method does not fit fails, and the study goes on. A method, or a value of one
of its fields, that fits none of them would fail every trial that draws it: that is a fault of the
study file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairtune.adaptation.methods import METHODS, Method
from fairtune.adaptation.placement import DIRECT, METHOD, Placement, members
from fairtune.adaptation.rules import Rule
from fairtune.adaptation.switches import Switches
from fairtune.config import Choice, Float, Int
from fairtune.config.registry import name_of
from fairtune.errors import FairtuneError, ModelError
from fairtune.models.units import Units
from fairtune.study.fields import MASK, parts_of
from fairtune.study.plan import Plan
from fairtune.study.space import Constant, FixedMask, Leaf, MaskNode, Member, Node, OneOf

if TYPE_CHECKING:
    from fairtune.models.backbone import Backbone
    from fairtune.training.session import Session

Place = tuple[str | int, ...]
Try = Callable[[Method, Sequence[str]], FairtuneError | None]

_STEPS = 1000
"""Of the run that is pretended; no method fits or does not fit by it."""

_MOST = 64
"""Settings of one method that are tried; with more it is left to the trials."""


@dataclass(frozen=True)
class _Asked:
    """A method with the unit type that it is for.

    Attributes:
        name: The method's.
        type: The unit type; None for the whole mask or the rest of it.
        fields: Values that each field can have.
        place: Where the study file says so.
    """

    name: str
    type: str | None
    fields: dict[str, list[Any]]
    place: Place


def misfits(plan: Plan, session: Session) -> Iterator[FairtuneError]:
    """Yield every method, or value of a field of one, that fits no mask the study can draw.

    Each is attached to a private copy of the network's modules, as a trial would, for one switch
    of the mask space after the other until it fits; of blocks that are alike, for one. The
    network itself is not touched.
    """
    asked = [one for one in _asked(plan) if one.name != DIRECT]
    if not asked:
        return
    typed = {one.type for one in _asked(plan) if one.type is not None}
    backbone, drawable = session.ground(plan.base).backbone, list(_drawable(plan))
    shapes = {name: tuple(p.shape) for name, p in backbone.tensors().items()}
    for one in asked:
        scope = _scope(one.type, typed, plan.units)
        masks: dict[Hashable, tuple[str, ...]] = {}
        for part in drawable:
            mask = tuple(u for u in plan.units.names if u in part and u in scope)
            masks.setdefault(_likeness(mask, plan.units, shapes), mask)
        masks.pop((), None)
        if masks:
            yield from _faults(one, list(masks.values()), _attach(plan, backbone), plan)


def _faults(
    one: _Asked, masks: Sequence[tuple[str, ...]], attach: Try, plan: Plan
) -> Iterator[FairtuneError]:
    settings = list(itertools.islice(itertools.product(*one.fields.values()), _MOST + 1))
    if len(settings) > _MOST:
        return
    known: dict[tuple[Any, ...], FairtuneError | None] = {}

    def fault(setting: tuple[Any, ...]) -> FairtuneError | None:
        """Return why no mask takes the method with these values of its fields."""
        if setting not in known:
            method = METHODS.parse({one.name: dict(zip(one.fields, setting, strict=True))})
            assert isinstance(method, Method)
            known[setting] = _everywhere(attach(method, mask) for mask in masks)
        return known[setting]

    if all(fault(setting) for setting in settings):
        yield _said(fault(settings[0]), one.place, plan)
        return
    for i, (field, values) in enumerate(one.fields.items()):
        for value in values:
            having = [setting for setting in settings if setting[i] == value]
            if all(fault(setting) for setting in having):
                yield _said(fault(having[0]), (*one.place, one.name, field), plan)


def _everywhere(errors: Iterable[FairtuneError | None]) -> FairtuneError | None:
    """Return the error that says most when there is nothing but errors, else None at once."""
    found: list[FairtuneError] = []
    for error in errors:
        if error is None:
            return None
        found.append(error)
    return next((error for error in found if _layer(error)), found[0])


def _layer(error: FairtuneError) -> str:
    """Return the layer that an error is about; nothing where it is about the method itself."""
    where = "" if error.where is None else str(error.where)
    return "" if where.startswith(METHOD) else where


def _said(error: FairtuneError | None, place: Place, plan: Plan) -> FairtuneError:
    assert error is not None
    layer = f" ({_layer(error)})" if _layer(error) else ""
    return ModelError(
        f"{error.what}{layer}: so it is in every mask that this study can draw",
        where=plan.study.source.where(*place),
        found=error.found,
        allowed=error.allowed,
        todo=error.todo,
    )


def _likeness(
    mask: Sequence[str], units: Units, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Hashable, ...]:
    """Return what masks of blocks that are alike have in common: tensors and their shapes."""
    found: list[Hashable] = []
    for unit in mask:
        start, tower = units.block_of(unit) or "", units.tower_of(unit)
        found += [(tower, t.removeprefix(start), shapes[t]) for t in units.tensors([unit])]
    return tuple(found)


def _attach(plan: Plan, backbone: Backbone) -> Try:
    from fairtune.training.net import adapted

    def attach(method: Method, mask: Sequence[str]) -> FairtuneError | None:
        try:
            adapted(backbone, [Placement(method, tuple(mask))], plan.units, _STEPS, 0)
        except FairtuneError as error:
            return error
        return None

    return attach


def _scope(kind: str | None, typed: set[str], units: Units) -> set[str]:
    """Return the units that a method is for."""
    if kind is not None:
        return set(members(kind, units))
    return set(units.names).difference(*(members(other, units) for other in typed))


def _drawable(plan: Plan) -> Iterator[frozenset[str]]:
    """Yield masks that the study can draw and of which, joined, all others consist."""
    node = plan.space.get(MASK)
    if node is None:
        yield frozenset(plan.mask(plan.base).units)
        return
    for inner in [n for _, n in node.options] if isinstance(node, OneOf) else [node]:
        yield from _parts(inner, plan.units)


def _parts(node: Node, units: Units) -> Iterator[frozenset[str]]:
    match node:
        case FixedMask(rule):
            yield frozenset(Rule.parse(rule).mask(units).units)
        case MaskNode(_, space) if (types := getattr(space, "types", None)) is not None:
            switches = Switches.of(types, getattr(space, "always", ()), units)
            yield from (switches.fixed | on for on in switches.members.values())
        case _:
            # A space of somebody else's: every unit may be a mask of its own.
            yield from (frozenset({unit}) for unit in units.names)


def _asked(plan: Plan) -> Iterator[_Asked]:
    """Yield the methods that the study fixes or searches."""
    methods = plan.study.recipe.adaptation.method
    place = ("recipe", *METHOD.split("."))
    for kind, method in methods.by_type:
        yield _Asked(name_of(method), kind, _fixed(method), (*place, kind))  # type: ignore[arg-type]
    if not methods.by_type and plan.space.get(METHOD) is None:
        yield _Asked(name_of(methods.rest), None, _fixed(methods.rest), place)  # type: ignore[arg-type]
    for path, node in plan.space.nodes:
        if path == METHOD or path.startswith(f"{METHOD}."):
            typed = None if path == METHOD else parts_of(path)[-1]
            options = [n for _, n in node.options] if isinstance(node, OneOf) else [node]
            for i, option in enumerate(options):
                if isinstance(option, Member):
                    values = {field: _values(inner) for field, inner in option.fields}
                    yield _Asked(option.name, typed, values, ("space", path, "one_of", i))


def _fixed(method: Any) -> dict[str, list[Any]]:
    return {name: [value] for name, value in method.to_json().items()}


def _values(node: Node) -> list[Any]:
    """Return the values that can decide whether a method fits: of whole numbers the ends."""
    match node:
        case Constant(value):
            return [value]
        case Leaf(Choice(options)):
            numbers = [o for o in options if isinstance(o, int | float)]
            return sorted({min(numbers), max(numbers)}) if numbers == list(options) else [*options]
        case Leaf(Int() as range_):
            return sorted({range_.low, range_.high})
        case Leaf(Float() as range_):
            return [range_.low]
        case OneOf(options):
            return [value for _, inner in options for value in _values(inner)]
        case _:
            raise AssertionError("fields of a method are plain values")
