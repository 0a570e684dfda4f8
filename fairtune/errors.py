"""Every fault a user can mend, as one small tree of exceptions.

FairtuneError
├── ConfigError     a study, recipe, dataset or model file
├── DataError       a metadata table, an image, a split
├── ModelError      an architecture, its weights, a mask that does not fit it
│   └── EndpointAway    an endpoint that does not answer, or not to us
├── RunError        one training run (non-finite loss, out of memory)
├── StudyError      a study, its storage, its test gate
├── Interrupted     Ctrl-C, SIGTERM, a scheduler's signal
└── StorageError    a disk or database that cannot be read or written

The command line prints the message and leaves with exit code 2 (130 where it was interrupted);
nothing else catches them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class FairtuneError(Exception):
    """A fault the user can mend.

    Args:
        what: One sentence saying what is wrong.
        where: File with line or row, or dotted field, that the fault stands in.
        found: The offending value as it was read.
        allowed: What would have been accepted; a sequence is joined with commas.
        todo: What the user can do now.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        allowed: object = None,
        todo: str | None = None,
    ) -> None:
        self.what, self.where, self.found, self.allowed, self.todo = (
            what,
            where,
            found,
            allowed,
            todo,
        )
        super().__init__(what)

    def __str__(self) -> str:
        head = self.what if self.where is None else f"{self.where}: {self.what}"
        lines = [head]
        if self.found is not None:
            lines.append(f"  found:   {self.found!r}")
        if self.allowed is not None:
            lines.append(f"  allowed: {_listed(self.allowed)}")
        if self.todo is not None:
            lines.append(f"  do:      {self.todo}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


class ConfigError(FairtuneError):
    """A study, recipe, dataset or model file says something that cannot be."""


class DataError(FairtuneError):
    """A metadata table, an image file or a split is not usable as it stands."""


class ModelError(FairtuneError):
    """An architecture, its weights, or a mask that does not fit it."""


class EndpointAway(ModelError):
    """The endpoint of a model does not answer, or not to us; it may later."""


LOST = "rank"
"""Reason of the error that another process of a run has ended."""


class RunError(FairtuneError):
    """One training run could not be finished; the study goes on.

    Args:
        reason: What a row of a study records: "nan" (a loss that is not finite), "oom", or
            `LOST`, which a row calls "stale"; the exit code is then 75: to be started again.
    """

    def __init__(self, what: str, *, reason: str, **more: Any) -> None:
        super().__init__(what, **more)
        self.reason = reason
        if reason == LOST:
            self.exit_code = 75


class Interrupted(FairtuneError):
    """The user, or the machine's scheduler, asked to stop; the work done so far is kept."""

    exit_code = 130


class StudyError(FairtuneError):
    """A study, its phases or its test gate refuse what was asked."""


class StorageError(FairtuneError):
    """A disk or a database cannot be read or written."""


class StorageAway(StorageError):
    """Nothing answers at the address of a storage; it may later."""


class Problems(FairtuneError):
    """Several faults of one input, all shown at once.

    Args:
        title: What was being checked.
        problems: The faults, in the order in which they stand in the input.
    """

    def __init__(self, title: str, problems: Sequence[FairtuneError]) -> None:
        super().__init__(title)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        shown = "\n".join(f"{i}. {p}" for i, p in enumerate(self.problems, 1))
        return f"{self.what}: {len(self.problems)} problems\n{shown}"


def raise_all(title: str, problems: Sequence[FairtuneError]) -> None:
    """Raise `problems` together, or return when there are none.

    Raises:
        FairtuneError: The only problem, itself.
        Problems: Two or more problems.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems(title, problems)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return "did you mean 'x'?" for the closest of `known`, or None when nothing is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"did you mean '{by_lower[close[0]]}'?" if close else None


def _listed(allowed: object) -> str:
    if isinstance(allowed, str):
        return allowed
    if isinstance(allowed, Iterable):
        return ", ".join(str(item) for item in allowed) or "nothing"
    return str(allowed)


def _rebuild(kind: type[FairtuneError], state: dict[str, object]) -> FairtuneError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["what"])
    error.__dict__.update(state)
    return error
