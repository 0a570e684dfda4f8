"""How trials are read from a storage and written to it; what they mean is not known here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True)
class End:
    """How a trial ends.

    Attributes:
        state: Its final state.
        values: Its values, if any.
        name, attr: A user attribute, by which it is known who ended the trial and how.
        system_attrs: Further attributes.
    """

    state: TrialState
    values: Sequence[float] | None
    name: str
    attr: Mapping[str, Any]
    system_attrs: Mapping[str, Any]


class Trials(Protocol):
    """The trials of a storage. Used by the ledger's thread and by the one that beats."""

    def all(self, study: int) -> list[FrozenTrial]:
        """Return the trials of a study in order of number; they are not to be changed."""

    def add(self, study: int, trial: FrozenTrial) -> int:
        """Write `trial` in one transaction and return its id."""

    def end(self, trial: int, end: End) -> None:
        """End a running trial.

        Raises:
            UpdateFinishedTrialError: It has ended already.
        """


class PlainTrials:
    """Trials by way of Optuna's own interface, which every storage has.

    Args:
        storage: The storage.
        exclusive: Lets one process at a time change the state of a trial.
    """

    def __init__(
        self,
        storage: BaseStorage,
        exclusive: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._storage, self._exclusive = storage, exclusive

    def all(self, study: int) -> list[FrozenTrial]:
        """Return the trials of a study in order of number; they are not to be changed."""
        return self._storage.get_all_trials(study, deepcopy=False)

    def add(self, study: int, trial: FrozenTrial) -> int:
        """Write `trial` in one transaction and return its id."""
        return self._storage.create_new_trial(study, template_trial=trial)

    def end(self, trial: int, end: End) -> None:
        """End a running trial; attributes first, so that a trial that has ended has them.

        Raises:
            UpdateFinishedTrialError: It has ended already.
        """
        with self._exclusive():
            self._storage.set_trial_user_attr(trial, end.name, dict(end.attr))
            for name, value in end.system_attrs.items():
                self._storage.set_trial_system_attr(trial, name, value)
            self._storage.set_trial_state_values(trial, end.state, end.values)
