"""Fields of a recipe by dotted path, as a study file names them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pydantic

from fairtune.adaptation.placement import METHOD, MethodsField, check_type
from fairtune.config import Config, Dimension, Registry
from fairtune.config.registry import Among, MemberField, MembersField, declared_dimensions
from fairtune.errors import ConfigError, did_you_mean
from fairtune.training.recipe import Recipe
from fairtune.training.recipe_parts import AdaptationPart

MASK = "adaptation.mask"
MITIGATIONS = "mitigations"
EDIT = "edit"
USAGE = "usage"

PINNED = (
    "data.fingerprint",
    "data.split",
    "data.augmentation",
    "data.prompts",
    "data.fold",
    "model.weights_sha",
    "model.units",
    "model.tokenizer",
)
"""Fields that are computed, not written."""

NOT_SEARCHED = (
    "data",
    "model",
    "fit.precision",
    "fit.rows",
    "fit.checkpointing",
    "fit.compile",
)
"""Parts that are fixed for a study: trials must be comparable and share data and weights."""


@dataclass(frozen=True)
class Field:
    """One field that can be searched.

    Attributes:
        path: Dotted path.
        declared: Range in the field's own declaration, or None.
        registry: Registry that types the field, or None for a plain value.
        adapter: Validates a value of the field.
        listed: Whether it holds several members of the registry.
        among: Members that the field is tried with where the study leaves that to it.
    """

    path: str
    declared: Dimension | None
    registry: Registry[Any] | None
    adapter: pydantic.TypeAdapter[Any]
    listed: bool = False
    among: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str, owner: type[Config], name: str) -> Field:
        """Return the field `name` of the configuration class `owner`."""
        info = owner.model_fields[name]
        named = (MemberField, MembersField, MethodsField)
        marks = [m.registry for m in info.metadata if isinstance(m, named)]
        plain = [m for m in info.metadata if not isinstance(m, (*named, Among))]
        annotation: Any = info.annotation
        for mark in plain:
            annotation = _annotated(annotation, mark)
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(
            Any if marks else annotation, config={"arbitrary_types_allowed": True}
        )
        return cls(
            path,
            declared_dimensions(owner).get(name),
            marks[0] if marks else None,
            adapter,
            any(isinstance(m, MembersField) for m in info.metadata),
            next((m.names for m in info.metadata if isinstance(m, Among)), ()),
        )

    def check(self, value: Any) -> None:
        """Refuse a value that the field would not take.

        Raises:
            ConfigError: With what the field allows.
        """
        try:
            self.adapter.validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            raise ConfigError(error.errors(include_url=False)[0]["msg"], found=value) from None


def field_at(path: str) -> Field:
    """Return the searchable recipe field at `path`.

    Raises:
        ConfigError: No such field, or one that a study keeps fixed.
    """
    head = path.split(".")[0]
    if path in NOT_SEARCHED or head in NOT_SEARCHED:
        raise ConfigError(
            "this field is fixed for a study and cannot be searched",
            found=path,
            allowed=sorted(searchable()),
        )
    known = searchable()
    if path.startswith(f"{METHOD}."):
        check_type(path.removeprefix(f"{METHOD}."))
        return replace(Field.of(METHOD, AdaptationPart, "method"), path=path)
    if path not in known:
        raise ConfigError(
            "unknown recipe field",
            found=path,
            allowed=sorted(known),
            todo=did_you_mean(path, known),
        )
    owner, name = known[path]
    return Field.of(path, owner, name)


def parts_of(path: str) -> list[str]:
    """Return the names that lead to `path`; a unit type is one name, whatever dots it has."""
    if path.startswith(f"{METHOD}."):
        return [*METHOD.split("."), path.removeprefix(f"{METHOD}.")]
    return path.split(".")


def searchable() -> dict[str, tuple[type[Config], str]]:
    """Return owner class and field name of every recipe field that can be searched, by path."""
    found: dict[str, tuple[type[Config], str]] = {}

    def walk(owner: type[Config], prefix: str) -> None:
        for name, info in owner.model_fields.items():
            path = f"{prefix}{name}"
            inner = info.annotation
            chosen = any(isinstance(mark, MemberField) for mark in info.metadata)
            if isinstance(inner, type) and issubclass(inner, Config) and not chosen:
                walk(inner, f"{path}.")
            elif path.split(".")[0] not in NOT_SEARCHED and path not in NOT_SEARCHED:
                found[path] = (owner, name)

    walk(Recipe, "")
    return found


def _annotated(annotation: Any, mark: Any) -> Any:
    from typing import Annotated

    return Annotated[annotation, mark]
