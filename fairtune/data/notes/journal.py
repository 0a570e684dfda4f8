"""Answers of a text model as they come, in a file that a killed process leaves whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from fairtune.data.notes.output import PRIVATE
from fairtune.errors import ConfigError, StorageError
from fairtune.store import write_atomic, writing


@dataclass(frozen=True)
class Answer:
    """What a text model answered to one note.

    Attributes:
        text: The answer, as it was given.
        ended: `stop` where the model ended it, `length` where it was cut off, `refused` where
            the note was refused and its summary is left empty; else what the endpoint says.
        note_cut: Whether the note was cut to what the model can read.
        tokens_in: Tokens that were read; 0 where that is not told.
        tokens_out: Tokens that were written; 0 where that is not told.
    """

    text: str
    ended: str = "stop"
    note_cut: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


class Journal:
    """The answers there are to the rows of one table, a line each, written through to the disk.

    The first line says what was asked of whom. A line that a crash has cut off is dropped.

    Attributes:
        path: The file; its owner alone can read it.
        asked: What was asked of whom, as JSON values by name.
        answers: By row, counted from 0.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], answers: dict[int, Answer]) -> None:
        self.path, self.asked, self.answers = path, asked, answers

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """Return the journal that stands at `path`, or None.

        Raises:
            StorageError: It is damaged, or cannot be read.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                "cannot read the answers there are", where=path, found=error.strerror
            ) from None
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        try:
            asked = json.loads(lines[0])["asked"]
            rows = [json.loads(line) for line in lines[1:]]
            answers = {int(row.pop("row")): Answer(**row) for row in rows}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise StorageError(
                "the answers there are cannot be read: the file is damaged",
                where=path,
                todo="move it away, or write --restart: every note is then asked about again",
            ) from None
        return cls(path, asked, answers)

    @classmethod
    def begin(cls, path: Path, asked: Mapping[str, Any]) -> Journal:
        """Make a journal without answers at `path`, in place of what stands there.

        Raises:
            StorageError: It cannot be written.
        """
        line = json.dumps({"asked": asked}, ensure_ascii=False) + "\n"
        write_atomic(path, line.encode(), mode=PRIVATE)
        return cls(path, asked, {})

    def differing(self, asked: Mapping[str, Any]) -> list[str]:
        """Return what `asked` has otherwise, by name; what only one of them has is left out."""
        return [
            name
            for name in asked
            if name in self.asked and _plain(asked[name]) != self.asked[name]
        ]

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Open the journal for more answers.

        Raises:
            StorageError: It cannot be written, or the disk is full.
        """
        with writing(self.path.parent, what=self.path.name), self.path.open("r+b") as file:
            # What a crash has left of a line would spoil the next one.
            file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            yield Writer(self, file)

    def remove(self) -> None:
        """Remove the file."""
        with writing(self.path.parent, what=self.path.name):
            self.path.unlink(missing_ok=True)


class Writer:
    """Adds answers to an open journal."""

    def __init__(self, journal: Journal, file: Any) -> None:
        self._journal, self._file = journal, file

    def add(self, row: int, answer: Answer) -> None:
        """Keep an answer; when this returns it survives that the power goes."""
        line = json.dumps({"row": row, **asdict(answer)}, ensure_ascii=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._journal.answers[row] = answer


@contextmanager
def alone(to: Path) -> Iterator[None]:
    """Keep other processes from writing summaries to `to` meanwhile.

    Raises:
        ConfigError: One of them does.
    """
    lock = filelock.FileLock(to.with_name(f".{to.name}.lock"), timeout=0)
    with writing(to.parent, what=to.name):
        try:
            lock.acquire()
        except filelock.Timeout:
            raise ConfigError(
                "another process is writing to this output",
                where="--to",
                found=to,
                todo="wait until it has ended",
            ) from None
    try:
        yield
    finally:
        lock.release()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
