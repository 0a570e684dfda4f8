"""Finished runs and saved states where all machines of a study find them.

```
<url>/<key[:2]>/<key>/
    files/<SHA-256>/<name>   every file of the run by what is in it
    DONE                     the run's own DONE, written last: which files are the run
    attempts/<n>-<id>/       states of unfinished attempts, until the run is done
```

Files are never changed, only added, and DONE is one small file: of two machines that put the same
run the later one wins wholly, and who reads while another writes gets the one or the other. A run
without DONE does not count. What is got is checked against DONE before it counts here.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import filelock

from fairtune import store
from fairtune.errors import FairtuneError
from fairtune.experiment.stored import DONE
from fairtune.remote import Remote
from fairtune.training.mirror import LOG, number_of

log = logging.getLogger(__name__)

MARK = ".shared"
"""File of a run's folder that says where, and as what, the run is shared already."""

_ATTEMPT = re.compile(r"\d+-\w+")

_TRIES, _PAUSE = 3, 0.2
_SHORT = 32

Seal = Mapping[str, tuple[int, str]]
"""Size and SHA-256 of every file of a run."""


@dataclass(frozen=True)
class SharedRuns:
    """The runs at a URL.

    Attributes:
        remote: The folder.
    """

    remote: Remote

    def holds(self, folder: Path) -> bool:
        """Tell whether the run in `folder` was put or got as it stands; asks nobody."""
        return _marked(folder, self.remote.url) == _seal(_content(folder / DONE))

    def put(self, folder: Path) -> None:
        """Put the run in `folder`: every file that is not there yet, DONE last.

        Raises:
            StorageError: The remote does not answer, or refuses; the folder stays as it is.
        """
        key, content = folder.name, (folder / DONE).read_bytes()
        seal, known = _seal(content), _marked(folder, self.remote.url) or {}
        assert seal is not None, folder
        new = {name: has for name, has in seal.items() if known.get(name) != has}
        self.remote.put({_file(key, name, has[1]): folder / name for name, has in new.items()})
        self.remote.write(_done(key), content)
        self._mark(folder, content)
        try:
            self.states(key).discard()
        except FairtuneError as error:
            log.warning("states of finished attempts stay: %s", error)

    def is_ahead(self, folder: Path) -> bool:
        """Tell whether the remote has the run in `folder` in a later form: tested, with weights.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        there = _seal(self.remote.read(_done(folder.name)))
        here = _seal(_content(folder / DONE)) or {}
        if there is None or there == here:
            return False
        # What was put or got as it stands was changed by another machine since.
        return self.holds(folder) or set(there) > set(here)

    def get(self, key: str, folder: Path) -> bool:
        """Bring the run `key` to `folder`; return False when there is none, or a damaged one.

        Raises:
            StorageError: The remote does not answer, or refuses; or the disk is full.
        """
        done = self.remote.read(_done(key))
        if done is None:
            return False
        with store.writing(folder.parent, what=f"run {key}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(folder.parent / ".lock"):
                if _content(folder / DONE) == done:
                    return True  # another process of this machine was faster
                temporary = folder.with_name(f".{key}.{uuid.uuid4().hex[:8]}.part")
                try:
                    if not self._got(key, temporary):
                        return False
                    store.replace_folder(temporary, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
        return True

    def states(self, key: str) -> SharedStates:
        """Return the states of unfinished attempts at the run `key`."""
        # A state that cannot be kept costs time, not a run: nobody waits for it.
        return SharedStates(Remote(self.remote.url, 0.0), f"{key[:2]}/{key}/attempts")

    def _got(self, key: str, into: Path) -> bool:
        fault = ""
        for number in range(_TRIES):
            # Another machine may just be writing DONE, or the files of a later one.
            time.sleep(number * _PAUSE)
            content = self.remote.read(_done(key))
            seal = _seal(content)
            if content is None or seal is None:
                fault = "its DONE cannot be read"
                continue
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir(parents=True)
            there = {_file(key, name, has[1]): into / name for name, has in seal.items()}
            if not self.remote.get(there):
                fault = "files that its DONE names are missing"
                continue
            wrong = [name for name, has in seal.items() if not _holds(into / name, has)]
            if not wrong:
                (into / DONE).write_bytes(content)
                self._mark(into, content)
                return True
            fault = f"the checksum of {', '.join(wrong)} does not hold"
        log.warning(
            "%s: run %s is damaged and does not count: %s. Where a good copy lies, remove the "
            "file %s of its folder and ask for the run again: then it is put anew",
            self.remote.url,
            key,
            fault,
            MARK,
        )
        return False

    def _mark(self, folder: Path, done: bytes) -> None:
        record = {"url": self.remote.url, "files": json.loads(done)}
        store.write_atomic(folder / MARK, json.dumps(record).encode())


@dataclass(frozen=True)
class SharedStates:
    """States of unfinished attempts at one run; see `fairtune.training.checkpoint.Mirror`.

    Attributes:
        remote: The folder of all runs.
        place: Where in it they are.
    """

    remote: Remote
    place: str

    def attempts(self) -> dict[str, set[str]]:
        """Return the names of the files of every attempt, by the attempt's name.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        found: dict[str, set[str]] = {}
        for path in map(PurePosixPath, self.remote.names(self.place)):
            if _ATTEMPT.fullmatch(path.parent.name):
                found.setdefault(path.parent.name, set()).add(path.name)
        return found

    def read(self, attempt: str, name: str) -> bytes | None:
        """Return the content of a file of an attempt, or None when there is none.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        return self.remote.read(f"{self.place}/{attempt}/{name}")

    def get(self, attempt: str, names: Sequence[str], into: Path) -> bool:
        """Copy files of an attempt to the folder `into`; return False when one is missing.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        return self.remote.get({f"{self.place}/{attempt}/{name}": into / name for name in names})

    def put(self, attempt: str, files: Sequence[Path]) -> None:
        """Put the files of an attempt in their order, and remove what they take the place of.

        That is what else the attempt left, and what those before it did, except their logs.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        for file in files:
            self.remote.put({f"{self.place}/{attempt}/{file.name}": file})
        kept = {file.name for file in files}
        for other, names in self.attempts().items():
            old: set[str] = set()
            if other == attempt:
                old = names - kept
            elif number_of(other) < number_of(attempt):
                old = names - {LOG}
            self.remote.remove([f"{self.place}/{other}/{name}" for name in sorted(old)])

    def discard(self) -> None:
        """Remove every attempt.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        self.remote.remove(self.remote.names(self.place))


def _done(key: str) -> str:
    return f"{key[:2]}/{key}/{DONE}"


def _file(key: str, name: str, sha: str) -> str:
    return f"{key[:2]}/{key}/files/{sha[:_SHORT]}/{name}"


def _seal(content: bytes | None) -> Seal | None:
    """Return what a DONE names, or None when it is none, is cut short or names odd paths."""
    try:
        record = json.loads(content or b"")
        seal = {str(name): (int(size), str(sha)) for name, (size, sha) in record.items()}
    except (ValueError, TypeError, AttributeError):
        return None
    # A file of a remote says where it goes on this disk: below the folder of its run.
    odd = [n for n in seal if PurePosixPath(n).is_absolute() or ".." in PurePosixPath(n).parts]
    return None if odd else seal


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _marked(folder: Path, url: str) -> Seal | None:
    """Return as what the run in `folder` was put to or got from `url` last, None if never."""
    try:
        record = json.loads(_content(folder / MARK) or b"")
        files = json.dumps(record["files"]).encode() if record["url"] == url else None
    except (ValueError, TypeError, KeyError):
        return None
    return _seal(files)


def _holds(path: Path, has: tuple[int, str]) -> bool:
    return path.stat().st_size == has[0] and store.file_sha256(path) == has[1]
