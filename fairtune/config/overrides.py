"""`--set a.b=value`: replace whole nodes of a document."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from fairtune.config.yaml12 import Located, loads
from fairtune.errors import ConfigError


def split(word: str, option: str = "--set") -> tuple[tuple[str, ...], Any]:
    """Return the path and value of an override such as `recipe.optim.epochs=4`.

    The value is read as YAML, so `'{float: [1e-5, 1e-3], log: true}'` is a mapping.

    Args:
        word: The override.
        option: What it was given with, for messages.

    Raises:
        ConfigError: There is no `=` or the path has an empty part.
    """
    path, sep, text = word.partition("=")
    parts = tuple(path.strip().split("."))
    if not sep or not all(parts):
        raise ConfigError(
            "an override is written PATH=VALUE",
            where=option,
            found=word,
            allowed="dotted field = YAML value, e.g. recipe.optim.epochs=4",
        )
    return parts, loads(text, f"{option} {path}").data


def apply(document: Located, words: Iterable[str]) -> Located:
    """Return `document` with every override applied in order.

    A key that contains dots (the paths under `space`) is replaced whole:
    `space.optim.lr=...` sets the key `optim.lr` of `space`.

    Raises:
        ConfigError: An override is malformed or goes through a value that is no mapping.
    """
    data = {} if document.data is None else copy.deepcopy(document.data)
    places, origins = dict(document.places), dict(document.origins)
    for word in words:
        parts, value = split(word)
        if parts[0] == "space" and len(parts) > 1:
            parts = ("space", ".".join(parts[1:]))
        _put(data, parts, value, word)
        for known in (places, origins):
            for place in [p for p in known if p[: len(parts)] == parts]:
                del known[place]
        origins[parts] = f"--set {'.'.join(parts)}"
    return Located(data, places, document.name, origins)


def _put(data: Any, parts: tuple[str, ...], value: Any, word: str) -> None:
    node = data
    for depth, part in enumerate(parts):
        if not isinstance(node, dict):
            place = f"'{'.'.join(parts[:depth])}'" if depth else "the document"
            raise ConfigError(f"{place} is a value, not a mapping", where="--set", found=word)
        if depth == len(parts) - 1:
            node[part] = value
            return
        # A key that stands alone, `recipe:`, reads as null; to whoever adds to it it is empty.
        node[part] = {} if node.get(part) is None else node[part]
        node = node[part]
