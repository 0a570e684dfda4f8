"""Files with text of notes: readable by their owner alone, whole or not there."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fairtune
from fairtune.errors import ConfigError
from fairtune.store import write_atomic

PRIVATE = 0o600
SUFFIXES = (".csv", ".tsv")


def record_path(to: Path) -> Path:
    """Return where the record of the output `to` stands."""
    return to.with_name(f"{to.name}.json")


def check_output(to: Path, source: Path, *, replaces: bool = False) -> None:
    """See that `to` and its record can be written, before any work is done; nothing is made.

    Args:
        to: The table that is to be written.
        source: The table that is read.
        replaces: Whether an output that is there already may be replaced.

    Raises:
        ConfigError: It is the source, a folder, no CSV or TSV, or there already.
    """
    if to.resolve() == source.resolve() or (to.exists() and to.samefile(source)):
        raise ConfigError("the output would replace its own source", where="--to", found=to)
    if to.suffix not in SUFFIXES:
        raise ConfigError("not the name of a table", where="--to", found=to, allowed=SUFFIXES)
    if to.is_dir():
        raise ConfigError("this is a folder, and a file is to be written", where="--to", found=to)
    there = next((path for path in (to, record_path(to)) if path.exists()), None)
    if there is not None and not replaces:
        raise ConfigError(
            "the output is there already",
            where="--to",
            found=there,
            todo="name another file, or move this one away",
        )


def make_folder(to: Path) -> None:
    """Make the folder of the output `to`.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "cannot make the folder", where="--to", found=f"{to.parent}: {error.strerror}"
        ) from None


def write_output(
    to: Path, header: Sequence[str], rows: Sequence[Sequence[str]], record: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a table and the record beside it; return the record as it was written.

    The record has the table's SHA-256 and says when, and by which version, both were made.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t" if to.suffix == ".tsv" else ",", lineterminator="\n")
    writer.writerows([header, *rows])
    content = text.getvalue().encode()
    whole = {
        "fairtune": fairtune.__version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "output": {
            "file": to.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "columns": list(header),
        },
        **record,
    }
    encoded = json.dumps(whole, indent=1, ensure_ascii=False).encode()
    write_atomic(record_path(to), encoded + b"\n", mode=PRIVATE)
    write_atomic(to, content, mode=PRIVATE)
    return whole
