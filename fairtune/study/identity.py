"""What makes a study the one it is, stored when it is created and compared ever after."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fairtune.config.digest import canonical_json
from fairtune.errors import StudyError, did_you_mean, raise_all
from fairtune.study.family import Family
from fairtune.study.rows import SEARCH

ATTR = "identity"
_WAIT_SECONDS = 10.0
_ABSENT = "<absent>"


def check(family: Family, identity: Mapping[str, Any], made: bool) -> None:
    """Store `identity` with a study that was made just now, compare it with that of another.

    Raises:
        StudyError: One field differs.
        Problems: Several fields differ.
    """
    identity = json.loads(canonical_json(identity))
    stored = None if made else _stored(family)
    if stored is None:
        family.set_attr(SEARCH, ATTR, identity)
        # Whoever wrote last has won; read it back, in case that was another.
        stored = family.attrs(SEARCH)[ATTR]
    raise_all(f"study '{family.name}'", differences(stored, identity, family.name))


def differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], study: str
) -> list[StudyError]:
    """Return one error per field in which two identities of `study` differ."""
    old, new = _flat(stored), _flat(given)
    return [
        StudyError(
            f"'{field}' differs from what the study was created with",
            where=f"study '{study}'",
            found=new.get(field, _ABSENT),
            allowed=repr(old.get(field, _ABSENT)),
            todo="restore it, or start a study of another name",
        )
        for field in differing(stored, given)
    ]


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted fields in which two nested mappings differ."""
    old, new = _flat(one), _flat(other)
    fields = sorted(old.keys() | new.keys())
    return [name for name in fields if old.get(name, _ABSENT) != new.get(name, _ABSENT)]


def no_such_study(name: str, known: Sequence[str], shown: str) -> StudyError:
    """Return the error that there is no study `name` among `known`."""
    return StudyError(
        f"there is no study '{name}'",
        where=shown,
        allowed=", ".join(known) or "none: the storage holds no study",
        todo=did_you_mean(name, known),
    )


def other_directions(name: str, stored: Sequence[str], given: Sequence[str]) -> StudyError:
    """Return the error that the study has other directions."""
    return StudyError(
        "the directions of the objectives differ from what the study was created with",
        where=f"study '{name}'",
        found=list(given),
        allowed=list(stored),
    )


def _stored(family: Family) -> Any:
    # Another worker may have made the study this moment and be about to write its identity.
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        stored = family.attrs(SEARCH).get(ATTR)
        if stored is not None or time.monotonic() > deadline:
            return stored
        time.sleep(0.1)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        parts = [_flat(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()]
        return {name: item for part in parts for name, item in part.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = list(value)
    return {path: value}
