"""What a worker said last."""

from __future__ import annotations

from pathlib import Path

from fairtune.errors import StudyError

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


def all_lost(log: Path, how: str) -> StudyError:
    """Return the error of workers none of which did its work.

    Args:
        log: Of one of them.
        how: It ended.
    """
    return StudyError(
        "every worker has left before the work was done",
        where=log,
        found=f"{how}; its last words:\n{last_words(log)}",
        todo="mend that and give the same command again; what is finished is kept",
    )
