"""`fairtune merge`: the finished rows of a study copied into the same study of another storage.

Each row is copied as it is, with its mark, by which it is known again: what was copied is not
copied twice, so a merge that was cut short is completed by the next one. Numbers are given anew,
and the rows of a run name their first attempt by its new number.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from fairtune.errors import StudyError, raise_all
from fairtune.study import identity as identities
from fairtune.study import orders
from fairtune.study.code import CODE, FORCED, compared, forced_note
from fairtune.study.family import Family
from fairtune.study.identity import ATTR as IDENTITY
from fairtune.study.options import Options
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH, Row, current, valid
from fairtune.study.storages import Opened, open_storage
from fairtune.study.tend import PHASES

MERGED = "merged"
"""Attribute of the search study: from where rows were copied; its rows may exceed its budget."""

CLAIM = "claim"


@dataclass
class Merged:
    """What a merge did.

    Attributes:
        made: The study was not there before.
        copied: Rows copied, by phase.
        known: Runs whose result was there already, by phase.
        left: Runs that are under way: phase, number, and where.
        forced: In what the code differs that the copied rows were made with.
    """

    made: bool = False
    copied: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    forced: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """The valid rows of one key in one study, with the trials that hold them.

    Attributes:
        rows: In order of number.
        trials: One per row.
    """

    rows: tuple[Row, ...] = ()
    trials: tuple[FrozenTrial, ...] = ()

    @property
    def marks(self) -> set[str]:
        """Marks by which the rows are known."""
        return {str(trial.user_attrs[CLAIM]) for trial in self.trials}

    @property
    def speaker(self) -> Row | None:
        """The row that speaks for the run."""
        return next(iter(current(self.rows).values()), None)


def merge(place: Place, source: str, *, force: bool = False) -> Merged:
    """Copy the finished rows of the study `place.name` in `source` into the one at `place`.

    The study is made there where it is not, and its folder beside the results remembers that it
    lies there now. Runs that already have a result there, and runs that are under way in either
    study, are left alone.

    Args:
        place: The study that is copied into.
        source: Storage URL that is copied from, or `local`.
        force: Copy in spite of a difference of the code that the two were made with, which is
            stored with the study.

    Raises:
        StorageError: A storage cannot be reached.
        StudyError: There is no such study in `source`, it is the same storage, or the two differ
            in what makes a study the one it is, or in their code.
    """
    with _opened(Place(place.out, place.name, source).url, must_exist=True) as given:
        old = Family(given, place.name, Options().patience)
        identity = _identity(old)
        if place.storage is None:
            place.folder.mkdir(parents=True, exist_ok=True)
        with _opened(place.url, must_exist=False) as taken:
            if taken.shown == given.shown:
                raise StudyError(
                    "a study is merged from another storage", where="--from", found=given.shown
                )
            done = _merge(old, Family(taken, place.name, Options().patience), identity, force)
    if place.folder.is_dir():
        place.remember()
    return done


@contextlib.contextmanager
def _opened(url: str, *, must_exist: bool) -> Iterator[Opened]:
    opened = open_storage(url, must_exist=must_exist)
    try:
        yield opened
    finally:
        opened.close()


def _identity(source: Family) -> Mapping[str, Any]:
    if not source.find(SEARCH):
        raise identities.no_such_study(source.name, source.names(), source.opened.shown)
    stored = source.attrs(SEARCH).get(IDENTITY)
    if not isinstance(stored, dict):
        raise StudyError(
            "the study was not made by fairtune, or its creation was cut short",
            where=source.opened.shown,
            found=source.name,
        )
    return stored


def _merge(source: Family, target: Family, identity: Mapping[str, Any], force: bool) -> Merged:
    directions = source.directions()
    done = Merged(made=target.create(SEARCH, directions, source.metric_names()))
    _same(target, directions, identity)
    done.forced = _code(source, target, force)
    for phase in PHASES:
        if source.find(phase):
            target.create(phase, directions, None)
            _attributes(phase, source, target)
            _rows(phase, source, target, done)
    return done


def _same(
    target: Family, directions: Sequence[StudyDirection], identity: Mapping[str, Any]
) -> None:
    """Refuse a target that is another study; one without an identity gets that of the source."""
    there = target.directions()
    if there != list(directions):
        old, new = ([d.name.lower() for d in some] for some in (there, directions))
        raise identities.other_directions(target.name, old, new)
    known = target.attrs(SEARCH).get(IDENTITY)
    if known is None:
        target.set_attr(SEARCH, IDENTITY, dict(identity))
        return
    problems = identities.differences(known, identity, target.name)
    for problem in problems:
        problem.todo = "these are two studies: give one of them another name"
    raise_all(f"study '{target.name}'", problems)


def _code(source: Family, target: Family, force: bool) -> list[str]:
    """Refuse rows that were made by other code than the target's, or note that it was forced."""
    there, given = target.attrs(SEARCH).get(CODE), source.attrs(SEARCH).get(CODE)
    if not isinstance(there, dict) or not isinstance(given, dict):
        return []
    said = compared(there, given, target.name, force=force)
    if said:
        target.set_attr(SEARCH, f"{FORCED}{source.opened.shown}", forced_note(given))
    return said


def _attributes(phase: str, source: Family, target: Family) -> None:
    """Copy attributes that the target has not; an order to stop is for its own workers."""
    there = target.attrs(phase)
    for name, value in source.attrs(phase).items():
        if name not in (*there, orders.ATTR, MERGED):
            target.set_attr(phase, name, value)
    if phase == SEARCH:
        named = {*there.get(MERGED, ()), source.opened.shown}
        target.set_attr(SEARCH, MERGED, sorted(named))


def _rows(phase: str, source: Family, target: Family, done: Merged) -> None:
    here = _runs(*target.read(phase))
    done.copied[phase] = done.known[phase] = 0
    for key, run in _runs(*source.read(phase)).items():
        mine = here.get(key, Run())
        speaking = [(mine.speaker, "here"), (run.speaker, source.opened.shown)]
        running = [(row, where) for row, where in speaking if row and row.state == "running"]
        if mine.speaker is not None and mine.speaker.has_result:
            done.known[phase] += 1
        elif running:
            row, where = running[0]
            done.left.append(f"{phase} {row.number + 1}, {where}")
        else:
            done.copied[phase] += _copy(run, mine, phase, target)


def _runs(rows: Sequence[Row], trials: Sequence[FrozenTrial]) -> dict[str, Run]:
    """Return the runs of a phase by key, in order of their first rows."""
    known = {trial.number: trial for trial in trials}
    found: dict[str, list[Row]] = {}
    for row in valid(rows):
        found.setdefault(row.key, []).append(row)
    return {k: Run(tuple(v), tuple(known[r.number] for r in v)) for k, v in found.items()}


def _copy(run: Run, mine: Run, phase: str, target: Family) -> int:
    """Copy the rows of a run that the target has not; return how many.

    Where the target tried the run itself, and failed, only a result is copied: as one that came
    after its row had been failed.
    """
    alone = mine.marks <= run.marks
    root = mine.rows[0].root if mine.rows else None
    count = 0
    for row, trial in zip(run.rows, run.trials):
        second = row.has_result and row is not run.speaker
        if trial.user_attrs[CLAIM] in mine.marks or second or not (alone or row.has_result):
            continue
        attrs = {**trial.user_attrs, "root": root}
        if not alone:
            last = max(known.attempt for known in mine.rows)
            attrs |= {"attempt": last + 1, "recovered": True}
        copied = copy.copy(trial)
        copied.user_attrs = attrs
        number = target.number_of(target.add(phase, copied))
        root = number if root is None else root
        count += 1
    return count
