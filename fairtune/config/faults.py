"""Pydantic's findings as messages with file, line, field, what was found and what to do."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from fairtune.config.source import Source
from fairtune.config.yaml12 import Path_
from fairtune.errors import ConfigError, FairtuneError, Problems, did_you_mean


class _Carried(ValueError):
    """Takes a FairtuneError through pydantic, which only collects ValueErrors."""

    def __init__(self, error: FairtuneError) -> None:
        super().__init__(str(error))
        self.error = error


def carried(error: FairtuneError, *loc: str | int) -> ValueError:
    """Wrap `error`, which stands at `loc` below the field, for raising inside a validator."""
    for part in _parts(error) if loc else ():
        part.__dict__["loc"] = (*loc, *part.__dict__.get("loc", ()))
    return _Carried(error)


def problems_of(
    cls: type[pydantic.BaseModel], data: Any, error: pydantic.ValidationError, source: Source
) -> Iterator[FairtuneError]:
    """Yield a FairtuneError with line, field, finding and remedy for each fault in `error`."""
    told: dict[Path_, FairtuneError] = {}
    for item in error.errors(include_url=False):
        loc = _in_data(data, item)
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, _Carried):
            yield from _relocated(cause.error, source, loc)
            continue
        problem = _problem(cls, item, loc, source)
        if loc not in told:
            yield told.setdefault(loc, problem)
        elif problem.what not in told[loc].what:
            # The branches of a union fail at one place: one problem with all that is allowed.
            told[loc].what += f", or: {problem.what}"


def _problem(
    cls: type[pydantic.BaseModel], item: ErrorDetails, loc: Path_, source: Source
) -> FairtuneError:
    where, value, kind = source.where(*loc), item["input"], item["type"]
    if kind == "extra_forbidden":
        known = _fields_at(cls, loc[:-1])
        problem = ConfigError(
            f"unknown field '{loc[-1]}'",
            where=where,
            allowed=sorted(known) or None,
            todo=did_you_mean(str(loc[-1]), known),
        )
    elif kind == "missing":
        problem = ConfigError(f"the field '{loc[-1]}' is missing", where=where)
    else:
        what = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        what += "; the field is empty" if value is None else ""
        todo = "write true or false" if kind == "bool_type" else None
        if kind in ("literal_error", "enum") and isinstance(value, str):
            todo = did_you_mean(value, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
        problem = ConfigError(what, where=where, found=_short(value), todo=todo)
    return _placed(problem, source, loc)


def _relocated(error: FairtuneError, source: Source, loc: Path_) -> Iterator[FairtuneError]:
    for part in _parts(error):
        inner = part.__dict__.get("loc")
        # A place in another document stays in the message; one relative to `loc` is made whole.
        elsewhere = "" if inner is not None or part.where is None else f"{part.where}: "
        full = (*loc, *(inner or ()))
        problem = ConfigError(
            elsewhere + part.what,
            where=source.where(*full),
            found=part.found,
            allowed=part.allowed,
            todo=part.todo,
        )
        yield _placed(problem, source, full)


def _placed(problem: FairtuneError, source: Source, loc: Path_) -> FairtuneError:
    """Note where `problem` stands, so that whoever holds the values around it can say the line."""
    if source.located is None:
        problem.__dict__["loc"] = (*source.path, *loc)
    return problem


def _parts(error: FairtuneError) -> tuple[FairtuneError, ...]:
    return error.problems if isinstance(error, Problems) else (error,)


def _in_data(data: Any, item: ErrorDetails) -> Path_:
    """Return pydantic's location without the parts that name a branch of a union."""
    out: list[str | int] = []
    for part in item["loc"]:
        items = enumerate(data) if isinstance(data, list | tuple) else data
        children = dict(items) if isinstance(items, Mapping | enumerate) else {}
        if part in children:
            data = children[part]
            out.append(part)
    return (*out, item["loc"][-1]) if item["type"] == "missing" else tuple(out)


def _fields_at(cls: type[pydantic.BaseModel], loc: Path_) -> set[str]:
    models: set[Any] = {cls}
    for part in loc:
        if isinstance(part, int):
            continue
        infos = [m.model_fields[part] for m in models if part in m.model_fields]
        # A part that is no field is a key of a mapping, whose values are the models at hand.
        models = {m for info in infos for m in _models_in(info.annotation)} if infos else models
    return {info.alias or name for m in models for name, info in m.model_fields.items()}


def _models_in(annotation: Any) -> set[Any]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return {annotation}
    return {m for argument in typing.get_args(annotation) for m in _models_in(argument)}


def _short(value: Any) -> Any:
    text = repr(value)
    return value if len(text) <= 200 else text[:200] + "..."
