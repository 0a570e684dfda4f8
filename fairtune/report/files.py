"""A file of the report, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from fairtune import store


def put(path: Path, content: str | bytes) -> Path:
    """Write `content` to `path`, whose folder is made, and return it.

    Raises:
        StorageError: The file cannot be written.
    """
    with store.writing(path.parent, what=path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomic(path, content.encode() if isinstance(content, str) else content)
    return path
