"""Which code a study is made with: its workers have to agree on it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import fairtune
from fairtune.errors import StudyError, raise_all
from fairtune.study.ledger import Ledger

CODE, FORCED = "code", "forced:"
"""Attributes of a study: the code it was created with; that of a worker that was forced, by
worker."""

LIBRARIES = ("torch", "torchvision", "timm", "peft")
"""Those whose version may change what a run gives."""


@functools.cache
def code_here() -> Mapping[str, str]:
    """Return version and digest of fairtune's own files, and versions of what computes."""
    home = Path(fairtune.__file__).parent
    sha = hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        sha.update(f"{path.relative_to(home).as_posix()}\0".encode())
        sha.update(path.read_bytes())
    found = {"fairtune": fairtune.__version__, "files": sha.hexdigest()[:16]}
    return found | {name: metadata.version(name) for name in LIBRARIES}


def check_code(ledger: Ledger, *, force: bool = False) -> list[str]:
    """Compare this process's code with the study's, which is stored if it has none yet.

    Data, weights and precision are not compared here: they are part of every recipe, so that
    with others other runs would be made; no one can be forced to mix them.

    Args:
        ledger: The study.
        force: Take part in spite of a difference, which is stored with the study.

    Returns:
        For people: one line per difference that was forced.

    Raises:
        StudyError: Something differs; all differences at once.
    """
    here = dict(code_here())
    stored = ledger.attrs().get(CODE)
    if not isinstance(stored, dict):
        ledger.set_attr(CODE, here)
        return []
    said = compared(stored, here, ledger.name, force=force)
    if said:
        ledger.set_attr(f"{FORCED}{ledger.worker}", forced_note(here))
    return said


def compared(
    stored: Mapping[str, Any], here: Mapping[str, Any], study: str, *, force: bool
) -> list[str]:
    """Compare other code with that of `study`.

    Returns:
        For people: one line per difference that was forced.

    Raises:
        StudyError: Something differs and was not forced; all differences at once.
    """
    names = sorted(stored.keys() | here.keys())
    differing = [name for name in names if stored.get(name) != here.get(name)]
    if not force:
        faults = [_other(study, name, stored, here) for name in differing]
        raise_all(f"study '{study}'", faults)
    return [
        f"forced: {_NAMES.get(name, name)} {here.get(name)}; the study began with "
        f"{stored.get(name)}"
        for name in differing
    ]


def forced_note(code: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored, below `FORCED`, of other code that took part."""
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "code": dict(code)}


def forced_of(attrs: Mapping[str, Any]) -> list[str]:
    """Return, for each worker that was forced to take part, in what its code differed.

    Args:
        attrs: Attributes of the study.
    """
    began = attrs.get(CODE, {})
    found = []
    for name, kept in sorted(attrs.items()):
        if name.startswith(FORCED):
            code = kept["code"]
            parts = [
                f"{_NAMES.get(part, part)} {code.get(part)}"
                for part in sorted(began.keys() | code)
                if began.get(part) != code.get(part)
            ]
            found.append(f"{', '.join(parts)} (since {kept['at']})")
    return found


_NAMES = {"files": "fairtune's files"}


def _other(
    study: str, name: str, stored: Mapping[str, Any], here: Mapping[str, Any]
) -> StudyError:
    return StudyError(
        f"{_NAMES.get(name, name)}: another version than the study began with",
        where=f"study '{study}'",
        found=here.get(name, "absent"),
        allowed=stored.get(name, "absent"),
        todo="install that version here, or give --force, which is recorded with the study",
    )
