"""Several mitigations in one recipe: which go together, and whose groups they act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairtune.config import Config
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError


def clash(members: Sequence[Config]) -> ConfigError | None:
    """Return why `members` cannot work in one recipe, or None.

    Two of them take one exclusive slot, or count the same thing twice.
    """
    taken: dict[str, str] = {}
    for member in members:
        name, cls = name_of(member), _class(member)
        for slot in cls.slots:
            if slot in taken:
                return ConfigError(
                    f"two mitigations take the {slot} of a run",
                    found=[taken[slot], name],
                    todo="keep one of them",
                )
            taken[slot] = name
    names = {name_of(member) for member in members}
    for member in members:
        for other in sorted(names & set(_class(member).clashes)):
            return ConfigError(
                "two mitigations would count the same samples twice",
                found=[name_of(member), other],
                todo="keep one of them",
            )
    return None


def fits(member: type[Config], others: Sequence[type[Config]]) -> bool:
    """Tell whether the class `member` goes together with each of `others`."""
    cls: Any = member
    for other in others:
        also: Any = other
        if set(cls.slots) & set(also.slots):
            return False
        if name_of(other) in cls.clashes or name_of(member) in also.clashes:
            return False
    return True


def excluded(member: type[Config]) -> tuple[str, ...]:
    """Return the fields of `optim` that a mitigation does not go together with.

    One that looks at single samples with samples mixed of two, one that averages the weights with
    another average, and what a member says itself by a class variable `excludes`.
    """
    cls: Any = member
    mixed = () if cls.mixes else ("mixup", "cutmix")
    averaged = ("ema",) if "average" in cls.slots else ()
    own: tuple[str, ...] = getattr(cls, "excludes", ())
    return (*mixed, *averaged, *own)


def named_attributes(member: Config) -> tuple[str, ...] | None:
    """Return the attributes a mitigation acts on; () where it names none, None where it has none.

    An attribute is written as a name or a crossing, or several with their weights.
    """
    if "attribute" not in type(member).model_fields or "attribute" in idle(member):
        return None
    value = member.attribute  # type: ignore[attr-defined]
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def idle(member: Config) -> tuple[str, ...]:
    """Return the fields of a mitigation that do not act beside its others."""
    found: tuple[str, ...] = member.idle  # type: ignore[attr-defined]
    return found


def following(members: Sequence[Config]) -> tuple[str, ...]:
    """Return the names of `members` that follow the validation loss while a model is trained.

    They say so by a class variable `follows`.
    """
    return tuple(name_of(m) for m in members if getattr(type(m), "follows", False))


def attributed(members: Sequence[Config], default: str | None) -> tuple[Config, ...]:
    """Return `members` with `default` as the attribute of those that act on one and name none."""
    return tuple(
        member.model_copy(update={"attribute": default})
        if default is not None and named_attributes(member) == ()
        else member
        for member in members
    )


def unknown_attribute(members: Sequence[Config], known: Sequence[str]) -> ConfigError | None:
    """Return that a mitigation acts on an attribute that is not among `known`, or None."""
    for member in members:
        for attribute in named_attributes(member) or ():
            parts = attribute.split("*")
            strange = [part for part in parts if part not in known]
            if strange or len(set(parts)) != len(parts):
                return ConfigError(
                    "a mitigation acts on what is not an attribute of the recipe",
                    where=f"recipe.mitigations.{name_of(member)}.attribute",
                    found=attribute,
                    allowed=[*known, "crossings such as A*B"],
                    todo="add it to recipe.data.attributes" if strange else None,
                )
    return None


def unnamed(members: Sequence[Config]) -> ConfigError | None:
    """Return that a mitigation acts on an attribute and nothing says on which, or None."""
    for member in members:
        if named_attributes(member) == ():
            return ConfigError(
                "a mitigation acts on groups, and nothing says of which attribute",
                where=f"recipe.mitigations.{name_of(member)}.attribute",
                todo="name it there, or in an objective such as worst_auc@ATTRIBUTE",
            )
    return None


def _class(member: Config) -> Any:
    return type(member)
