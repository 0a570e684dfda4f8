"""Tables of a tested set in the shape of other tools, written by members of a registry."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from fairtune.config import Config, Registry
from fairtune.study.outcome import Outcome

EXPORTS: Registry[Config] = Registry("export", "fairtune.compat.exports", optional=True)


@runtime_checkable
class Export(Protocol):
    """A file made of a tested set.

    Attributes:
        file: Its name in the study's folder.
    """

    file: ClassVar[str]

    def text(self, outcome: Outcome) -> str:
        """Return its content."""
