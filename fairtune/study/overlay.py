"""Drawing parameters in memory: the sampler works on a trial that exists nowhere yet."""

# ruff: noqa: D102 - Optuna documents what each method of a storage answers.
from __future__ import annotations

import copy
from collections.abc import Callable, Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from fairtune.config.dimensions import Dimension, Scalar
from fairtune.study.distributions import from_optuna, to_optuna

_STUDY = 0


class Drawn:
    """One point of the space, drawn parameter by parameter.

    Attributes:
        trial: The Optuna trial; its `suggest_*` write to memory only.
    """

    def __init__(self, trial: Trial, overlay: Overlay) -> None:
        self.trial, self._overlay = trial, overlay

    def suggest(self, name: str, dimension: Dimension) -> Scalar:
        """Return the value of parameter `name`, drawn at the first call."""
        value: Scalar = self.trial._suggest(name, to_optuna(dimension))
        return value

    @property
    def params(self) -> dict[str, Scalar]:
        """Every parameter drawn so far."""
        return dict(self._overlay.fake.params)

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """The range of every parameter drawn so far."""
        return {k: from_optuna(d) for k, d in self._overlay.fake.distributions.items()}

    @property
    def system_attrs(self) -> dict[str, Any]:
        """What the sampler wrote for itself."""
        return dict(self._overlay.fake.system_attrs)


class Draw:
    """Draws points for the next row of a study; each call draws a new one.

    Args:
        trials: Finished and running trials the sampler may learn from.
        directions: One per objective.
        sampler: Makes the sampler of the n-th draw.
    """

    def __init__(
        self,
        trials: Sequence[FrozenTrial],
        directions: Sequence[StudyDirection],
        sampler: Callable[[int], BaseSampler],
    ) -> None:
        self._trials, self._directions, self._sampler = trials, directions, sampler
        self.count = 0
        self.last: Drawn | None = None

    def __call__(self) -> Drawn:
        """Return a new point of which nothing is drawn yet."""
        overlay = Overlay(self._trials, self._directions)
        study = Study(study_name="", storage=overlay, sampler=self._sampler(self.count))
        self.count += 1
        self.last = Drawn(Trial(study, overlay.fake._trial_id), overlay)
        return self.last


class Overlay(BaseStorage):
    """A study in memory: the trials read last, plus one that is being drawn.

    Optuna's samplers ask a storage and write to it. This one answers from a snapshot and keeps
    what is written to the new trial, so that drawing costs no transaction.
    """

    def __init__(
        self, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
    ) -> None:
        self._trials, self._directions = list(trials), list(directions)
        self._attrs: dict[str, Any] = {}
        self.fake = create_trial(state=TrialState.RUNNING)
        self.fake.number = max((t.number for t in trials), default=-1) + 1
        self.fake._trial_id = max((t._trial_id for t in trials), default=-1) + 1

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = [t for t in [*self._trials, self.fake] if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id == self.fake._trial_id:
            # The caller keeps its own copy and writes back what changes.
            return copy.deepcopy(self.fake)
        return next(t for t in self._trials if t._trial_id == trial_id)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        fake = self._mine(trial_id)
        fake.params[param_name] = distribution.to_external_repr(param_value_internal)
        fake.distributions[param_name] = distribution

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._mine(trial_id).user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._mine(trial_id).system_attrs[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        return _STUDY

    def get_study_name_from_id(self, study_id: int) -> str:
        return ""

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return list(self._directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._attrs)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._attrs[key] = value

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return next(t._trial_id for t in [*self._trials, self.fake] if t.number == trial_number)

    def _mine(self, trial_id: int) -> FrozenTrial:
        if trial_id != self.fake._trial_id:
            raise _read_only("another trial")
        return self.fake

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        raise _read_only("a new study")

    def delete_study(self, study_id: int) -> None:
        raise _read_only("the study")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        raise _read_only("an attribute of the study")

    def get_all_studies(self) -> list[Any]:
        raise _read_only("other studies")

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        raise _read_only("a new trial")

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        raise _read_only("the state of a trial")

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        raise _read_only("an intermediate value")


def _read_only(what: str) -> RuntimeError:
    return RuntimeError(f"a draw has no access to {what}")
