"""Which parameters are the switches of a mask, and what is expected of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fairtune.config.dimensions import Choice, Dimension

_DEPTH = re.compile(r"^(?P<kind>.+)\.(?P<depth>\d+)$")


@dataclass(frozen=True)
class Switches:
    """Booleans named `KIND.DEPTH`, as mask spaces name them; several depths of a kind.

    Attributes:
        names: Parameter names.
        kinds: What stands before the depth: path, space and unit type.
        depths: Block numbers.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    depths: tuple[int, ...]

    @classmethod
    def among(cls, space: Mapping[str, Dimension]) -> Switches:
        """Return the switches of `space`, in its order."""
        found = numbered({name: d for name, d in space.items() if is_boolean(d)})
        names, kinds_, depths = zip(*found) if found else ((), (), ())
        return cls(tuple(names), tuple(kinds_), tuple(depths))

    @cached_property
    def covariance(self) -> NDArray[np.float64]:
        """Prior covariance K `(switches, switches)` of their effects, of trace `switches`.

        `K[(l, t), (l', t')] = 1[t = t'] {.6 (.4 + .9 d d') + .4 exp(-(l - l')^2 / 8)}` with block
        `l`, kind `t` and depth `d` in [-1, 1] among the blocks of its kind: what a switch does is
        a level of its kind, a trend over depth, and something that neighbouring blocks share.
        """
        if not self.names:
            return np.zeros((0, 0))
        block = np.array(self.depths, dtype=float)
        kind = np.unique(self.kinds, return_inverse=True)[1]
        last = np.ones(len(np.unique(kind)))
        np.maximum.at(last, kind, block)
        depth = 2 * block / last[kind] - 1
        same = kind[:, None] == kind
        trend = 0.6 * (0.4 + 0.9 * np.outer(depth, depth))
        near = 0.4 * np.exp(-((block[:, None] - block[None, :]) ** 2) / 8)
        found = np.where(same, trend + near, 0.0)
        return np.asarray(found * (len(self.names) / np.trace(found)))

    @cached_property
    def root(self) -> NDArray[np.float64]:
        """A square root `R` of the covariance: `R @ R.T = K`."""
        values, vectors = np.linalg.eigh(self.covariance)
        return np.asarray(vectors * np.sqrt(np.clip(values, 0.0, None)))


def numbered(space: Mapping[str, Dimension]) -> list[tuple[str, str, int]]:
    """Return name, kind and depth of the parameters `KIND.DEPTH`, of kinds with several depths."""
    matches = {name: match for name in space if (match := _DEPTH.match(name))}
    many = Counter(match["kind"] for match in matches.values())
    return [
        (name, match["kind"], int(match["depth"]))
        for name, match in matches.items()
        if many[match["kind"]] > 1
    ]


def is_boolean(dimension: Dimension) -> bool:
    """Tell whether the dimension is a choice between False and True."""
    if not isinstance(dimension, Choice) or len(dimension.options) != 2:
        return False
    return all(isinstance(option, bool) for option in dimension.options)
