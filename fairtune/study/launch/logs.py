"""What a worker said last."""

from __future__ import annotations

from pathlib import Path

_TAIL, _LINES = 4000, 8


def last_words(log: Path) -> str:
    """Return the last lines of a log; nothing where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-_LINES:])
