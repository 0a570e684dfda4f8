"""Points of a study's space as rows of numbers, conditional parameters among them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fairtune.config.dimensions import Choice, Dimension, Scalar
from fairtune.study.axes import position, size, value_at
from fairtune.study.linear.switches import Switches

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Params = Mapping[str, Scalar]
# Over a uniform position u, z = sqrt(3) (2 u - 1) has variance 1 and z^2 variance 4/5.
_ROOT3, _SQUARE = math.sqrt(3.0), math.sqrt(0.8)
_PLACES = 64


@dataclass(frozen=True)
class Features:
    """How points become rows.

    A switch is -1 or 1. A number is `z` and `z^2`, standardised over its range, a choice is
    one-hot; all are 0 where the parameter is not there. A parameter that is not in every trial
    has an indicator besides, shared by those that always come together.

    Attributes:
        space: Dimension of every parameter that some trial had; without single values.
        switches: Those of them that are switches of a mask.
        indicators: Groups of parameters that come and go together.
    """

    space: Mapping[str, Dimension]
    switches: Switches
    indicators: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, space: Mapping[str, Dimension], points: Sequence[Params]) -> Features:
        """Return the features of `space`, told from `points` what is conditional in it."""
        varying = {n: d for n, d in sorted(space.items()) if size(d) != 1}
        groups: dict[tuple[bool, ...], list[str]] = {}
        for name in varying:
            groups.setdefault(tuple(name in point for point in points), []).append(name)
        sometimes = [tuple(names) for there, names in groups.items() if not all(there)]
        return cls(varying, Switches.among(varying), tuple(sometimes))

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Parameters that are no switches."""
        own = set(self.switches.names)
        return tuple(name for name in self.space if name not in own)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Columns of each other parameter in `rest`; the indicators stand behind them."""
        found, start = {}, 0
        for name in self.others:
            dimension = self.space[name]
            width = len(dimension.options) if isinstance(dimension, Choice) else 2
            found[name] = slice(start, start + width)
            start += width
        return found

    @cached_property
    def weights(self) -> Vector:
        """Prior variance `(columns,)` of each column of `rest`: every parameter has one share."""
        parts: list[float] = []
        for name in self.others:
            columns = self.slices[name].stop - self.slices[name].start
            parts += [1.0 if isinstance(self.space[name], Choice) else 0.5] * columns
        parts += [1.0] * len(self.indicators)
        return np.array(parts) / max(len(self.others) + len(self.indicators), 1)

    def mask(self, points: Sequence[Params]) -> Matrix:
        """Return the switches of each point: `(points, switches)` of -1, 0 and 1."""
        code = {None: 0.0, False: -1.0, True: 1.0}
        names = self.switches.names
        found = [[code[p.get(name)] for name in names] for p in points]  # type: ignore[index]
        return np.array(found, dtype=float).reshape(len(points), len(names))

    def rest(self, points: Sequence[Params]) -> Matrix:
        """Return everything else: `(points, columns)`."""
        found = np.zeros((len(points), len(self.weights)))
        for row, point in zip(found, points):
            for name, columns in self.slices.items():
                if name in point:
                    row[columns] = self.columns(name, [point[name]])[0]
            row[len(row) - len(self.indicators) :] = self.presence(point)
        return found

    def presence(self, names: Iterable[str]) -> list[float]:
        """Return the indicators of a point with parameters `names`."""
        there = set(names)
        return [1.0 if group[0] in there else 0.0 for group in self.indicators]

    def columns(self, name: str, values: Sequence[Scalar]) -> Matrix:
        """Return the columns `(values, columns)` of one other parameter."""
        dimension = self.space[name]
        places = np.array([position(dimension, value) for value in values])
        if isinstance(dimension, Choice):
            count = len(dimension.options)
            index = np.round(places * (count - 1)).astype(int)
            return np.asarray(np.eye(count)[index] - 1 / count)
        z = _ROOT3 * (2 * places - 1)
        return np.stack([z, (z**2 - 1) / _SQUARE], axis=1)

    def candidates(self, name: str, rng: np.random.Generator) -> list[Scalar]:
        """Return values of one other parameter to choose from: every option, or random places."""
        dimension = self.space[name]
        if isinstance(dimension, Choice):
            return list(dimension.options)
        return [value_at(dimension, place) for place in rng.random(_PLACES)]

    def patterns(self, points: Sequence[Params]) -> Iterator[dict[str, set[Scalar] | None]]:
        """Yield each set of parameters that some point had, with the choices that may go with it.

        What a choice brings along is not known here, only what came together: a pattern keeps to
        the options with which it was seen, and to those that were never seen anywhere. None
        allows every value.
        """
        choices = [n for n in self.others if isinstance(self.space[n], Choice)]
        sets: dict[frozenset[str], list[Params]] = {}
        for point in points:
            sets.setdefault(frozenset(self.space.keys() & point.keys()), []).append(point)
        seen = {name: {p[name] for p in points if name in p} for name in choices}
        for names, members in sets.items():
            allowed: dict[str, set[Scalar] | None] = dict.fromkeys(sorted(names))
            for name in choices if len(sets) > 1 else ():
                if name in names:
                    here = {point[name] for point in members}
                    allowed[name] = here | (set(self._options(name)) - seen[name])
            yield allowed

    def _options(self, name: str) -> tuple[Scalar, ...]:
        dimension = self.space[name]
        return dimension.options if isinstance(dimension, Choice) else ()
