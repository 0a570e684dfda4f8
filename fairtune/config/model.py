"""Frozen configuration models and the one function that reads them from plain values."""

from __future__ import annotations

from typing import Any, TypeVar

import pydantic
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from fairtune.config.digest import digest
from fairtune.config.faults import carried, problems_of
from fairtune.config.source import Source
from fairtune.errors import ConfigError, raise_all

__all__ = ["Config", "Source", "carried", "parse"]

_EXACT = ("bool", "int", "float")
_OPAQUE = ("default", "metadata", "serialization", "expected", "config")


def _exact(schema: Any) -> Any:
    """Return the core schema with every number and boolean strict; sequences stay as they are."""
    if isinstance(schema, list | tuple):
        return type(schema)(_exact(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    out = {key: item if key in _OPAQUE else _exact(item) for key, item in schema.items()}
    if isinstance(schema.get("fields"), dict):
        out["fields"] = {name: _exact(item) for name, item in schema["fields"].items()}
    return {**out, "strict": True} if schema.get("type") in _EXACT else out


class Config(pydantic.BaseModel):
    """A frozen, hashable declaration: unknown keys, NaN and infinities are refused.

    Numbers and booleans must be written as such: `yes`, `"4"` and `true` for a number are refused.
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema: core_schema.CoreSchema = _exact(handler(source))
        return schema

    def to_json(self) -> dict[str, Any]:
        """Return every field as plain JSON values."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Return the digest of `to_json()`."""
        return digest(self.to_json())

    def __hash__(self) -> int:
        return hash(self.digest())


C = TypeVar("C", bound=pydantic.BaseModel)


def parse(cls: type[C], data: Any, source: Source | None = None) -> C:
    """Validate `data` as `cls`.

    Raises:
        ConfigError: One fault.
        Problems: Several faults; each names file, line, field, what was found and is allowed.
    """
    source = source or Source()
    if not isinstance(data, dict):
        raise ConfigError("expected a mapping of fields", where=source.where(), found=data)
    try:
        return cls.model_validate(data)
    except pydantic.ValidationError as error:
        problems = list(problems_of(cls, data, error, source))
    raise_all(source.title(), problems)
    raise AssertionError("a validation error without a problem")
