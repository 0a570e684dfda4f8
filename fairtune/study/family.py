"""The Optuna studies of one family: names, rows, writes; no rule is decided here."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from fairtune.study import codec
from fairtune.study.rows import SEARCH, Outcome, Row
from fairtune.study.sql import sql_trials
from fairtune.study.storages import PASSING, Opened, open_storage
from fairtune.study.storages.chunks import in_chunks, joined
from fairtune.study.trials import End, PlainTrials, Trials

T = TypeVar("T")
_METRIC_NAMES = "study:metric_names"
_SILENT = 5.0
"""Seconds after which an answer shows that the storage was away."""


class Family:
    """Studies NAME, NAME/baseline, NAME/confirm, NAME/final of one storage.

    Args:
        opened: The storage.
        name: NAME.
        patience: Seconds for which a storage that does not answer is asked again.
        clock: This process's clock, in seconds.

    Attributes:
        back: When, by the clock, a storage that had been away answered again. Before that nobody
            could beat.
    """

    def __init__(
        self,
        opened: Opened,
        name: str,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        leaving: Callable[[], object] = lambda: None,
    ) -> None:
        self.opened, self.name, self._patience = opened, name, patience
        self._leaving = leaving
        self._clock, self.back, self._away = clock, -math.inf, False
        self._ids: dict[str, int] = {}
        self._trials: Trials = sql_trials(opened.storage) or PlainTrials(
            opened.storage, opened.exclusive
        )
        self._known: dict[tuple[str, int], tuple[FrozenTrial, Row]] = {}
        self._lock = threading.Lock()

    def study_name(self, phase: str) -> str:
        """Return the name of the Optuna study of `phase`."""
        return self.name if phase == SEARCH else f"{self.name}/{phase}"

    def phases(self) -> tuple[str, ...]:
        """Return the phases whose study is known to exist."""
        return tuple(self._ids)

    def find(self, phase: str) -> bool:
        """Tell whether the study of `phase` exists."""
        if phase in self._ids:
            return True
        storage, name = self.opened.storage, self.study_name(phase)
        try:
            self._ids[phase] = self._ask(lambda: storage.get_study_id_from_name(name), name)
        except KeyError:
            return False
        return True

    def create(
        self, phase: str, directions: list[StudyDirection], metric_names: list[str] | None
    ) -> bool:
        """Make the study of `phase` unless it exists; tell whether it was made here."""
        if self.find(phase):
            return False
        storage, name = self.opened.storage, self.study_name(phase)
        try:
            made = self._ask(lambda: storage.create_new_study(directions, name), name)
        except DuplicatedStudyError:
            self.find(phase)
            return False
        self._ids[phase] = made
        if metric_names:
            self._ask(
                lambda: storage.set_study_system_attr(made, _METRIC_NAMES, metric_names), name
            )
        return True

    def directions(self) -> list[StudyDirection]:
        """Return the directions of the search study."""
        return self._ask(
            lambda: self.opened.storage.get_study_directions(self._ids[SEARCH]), "directions"
        )

    def metric_names(self) -> list[str]:
        """Return the names of the objectives as dashboards read them, empty when unknown."""
        storage, study = self.opened.storage, self._ids[SEARCH]
        stored = self._ask(lambda: storage.get_study_system_attrs(study), "attributes")
        return list(stored.get(_METRIC_NAMES, ()))

    def names(self) -> list[str]:
        """Return the names of all studies of the storage, families counted once."""
        studies = self._ask(self.opened.storage.get_all_studies, "the names of the studies")
        return sorted({study.study_name.split("/")[0] for study in studies})

    def read(
        self, phase: str, patience: float | None = None
    ) -> tuple[list[Row], list[FrozenTrial]]:
        """Return the rows of `phase` in order of number, and all its trials."""
        if not self.find(phase):
            return [], []
        trials = self._ask(
            lambda: self._trials.all(self._ids[phase]),
            f"reading {self.study_name(phase)}",
            patience,
        )
        with self._lock:
            rows = [self._row(phase, trial) for trial in trials]
        return [row for row in rows if row is not None], trials

    def add(self, phase: str, trial: FrozenTrial) -> int:
        """Write `trial` in one transaction and return its id.

        An answer may be lost after the row was written; so before a second try the row is looked
        for by its claim.
        """
        study, token = self._ids[phase], trial.user_attrs["claim"]
        tried = False
        self.opened.check_fit(trial.user_attrs | trial.system_attrs)

        def write() -> int:
            nonlocal tried
            if tried:
                for old in self._trials.all(study):
                    if old.user_attrs.get("claim") == token:
                        return old._trial_id
            tried = True
            return self._trials.add(study, trial)

        return self._ask(write, "a new row")

    def number_of(self, trial_id: int) -> int:
        """Return the number of the row that the storage calls `trial_id`."""
        return self._ask(lambda: self.opened.storage.get_trial(trial_id).number, "reading a row")

    def end(
        self,
        trial_id: int,
        outcome: Outcome,
        token: str,
        *,
        own: bool,
        patience: float | None = None,
    ) -> bool:
        """End a running row and return True; False when another worker had ended it already.

        Args:
            trial_id: The row.
            outcome: What is written.
            token: Random mark of whoever ends it.
            own: The caller runs the row, rather than taking it away from another.
            patience: Other than that of the family, in seconds.
        """
        limits = codec.constraints_of(outcome)
        end = End(
            state=codec.state_of(outcome),
            values=getattr(outcome, "values", None),
            name=codec.OUTCOME if own else codec.TAKEN,
            attr=codec.outcome_attr(outcome, token),
            system_attrs={} if limits is None else {codec.CONSTRAINTS: limits},
        )
        self.opened.check_fit({end.name: end.attr, **end.system_attrs})
        try:
            self._ask(lambda: self._trials.end(trial_id, end), "ending a row", patience)
        except UpdateFinishedTrialError:
            # Also what the second try says when only the answer to the first one was lost.
            storage = self.opened.storage
            trial = self._ask(lambda: storage.get_trial(trial_id), "reading a row")
            return trial.state == end.state and codec.ending(trial).get("claim") == token
        return True

    def beat(self, trial_id: int, content: Mapping[str, Any]) -> None:
        """Write a beat; not tried again here.

        Raises:
            UpdateFinishedTrialError: The row was ended by another worker.
        """
        storage = self.opened.storage
        self._noting(lambda: storage.set_trial_user_attr(trial_id, codec.BEAT, dict(content)))()

    def attrs(self, phase: str, patience: float | None = None) -> dict[str, Any]:
        """Return the attributes of the study of `phase`, empty when there is none."""
        if not self.find(phase):
            return {}
        storage, study = self.opened.storage, self._ids[phase]
        read = self._ask(lambda: storage.get_study_user_attrs(study), "attributes", patience)
        return joined(read)

    def set_attr(self, phase: str, name: str, value: Any) -> None:
        """Set one attribute of the study of `phase`, of any length."""
        storage, study = self.opened.storage, self._ids[phase]
        for key, part in in_chunks(name, value):
            self._ask(partial(storage.set_study_user_attr, study, key, part), f"attribute {name}")

    def optuna_study(self, phase: str) -> Study:
        """Return the Optuna study of `phase`, for reading."""
        return Study(study_name=self.study_name(phase), storage=self.opened.storage)

    def _row(self, phase: str, trial: FrozenTrial) -> Row | None:
        old, row = self._known.get((phase, trial.number), (None, None))
        if old is not None and row is not None:
            if old is trial or old.state.is_finished():
                return row
            if old.state is trial.state and old.params is trial.params:
                row = codec.beaten(row, trial)
            else:
                row = codec.read_row(phase, trial)
        else:
            row = codec.read_row(phase, trial)
        if row is not None:
            self._known[(phase, trial.number)] = trial, row
        return row

    def _ask(self, do: Callable[[], T], what: str, patience: float | None = None) -> T:
        patience = self._patience if patience is None else patience
        return self.opened.patiently(self._noting(do), what, patience, self._leaving)

    def _noting(self, do: Callable[[], T]) -> Callable[[], T]:
        """Return `do` that notes when the storage is back after it failed or was silent."""

        def noted() -> T:
            begun = self._clock()
            try:
                answer = do()
            except PASSING:
                self._away = True
                raise
            if self._away or self._clock() - begun >= _SILENT:
                self._away, self.back = False, self._clock()
            return answer

        return noted


def study_names(url: str) -> list[str]:
    """Return the names of the studies in a storage, families counted once.

    Raises:
        StorageError: The storage cannot be reached or read.
    """
    opened = open_storage(url, must_exist=True)
    try:
        return Family(opened, "", 30.0).names()
    finally:
        opened.close()
