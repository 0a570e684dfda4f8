"""Figures that other tools report, by the formulas of their code, from recalls alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from fairtune.config import Config, Registry

Recalls = Mapping[str, tuple[float, float]]
"""By group: share of the rows without, and with, the finding that are called so, in percent."""

RELEASED: Registry[Config] = Registry("released figure", "fairtune.compat.figures", optional=True)


@runtime_checkable
class ReleasedFigures(Protocol):
    """Figures of one other tool."""

    def of(self, recalls: Recalls) -> Mapping[str, float]:
        """Return its figures by name; empty for what they are not made for."""


def released(recalls: Recalls) -> dict[str, float]:
    """Return the figures of every known tool."""
    found: dict[str, float] = {}
    for name in RELEASED:
        member = RELEASED.parse(name)
        assert isinstance(member, ReleasedFigures)
        found |= member.of(recalls)
    return found
