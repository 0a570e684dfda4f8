"""One registry mechanism for every family of interchangeable parts.

A class decorated with its name is the configuration of a member and builds the working object.
From its fields follow validation, messages, help, documentation and the study's parameters.
Members of the package are imported on first look-up; plug-ins come through entry points of the
group `fairtune.<kind>`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from fairtune.config.dimensions import Choice, Dimension, Float, Int
from fairtune.config.model import Config, Source, carried, parse
from fairtune.errors import ConfigError, FairtuneError, did_you_mean, raise_all

T = TypeVar("T", bound=Config)
M = TypeVar("M", bound=type[Config])


class Registry(Generic[T]):
    """Members of one kind by name.

    Args:
        kind: Singular noun used in messages and as entry-point group, e.g. `adaptation method`.
        package: Package whose modules hold the members.
        later: Names of members that a later version brings; refused by name until they work.
        optional: The package may be missing; then only plug-ins are members.
        also: Packages with further members, each of which may be missing.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        later: tuple[str, ...] = (),
        *,
        optional: bool = False,
        also: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.package, self.later = kind, package, later
        self._optional, self._also = optional, also
        self._members: dict[str, type[T]] = {}
        self._loaded = False
        self._lock = threading.RLock()

    @property
    def one(self) -> str:
        """The kind with its article, for messages."""
        return f"{'an' if self.kind[0] in 'aeio' else 'a'} {self.kind}"

    def register(self, name: str) -> Callable[[M], M]:
        """Return the class decorator that enters a member under `name`.

        Raises:
            ConfigError: The name is taken by another class.
        """

        def enter(cls: M) -> M:
            old = self._members.get(name)
            if old is not None and _full_name(old) != _full_name(cls):
                raise ConfigError(
                    f"two classes are registered as {self.kind} '{name}'",
                    found=[_full_name(old), _full_name(cls)],
                )
            self._members[name] = cls  # type: ignore[assignment]
            cls.registered_name = name  # type: ignore[attr-defined]
            return cls

        return enter

    def names(self) -> list[str]:
        """Return all names in alphabetical order."""
        self._load()
        return sorted(self._members)

    def get(self, name: str) -> type[T]:
        """Return the class registered as `name`.

        Raises:
            ConfigError: No such member; the message names the closest one and all known.
        """
        self._load()
        if name in self._members:
            return self._members[name]
        if name in self.later:
            raise ConfigError(
                f"{self.kind} '{name}' is not available in this version",
                found=name,
                allowed=self.names(),
            )
        raise ConfigError(
            f"unknown {self.kind}",
            found=name,
            allowed=self.names(),
            todo=did_you_mean(name, self.names()),
        )

    def parse(self, value: Any) -> T:
        """Return the member written as `NAME` or `{NAME: {field: value, ...}}`.

        Raises:
            ConfigError: Not one of these forms, an unknown name, or wrong fields.
        """
        if isinstance(value, Config) and self._holds(type(value)):
            return value  # type: ignore[return-value]
        if isinstance(value, str):
            return parse(self.get(value), {})
        if isinstance(value, dict) and len(value) == 1:
            ((name, fields),) = value.items()
            source = Source(path=(str(name),))
            return parse(self.get(str(name)), {} if fields is None else fields, source)
        raise ConfigError(
            f"{self.one} is written NAME or {{NAME: {{field: value}}}}",
            found=value,
            allowed=self.names(),
        )

    def field(self) -> Any:
        """Return the annotation marker of a configuration field that holds one member."""
        return MemberField(self)

    def list_field(self) -> Any:
        """Return the annotation marker of a field that holds several members, by name."""
        return MembersField(self)

    def parse_list(self, value: Any) -> tuple[T, ...]:
        """Return the members written as a list, in the order of their names; `none` is empty.

        Raises:
            ConfigError: Not a list, or a name stands twice in it.
            Problems: Several of them are wrong.
        """
        if value == "none":
            return ()
        if not isinstance(value, list | tuple):
            raise ConfigError(
                f"a list of {self.kind}s is expected, each NAME or {{NAME: {{field: value}}}}",
                found=value,
                allowed=self.names(),
            )
        members: list[T] = []
        problems: list[FairtuneError] = []
        for i, item in enumerate(value):
            try:
                members.append(self.parse(item))
            except FairtuneError as error:
                carried(error, i)
                problems += getattr(error, "problems", [error])
        raise_all(f"{self.kind}s", problems)
        names = [name_of(member) for member in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{self.one} stands twice", found=twice, todo="keep one of them")
        return tuple(sorted(members, key=name_of))

    def _holds(self, cls: type[Config]) -> bool:
        self._load()
        member = self._members.get(getattr(cls, "registered_name", ""))
        return member is not None and _full_name(member) == _full_name(cls)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._import_package(self.package, self._optional)
            for package in self._also:
                self._import_package(package, optional=True)
            group = "fairtune." + self.kind.replace(" ", "_")
            for entry in importlib.metadata.entry_points(group=group):
                _load_plugin(entry)
            self._loaded = True

    def _import_package(self, name: str, optional: bool) -> None:
        if optional and importlib.util.find_spec(name.rpartition(".")[0]) is None:
            return
        if optional and importlib.util.find_spec(name) is None:
            return
        package = importlib.import_module(name)
        for info in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{name}.{info.name}")


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _load_plugin(entry: importlib.metadata.EntryPoint) -> None:
    try:
        entry.load()
    except FairtuneError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the plug-in '{entry.name}' of group {entry.group} cannot be loaded",
            where=entry.value,
            found=repr(error),
            todo="update or uninstall the package that brings it",
        ) from error


def written(member: Config) -> dict[str, Any]:
    """Return a member as `{NAME: {field: value}}`, the form that `Registry.parse` reads."""
    return {name_of(member): member.to_json()}


def name_of(member: Config | type[Config]) -> str:
    """Return the name under which the class of `member` is registered."""
    name: str = member.registered_name  # type: ignore[union-attr]
    return name


def declared_dimensions(cls: type[Config]) -> dict[str, Dimension]:
    """Return the search range of each field of `cls` that declares one."""
    return {
        name: item
        for name, info in cls.model_fields.items()
        for item in info.metadata
        if isinstance(item, Float | Int | Choice)
    }


class MemberField:
    """Annotation marker: the field holds one member of `registry`, written by name."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return _schema(self.registry.parse, written)


class MembersField:
    """Annotation marker: the field holds a tuple of members of `registry`, each name once."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return _schema(self.registry.parse_list, lambda found: [written(m) for m in found])


def _schema(read: Callable[[Any], Any], write: Callable[[Any], Any]) -> core_schema.CoreSchema:
    """Return the schema of a value that `read` makes of what `write` makes of it."""

    def validate(value: Any) -> Any:
        try:
            return read(value)
        except FairtuneError as error:
            raise carried(error) from None

    return core_schema.no_info_plain_validator_function(
        validate, serialization=core_schema.plain_serializer_function_ser_schema(write)
    )


@dataclass(frozen=True)
class Among:
    """Annotation marker of a field that holds one member: those a study tries by default.

    Attributes:
        names: Names of members, each with its fields at their own declared ranges.
    """

    names: tuple[str, ...]
