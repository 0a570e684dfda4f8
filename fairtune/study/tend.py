"""What a person does to a study that runs, or no longer does, from any machine.

Only the study's storage is needed. Everything here may be done while workers run: they learn of
it from the rows and attributes that they read anyway.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from fairtune.errors import ConfigError, StudyError, did_you_mean
from fairtune.study import codec, orders
from fairtune.study import identity as identities
from fairtune.study.codec import Origin
from fairtune.study.family import Family
from fairtune.study.options import Options, worker_name
from fairtune.study.overview import require
from fairtune.study.place import PINS, Place
from fairtune.study.rows import (
    ASKED,
    BASELINE,
    CONFIRM,
    CONTROL,
    FINAL,
    SEARCH,
    Failed,
    Row,
    dead,
    roots,
)
from fairtune.study.storages import open_storage

PHASES = (BASELINE, SEARCH, CONTROL, CONFIRM, FINAL)
_TRIAL = re.compile(r"(?:(?P<phase>[a-z]+)/)?(?P<number>[1-9][0-9]*)")


@dataclass(frozen=True)
class Tended:
    """A study in the hands of a person.

    Attributes:
        family: Its Optuna studies.
    """

    family: Family

    def read(self) -> tuple[dict[str, list[Row]], dict[str, list[FrozenTrial]]]:
        """Return rows and trials of every phase there is, read now."""
        read = {phase: self.family.read(phase) for phase in PHASES if self.family.find(phase)}
        return {p: rows for p, (rows, _) in read.items()}, {p: t for p, (_, t) in read.items()}

    def rows(self) -> dict[str, list[Row]]:
        """Return the rows of every phase there is."""
        return self.read()[0]

    def budget(self) -> int | None:
        """Return how many trials the search may have, as of the last start; None if unknown."""
        pins = self.family.attrs(SEARCH).get(PINS)
        return int(pins["budget"]["trials"]) if isinstance(pins, dict) else None


@contextlib.contextmanager
def tended(place: Place) -> Iterator[Tended]:
    """Open the study at `place`.

    Raises:
        StudyError: There is no such study.
        StorageError: Its storage cannot be reached.
    """
    require(place)
    opened = open_storage(place.url, must_exist=True)
    try:
        family = Family(opened, place.name, Options().patience)
        if not family.find(SEARCH):
            raise identities.no_such_study(place.name, family.names(), opened.shown)
        yield Tended(family)
    finally:
        opened.close()


def stop(study: Tended, *, now: bool) -> tuple[orders.Order, list[Row]]:
    """Tell all workers of a study to leave; return the order and the runs under way.

    Args:
        study: The study.
        now: Their runs end at the next step and are tried again, not run to their end.
    """
    rows = study.rows()
    order = orders.give(study.family, rows, now=now)
    return order, order.obeying(rows)


def retry(study: Tended, wanted: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Let runs that failed for good be tried again, as if they never had.

    A finished row cannot be changed: each run gets a row more that says who asked.

    Args:
        study: The study.
        wanted: Trials as `[PHASE/]NUMBER`, counted from 1; search where no phase is named. None
            at all means every run that failed for good.

    Returns:
        The last row of each run that is tried again; and of those among them that must wait until
        the study is given more trials.

    Raises:
        ConfigError: Not the name of a trial.
        StudyError: There is no such trial, or its run has not failed for good.
    """
    rows = study.rows()
    rows.pop(FINAL, None)
    gone = {(phase, row.key): row for phase, mine in rows.items() for row in dead(mine)}
    chosen = list(gone.values())
    if wanted:
        found = [_named(word, rows) for word in wanted]
        for word, row in zip(wanted, found):
            if (row.phase, row.key) not in gone:
                raise StudyError(
                    "this run has not failed for good",
                    where=word,
                    found=row.state if row.state != "failed" else "it will be tried again anyway",
                    allowed=", ".join(map(trial_name, chosen)) or "none: no run has",
                )
        chosen = list({(row.phase, row.key): gone[row.phase, row.key] for row in found}.values())
    for row in chosen:
        _ask_for(study.family, row)
    budget = study.budget()
    admitted = {row.number for row in roots(rows[SEARCH])[:budget]}
    late = [row for row in chosen if row.phase == SEARCH and row.root not in admitted]
    return chosen, late


def foreign(study: Tended) -> dict[str, list[int]]:
    """Return the numbers of the trials that other programs made, by phase."""
    rows, trials = study.read()
    known = {phase: {row.number for row in mine} for phase, mine in rows.items()}
    return {
        phase: [trial.number for trial in every if trial.number not in known[phase]]
        for phase, every in trials.items()
    }


def trial_name(row: Row) -> str:
    """Return how `retry` is told of a row."""
    return str(row.number + 1) if row.phase == SEARCH else f"{row.phase}/{row.number + 1}"


def _ask_for(family: Family, row: Row) -> None:
    origin = Origin(worker_name(), uuid.uuid4().hex, row.attempt + 1, row.root)
    outcome = Failed(ASKED, "asked for by `fairtune retry`")
    # With its rungs: the next attempt goes on from the checkpoint of the last one.
    beat = codec.beat(0, row.rungs, row.planned, {})
    family.add(row.phase, codec.finished_trial(row.proposal(), origin, outcome=outcome, beat=beat))


def _named(word: str, rows: dict[str, list[Row]]) -> Row:
    match = _TRIAL.fullmatch(word)
    if match is None:
        raise ConfigError(
            "not the name of a trial",
            found=word,
            allowed="NUMBER of the search, or PHASE/NUMBER, as `fairtune status` counts them",
        )
    phase, number = match["phase"] or SEARCH, int(match["number"])
    if phase not in rows:
        raise StudyError(
            "no such phase",
            found=word,
            allowed=", ".join(rows),
            todo=did_you_mean(phase, rows),
        )
    for row in rows[phase]:
        if row.number + 1 == number:
            return row
    raise StudyError("no such trial", found=word, allowed=f"1 to {len(rows[phase])}")
