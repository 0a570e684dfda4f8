"""Keyed hashes of patient ids: equal within one cache, meaningless without its key."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Iterable
from pathlib import Path

from fairtune.errors import StorageError
from fairtune.store import writing

KEY_FILE = ".patient-key"
_KEY_BYTES = 32


def patient_key(cache: Path) -> bytes:
    """Return the key of `cache`, made on first use in `<cache>/packs/.patient-key` (mode 0600).

    Raises:
        StorageError: The key cannot be written, or the file holds something else.
    """
    path = cache / "packs" / KEY_FILE
    if not path.exists():
        with writing(path.parent, what=KEY_FILE):
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise StorageError(
            "the key of the patient hashes is damaged",
            where=path,
            found=f"{len(key)} bytes",
            allowed=f"{_KEY_BYTES} bytes",
            todo="restore it, or remove it to get a new one (old hashes then match nothing)",
        )
    return key


def hashed(patients: Iterable[str], space: str, key: bytes) -> list[str]:
    """Return HMAC-SHA256(key, space NUL patient) of every id, as 32 hex digits.

    Args:
        patients: Raw ids.
        space: Name of the space of ids: equal ids of two spaces get different hashes.
        key: Secret of the cache.
    """
    known: dict[str, str] = {}
    out = []
    for patient in patients:
        if patient not in known:
            message = f"{space}\0{patient}".encode()
            known[patient] = hmac.new(key, message, hashlib.sha256).hexdigest()[:32]
        out.append(known[patient])
    return out


def _create(path: Path) -> None:
    """Create the key by linking a whole file into place: of two makers, the first one wins."""
    temporary = path.with_name(f"{KEY_FILE}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
