"""The state of a search that is cut off: one file, written whole, read back exactly, no pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fairtune import store
from fairtune.errors import StorageError

log = logging.getLogger(__name__)

FILE = "edit-search.safetensors"
EVERY = 30.0
"""Seconds between two states: so much is lost where nothing can be written any more."""

_LAYOUT = 1


class Kept:
    """Where the state of one search is kept: tensors, and the rest as JSON in their header.

    Args:
        folder: Where the file lies; None keeps nothing.
        mark: Digest of everything that determines the search.
    """

    def __init__(self, folder: Path | None, mark: str) -> None:
        self._file = None if folder is None else folder / FILE
        self._mark, self._last = mark, time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and record of the state, or None.

        One that is damaged, or of another search, is dropped with a message.
        """
        if self._file is None or not self._file.is_file():
            return None
        try:
            return self._read(self._file)
        except Exception as error:
            log.warning("the state of an edit's search is dropped: %s", error)
            self.discard()
            return None

    @property
    def due(self) -> bool:
        """Whether another state may be written now."""
        return self._file is not None and time.monotonic() - self._last >= EVERY

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Write a state in place of the former; a disk that cannot be written fails no search."""
        if self._file is None:
            return
        self._last = time.monotonic()
        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        head = {
            "layout": str(_LAYOUT),
            "mark": self._mark,
            "sha256": _sha(plain, text := json.dumps(record)),
            "record": text,
        }
        try:
            with store.writing(self._file.parent, what=FILE):
                self._file.parent.mkdir(parents=True, exist_ok=True)
            store.write_atomic(self._file, safetensors.torch.save(plain, metadata=head))
        except (OSError, StorageError) as error:
            log.warning("the state of an edit's search could not be kept: %s", error)

    def discard(self) -> None:
        """Remove the state, and its folder if nothing else is in it."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self._file.parent.rmdir()

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with safetensors.safe_open(path, framework="pt") as file:
            head = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, wanted in (("layout", str(_LAYOUT)), ("mark", self._mark)):
            if head.get(name) != wanted:
                raise ValueError(f"it is of another {name}")
        if head["sha256"] != _sha(tensors, head["record"]):
            raise ValueError("its checksum does not hold")
        record: dict[str, Any] = json.loads(head["record"])
        return tensors, record


def _sha(tensors: Mapping[str, Tensor], text: str) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()
