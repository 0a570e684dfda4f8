"""Search dimensions: the range that a field declares and a study samples from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from fairtune.errors import ConfigError

Scalar: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class Float:
    """A real number in `[low, high]`, on a log scale or in multiples of `step` above `low`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step)

    def contains(self, value: object) -> bool:
        """Tell whether `value` is a finite number inside the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return math.isfinite(value) and self.low <= value <= self.high

    def to_json(self) -> dict[str, Any]:
        """Return the study-file form."""
        return _range_json("float", self.low, self.high, self.log, self.step)

    def points(self, count: int) -> list[float]:
        """Return the middles of `count` equal parts of the range, on its scale.

        A few values then stand for the whole range; its ends are its least promising values.
        """
        shares = [(i + 0.5) / count for i in range(count)]
        if not self.log:
            return [self.low + (self.high - self.low) * share for share in shares]
        return [self.low * (self.high / self.low) ** share for share in shares]


@dataclass(frozen=True)
class Int:
    """A whole number in `[low, high]`, on a log scale or in multiples of `step` above `low`."""

    low: int
    high: int
    log: bool = False
    step: int | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step)

    def contains(self, value: object) -> bool:
        """Tell whether `value` is a whole number inside the range and on the grid."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        on_grid = self.step is None or (value - self.low) % self.step == 0
        return self.low <= value <= self.high and on_grid

    def to_json(self) -> dict[str, Any]:
        """Return the study-file form."""
        return _range_json("int", self.low, self.high, self.log, self.step)


@dataclass(frozen=True)
class Choice:
    """One of `options`, in the order in which they were written."""

    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ConfigError("a choice needs at least one option", found=[])
        if len({(type(o), o) for o in self.options}) != len(self.options):
            raise ConfigError("a choice names an option twice", found=list(self.options))

    def contains(self, value: object) -> bool:
        """Tell whether `value` is one of the options, with its type."""
        return any(type(value) is type(option) and value == option for option in self.options)

    def to_json(self) -> dict[str, Any]:
        """Return the study-file form."""
        return {"one_of": list(self.options)}


Dimension: TypeAlias = Float | Int | Choice


def from_json(data: Mapping[str, Any]) -> Dimension:
    """Return the dimension that `to_json` wrote.

    Raises:
        ConfigError: `data` is none of the three forms, or a value in it has the wrong type.
    """
    kinds = [kind for kind in ("one_of", "int", "float") if kind in data]
    unknown = [key for key in data if key not in (*kinds, "log", "step")]
    if len(kinds) != 1 or unknown or (kinds == ["one_of"] and len(data) > 1):
        raise _not_a_distribution(data)
    (kind,) = kinds
    if kind == "one_of":
        options = data[kind]
        if not isinstance(options, list | tuple) or not all(map(_is_scalar, options)):
            raise _not_a_distribution(data)
        return Choice(tuple(options))
    ends, log, step = data[kind], data.get("log", False), data.get("step")
    wanted = int if kind == "int" else int | float
    numbers = [*ends, *([] if step is None else [step])] if isinstance(ends, list | tuple) else []
    right = all(isinstance(n, wanted) and not isinstance(n, bool) for n in numbers)
    if not right or len(numbers) < 2 or len(ends) != 2 or not isinstance(log, bool):
        raise _not_a_distribution(data)
    low, high = ends
    if kind == "int":
        return Int(low, high, log, step)
    return Float(float(low), float(high), log, None if step is None else float(step))


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _not_a_distribution(data: Mapping[str, Any]) -> ConfigError:
    return ConfigError(
        "not a distribution",
        found=dict(data),
        allowed="{int: [lo, hi], step: k? | log: true?}, {float: [lo, hi], step: x? | log: true?},"
        " {one_of: [value, ...]}",
    )


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ConfigError("a range needs finite ends in order", found=[low, high])
    if log and low <= 0:
        raise ConfigError("a log range must start above 0", found=[low, high])
    if log and step is not None:
        raise ConfigError("a range has either log or step", found={"log": log, "step": step})
    if step is not None and step <= 0:
        raise ConfigError("a step must be above 0", found=step)


def _range_json(
    kind: str, low: float, high: float, log: bool, step: float | None
) -> dict[str, Any]:
    extra: dict[str, Any] = {"log": True} if log else {} if step is None else {"step": step}
    return {kind: [low, high], **extra}
