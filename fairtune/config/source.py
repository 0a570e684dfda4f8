"""Where configuration values were read from, for messages that name the line."""

from __future__ import annotations

from dataclasses import dataclass, field

from fairtune.config.yaml12 import Located, Path_


@dataclass(frozen=True)
class Source:
    """Where a configuration was read from, so that an error can name its line.

    Attributes:
        located: The YAML document, or None when the values came from code.
        path: Path inside the document at which the values start.
    """

    located: Located | None = None
    path: Path_ = field(default=())

    def where(self, *loc: str | int) -> str:
        """Return `file:line:column (dotted.field)` of `loc` below this source."""
        path = (*self.path, *loc)
        dotted = ".".join(str(part) for part in path)
        if self.located is None:
            return dotted or "<values>"
        place = self.located.where(path)
        return f"{place} ({dotted})" if dotted else place

    def title(self) -> str:
        """Return the name of the document, or of the part of it that this source stands for."""
        return self.located.name if self.located and not self.path else self.where()

    def at(self, *loc: str | int) -> Source:
        """Return the source of what stands below `loc`."""
        return Source(self.located, (*self.path, *loc))
