"""Attributes of a study that are longer than a column of every database holds.

MySQL's TEXT ends at 64 kB, and the units of a large model take more. A long value is written in
chunks, named by what they hold, and only then the attribute itself, which says which they are. So
a reader, who gets all attributes in one answer, sees the value before or the value after, whoever
else writes, and writing the same value again adds nothing. Chunks of earlier values stay: Optuna
cannot delete an attribute.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fairtune.config.digest import digest

SIZE = 48_000
"""Bytes of JSON that are written as one attribute."""
HEAD, CHUNK = "fairtune:chunks", "chunk:"
# A chunk is JSON in JSON, in which each byte may need a second one.
_PART = SIZE // 2


def in_chunks(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is to be written for the attribute `name`, in this order."""
    text = json.dumps(value)
    if len(text) <= SIZE:
        yield name, value
        return
    mark = digest(text)[:16]
    parts = [text[i : i + _PART] for i in range(0, len(text), _PART)]
    for i, part in enumerate(parts):
        yield f"{CHUNK}{mark}:{i}", part
    yield name, {HEAD: [mark, len(parts)]}


def joined(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they were set; those that were written before there were chunks too."""
    return {
        name: _whole(value, attrs) for name, value in attrs.items() if not name.startswith(CHUNK)
    }


def _whole(value: Any, attrs: Mapping[str, Any]) -> Any:
    if not isinstance(value, dict) or value.keys() != {HEAD}:
        return value
    mark, count = value[HEAD]
    return json.loads("".join(attrs[f"{CHUNK}{mark}:{i}"] for i in range(count)))
