"""Which method trains which units: one method for the mask, or one per unit type.

adaptation.method = METHOD | {TYPE: METHOD, ...}
METHOD            = NAME | {NAME: {FIELD: value, ...}}
TYPE              = unit type of the model spec, single unit, tower, or several joined with `+`

One key that is a method's name is that method with its fields; any other key is a type. Units of
the mask in no listed type train directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from fairtune.adaptation.methods import METHODS, Method
from fairtune.config.model import carried
from fairtune.config.registry import name_of, written
from fairtune.errors import ConfigError, FairtuneError, did_you_mean
from fairtune.models.units import Units

METHOD = "adaptation.method"
DIRECT = "direct"


@dataclass(frozen=True)
class Placement:
    """A method and the masked units that it acts on.

    Attributes:
        method: How they train.
        units: Unit names in the order of the network.
        type: The unit type they were written as; None for the whole mask or the rest of it.
    """

    method: Method
    units: tuple[str, ...]
    type: str | None = None

    @property
    def name(self) -> str:
        """The method's name."""
        return name_of(self.method)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Methods:
    """How the units of a mask train.

    Attributes:
        rest: Method of every unit in no type of `by_type`.
        by_type: Unit type and its method; where it is not empty, `rest` is `direct`.
    """

    rest: Method
    by_type: tuple[tuple[str, Method], ...] = ()

    @classmethod
    def parse(cls, value: Any) -> Methods:
        """Read what a recipe says under `adaptation.method`.

        Raises:
            ConfigError: It is neither a method nor a mapping of types to methods.
        """
        if isinstance(value, Methods):
            return value
        if not isinstance(value, dict):
            return cls(_method(value))
        known = {*METHODS.names(), *METHODS.later}
        named = [key for key in value if key in known]
        if named and len(value) == 1:
            return cls(_method(value))
        if named or not value:
            raise ConfigError(
                "a method stands among unit types" if named else "an empty mapping of methods",
                found=value,
                allowed="METHOD, {METHOD: {FIELD: value}} or {TYPE: METHOD, ...}",
            )
        return cls(
            _method(DIRECT), tuple((check_type(key), _of(key, value[key])) for key in value)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the form that `parse` reads."""
        if not self.by_type:
            return written(self.rest)  # type: ignore[arg-type]
        return {kind: written(method) for kind, method in self.by_type}  # type: ignore[arg-type]

    def placements(self, mask: Sequence[str], units: Units) -> tuple[Placement, ...]:
        """Return the disjoint parts of `mask` with their methods; empty parts are left out.

        Raises:
            ModelError: The model has no such type.
            ConfigError: A unit is in two types with different methods.
        """
        return tuple(p for p in self._all(mask, units) if p.units)

    def settled(self, mask: Sequence[str], units: Units) -> Methods:
        """Return the methods that act on `mask`, so that equal numbers have one form.

        Types without a masked unit vanish, and so does `direct`, which is what the rest does; a
        type that holds the whole mask becomes the one method.

        Raises:
            ModelError: The model has no such type.
            ConfigError: A unit is in two types with different methods.
        """
        parts = self.placements(mask, units)
        acting = [p for p in parts if p.type is not None and p.name != DIRECT]
        if not self.by_type or not parts:
            return self
        if len(parts) == 1:
            return Methods(parts[0].method)
        if not acting:
            return Methods(_method(DIRECT))
        named = {"+".join(sorted(str(p.type).split("+"))): p.method for p in acting}
        return Methods(_method(DIRECT), tuple((kind, named[kind]) for kind in sorted(named)))

    def _all(self, mask: Sequence[str], units: Units) -> Iterator[Placement]:
        chosen, owner = set(mask), self._owners(units)
        for kind, method in sorted(self.by_type, key=lambda item: item[0]):
            mine = (u for u in units.names if u in chosen and owner.get(u) == kind)
            yield Placement(method, tuple(mine), kind)
        rest = tuple(u for u in units.names if u in chosen and u not in owner)
        yield Placement(self.rest, rest)

    def _owners(self, units: Units) -> dict[str, str]:
        owner: dict[str, str] = {}
        methods = dict(self.by_type)
        for kind in sorted(methods):
            for unit in members(kind, units):
                first = owner.setdefault(unit, kind)
                if methods[first] != methods[kind]:
                    raise ConfigError(
                        "a unit is in two types with different methods",
                        where=METHOD,
                        found=f"'{unit}' in '{first}' and '{kind}'",
                        todo="name types that share no unit",
                    )
        return owner


class MethodsField:
    """Annotation marker of the field that holds `Methods`; `registry` says what may be named."""

    registry = METHODS

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def validate(value: Any) -> Methods:
            try:
                return Methods.parse(value)
            except FairtuneError as error:
                raise carried(error) from None

        return core_schema.no_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(Methods.to_json),
        )


def members(kind: str, units: Units) -> list[str]:
    """Return the units of `kind`: a type, a single unit, a tower, or several joined with `+`.

    Raises:
        ModelError: The model has no such type.
    """
    found: dict[str, None] = {}
    for part in kind.split("+"):
        if named := units.named(part):
            found |= dict.fromkeys(named)
        else:
            found |= dict.fromkeys(unit for by in units.by_depth(part) for unit in by)
    return list(found)


def _method(value: Any) -> Method:
    method = METHODS.parse(value)
    assert isinstance(method, Method)
    return method


def check_type(key: Any) -> str:
    """Return `key` when it is written as a unit type is.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(key, str) or not all(key.split("+")) or set(key) & set(": ,"):
        raise ConfigError("not a unit type", found=key, allowed="e.g. attn, norm1+norm2, stem")
    return key


def _of(key: str, value: Any) -> Method:
    try:
        return _method(value)
    except FairtuneError as error:
        close = did_you_mean(key, METHODS.names())
        if close is not None and error.todo is None:
            error.todo = f"'{key}' is read as a unit type; {close}"
        carried(error, key)
        raise
