"""The state of a run between two steps, on disk: written whole, read back exactly, no pickle.

```
<run folder>/attempts/<n>/
    checkpoint-<epoch>-<step>.safetensors   every tensor of the state
    state.json                              the rest, key, file and checksum of the tensors
    log.jsonl                               what happened, a JSON object a line; kept for good
```
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fairtune import store
from fairtune.errors import FairtuneError
from fairtune.training import mirror as mirrors
from fairtune.training.mirror import LOG, STATE, Mirror

log = logging.getLogger(__name__)

ATTEMPTS = "attempts"
SHARE = 0.05
"""Largest share of the time that goes into writing checkpoints."""

EVERY = 600.0
"""Seconds between checkpoints within an epoch: so much is lost where nothing can be written."""

_LAYOUT = 2
_READ = (1, _LAYOUT)
"""States of layout 1 are between two epochs."""


class Checkpoints:
    """The attempts at one run.

    Every attempt has a folder of its own, so that a worker thought dead that goes on, and the one
    that took over from it, do not write to the same files.

    Args:
        folder: Folder of the run.
        key: Key of the run.
        mark: What else a state must agree in to be gone on with, as a JSON value.
        share: Largest share of the time that goes into writing: after a write that took s
            seconds none is due before s / share; default: `SHARE`.
        done: Name of the file that makes `folder` a finished run: where another process has
            finished it meanwhile, nothing is kept.
        mirror: Where attempts on other machines find the states, and leave theirs.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        mark: Any = None,
        share: float | None = None,
        done: str | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self._all = folder / ATTEMPTS
        self._done = None if done is None else folder / done
        self._key, self._mark = key, mark
        self._share = SHARE if share is None else share
        self._mirror, self._id = mirror, uuid.uuid4().hex[:8]
        self._own: Path | None = None
        self._next, self._last = 0.0, time.monotonic()
        self._at: tuple[int, int] | None = None
        self._broken = False

    def load(self) -> dict[str, Any] | None:
        """Return the state of the latest attempt that left a whole one, or None.

        A state that is damaged, or was left by another recipe, is dropped with a message. One that
        another machine left is brought here first where it is ahead of those here.
        """
        self._fetch()
        state = self._latest()
        return self._latest() if state is None and self._fetch() else state

    def _latest(self) -> dict[str, Any] | None:
        for attempt in reversed(self._attempts()):
            if not (attempt / STATE).is_file():
                continue
            try:
                return self._read(attempt)
            except Exception as error:
                why = _why(error)
                log.warning("the checkpoint in %s is dropped: %s", attempt, why)
                self.say("dropped", checkpoint=attempt.name, why=why)
                _clear(attempt)
        return None

    def due(self, *, within: bool = False) -> bool:
        """Return whether the share of writing allows another state now.

        Args:
            within: An epoch is under way: not before `EVERY` seconds have passed either.
        """
        now = time.monotonic()
        rested = not within or now >= self._last + EVERY
        return rested and now >= self._next and not self._broken

    def save(self, state: Mapping[str, Any], epoch: int, step: int = 0) -> bool:
        """Write `state`; a disk that cannot be written never fails a run.

        Args:
            state: JSON values and tensors.
            epoch: Epochs that are finished.
            step: Steps that are made; a state of the same place is not written again.

        Returns:
            Whether the state is on the disk.
        """
        if self._broken or (self._done is not None and self._done.exists()):
            return False
        if self._at == (epoch, step):
            return True
        began = time.monotonic()
        try:
            self._write(state, epoch, step)
        except (OSError, FairtuneError) as error:
            self._broken = True
            log.warning("the run goes on without checkpoints: %s", error)
            return False
        if self._mirror is not None:
            own = self._folder()
            mirrors.put(self._mirror, f"{own.name}-{self._id}", own)
        self._at, self._last = (epoch, step), time.monotonic()
        self._next = self._last + (self._last - began) / self._share
        return True

    def say(self, event: str, **fields: Any) -> None:
        """Append one line to this attempt's log."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        with contextlib.suppress(OSError), (self._folder() / LOG).open("a") as file:
            file.write(json.dumps(line | fields) + "\n")

    def logs(self) -> dict[str, bytes]:
        """Return the logs of all attempts by their path below the folder of the run."""
        files = [attempt / LOG for attempt in self._attempts()]
        return {
            str(file.relative_to(self._all.parent)): file.read_bytes()
            for file in files
            if file.is_file()
        }

    def discard(self) -> None:
        """Remove every attempt, and the folder of the run if nothing else is in it."""
        if self._mirror is not None:
            mirrors.discard(self._mirror)
        shutil.rmtree(self._all, ignore_errors=True)
        self._own = None
        with contextlib.suppress(OSError):
            self._all.parent.rmdir()

    def _fetch(self) -> bool:
        """Bring a state of another machine here; return whether there is one ahead of all here."""
        if self._mirror is None:
            return False
        attempts = self._attempts()
        here = max((_progress(attempt) for attempt in attempts), default=mirrors.NOWHERE)
        least = int(attempts[-1].name) + 1 if attempts else 0
        return mirrors.fetch(self._mirror, self._all, least, self._own, here, self._fits)

    def _attempts(self) -> list[Path]:
        if not self._all.is_dir():
            return []
        found = [path for path in self._all.iterdir() if path.name.isdigit()]
        return sorted(found, key=lambda path: int(path.name))

    def _folder(self) -> Path:
        if self._own is None:
            number = max((int(path.name) for path in self._attempts()), default=-1) + 1
            while self._own is None:
                path = self._all / str(number)
                try:
                    path.mkdir(parents=True)
                    self._own = path
                except FileExistsError:
                    number += 1
        return self._own

    def _write(self, state: Mapping[str, Any], epoch: int, step: int) -> None:
        tensors: dict[str, Tensor] = {}
        plain = _flat(state, "", tensors)
        content = safetensors.torch.save(tensors)
        file = self._folder() / f"checkpoint-{epoch}-{step}.safetensors"
        store.write_atomic(file, content)
        record = {
            "layout": _LAYOUT,
            "key": self._key,
            "mark": self._mark,
            "epoch": epoch,
            "step": step,
            "file": file.name,
            "sha256": store.file_sha256(file),
            "state": plain,
        }
        # The state names its tensors: a kill between the two writes leaves the former pair.
        store.write_atomic(file.with_name(STATE), json.dumps(record).encode())
        for attempt in self._attempts():
            if attempt == file.parent:
                for old in set(attempt.glob("*.safetensors")) - {file}:
                    old.unlink(missing_ok=True)
            elif int(attempt.name) < int(file.parent.name):
                _clear(attempt)

    def _read(self, attempt: Path) -> dict[str, Any]:
        record = json.loads((attempt / STATE).read_text())
        for name, known in self._wanted():
            if record[name] not in known:
                raise ValueError(f"its {name} is {record[name]}, not {known[-1]}")
        file = attempt / record["file"]
        if store.file_sha256(file) != record["sha256"]:
            raise ValueError(f"the checksum of {file.name} does not hold")
        state: dict[str, Any] = _unflat(record["state"], safetensors.torch.load_file(file))
        return state

    def _wanted(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        return ("layout", _READ), ("key", (self._key,)), ("mark", (self._mark,))

    def _fits(self, record: Mapping[str, Any]) -> bool:
        return all(record.get(name) in known for name, known in self._wanted())


def _progress(attempt: Path) -> tuple[int, int]:
    """Return how far the state of an attempt is; `NOWHERE` without one."""
    try:
        return mirrors.progress(json.loads((attempt / STATE).read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return mirrors.NOWHERE


def _why(error: Exception) -> str:
    # Without the path, which is of this machine: logs go with the run to others.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _clear(attempt: Path) -> None:
    """Remove what a checkpoint consists of; the log stays."""
    for file in (attempt / STATE, *attempt.glob("*.safetensors")):
        file.unlink(missing_ok=True)


def _flat(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON with its tensors moved to `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu").contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        # As pairs: an optimiser counts its parameters by number, and JSON has text keys only.
        pairs = [[key, _flat(inner, f"{path}/{key}", tensors)] for key, inner in value.items()]
        return {"pairs": pairs}
    if isinstance(value, list | tuple):
        return [_flat(inner, f"{path}/{i}", tensors) for i, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} cannot be kept")


def _unflat(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflat(inner, tensors) for inner in value]
    if isinstance(value, dict) and "tensor" in value:
        return tensors[value["tensor"]]
    if isinstance(value, dict):
        return {key: _unflat(inner, tensors) for key, inner in value["pairs"]}
    return value
