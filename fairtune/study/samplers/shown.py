"""Showing trials to Optuna's samplers in the form in which they learn from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairtune.config.dimensions import Dimension
from fairtune.errors import ConfigError
from fairtune.study.distributions import from_optuna
from fairtune.study.overlay import Overlay
from fairtune.study.standing import learnable, standings


class Marks(Protocol):
    """Gives what a sampler expects to have noted beside a trial."""

    def __call__(self, index: int) -> Mapping[str, Any]:
        """Return the system attributes of the `index`-th finished trial."""


def no_marks(index: int) -> Mapping[str, Any]:
    """Return no system attributes."""
    return {}


class Shown(BaseSampler):
    """Another sampler, for one draw, that sees a copy of the study.

    In the copy every finished trial that tells something is complete, and its value is its
    standing, so that pruned trials are learned from; running trials are as they are. What the
    sampler notes for itself is forgotten with the copy: it is made from the trials each time.

    Args:
        inner: Draws points of the joint space; one objective.
        name: Of the sampler, for messages.
        seed: Of parameters that `inner` leaves open.
        marks: What `inner` expects beside a finished trial.
    """

    def __init__(self, inner: BaseSampler, name: str, seed: int, marks: Marks = no_marks) -> None:
        self._inner, self._name, self._marks = inner, name, marks
        self._uniform = RandomSampler(seed=seed)
        self._copy: tuple[Study, FrozenTrial] | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what the other sampler draws jointly."""
        return self._inner.infer_relative_search_space(*self._of(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what the other sampler draws."""
        return self._inner.sample_relative(*self._of(study, trial), search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a uniform value."""
        return self._uniform.sample_independent(study, trial, param_name, param_distribution)

    def _of(self, study: Study, trial: FrozenTrial) -> tuple[Study, FrozenTrial]:
        if self._copy is None:
            direction = one_direction(study, self._name)
            trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
            known = learnable(trials)
            shown = [
                _complete(t, value, self._marks(index))
                for index, (t, value) in enumerate(zip(known, standings(known, direction)))
            ]
            running = [t for t in trials if t.state is TrialState.RUNNING]
            overlay = Overlay([*shown, *running], [StudyDirection.MAXIMIZE])
            copied = Study(study_name="", storage=overlay, sampler=self._inner)
            self._copy = copied, overlay.fake
        return self._copy


def one_direction(study: Study, name: str) -> StudyDirection:
    """Return the direction of the one objective.

    Raises:
        ConfigError: The study has several objectives.
    """
    if len(study.directions) != 1:
        raise ConfigError(
            f"sampler {name} takes one objective",
            where="sampler",
            found=f"{len(study.directions)} objectives",
            todo="write sampler: tpe",
        )
    return study.directions[0]


def _complete(trial: FrozenTrial, value: float, marks: Mapping[str, Any]) -> FrozenTrial:
    made = create_trial(
        state=TrialState.COMPLETE,
        value=float(value),
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=dict(marks),
    )
    made.number, made._trial_id = trial.number, trial._trial_id
    return made


def all_dimensions(study: Study) -> dict[str, Dimension]:
    """Return every parameter that some trial had."""
    found = {
        name: distribution
        for trial in study.get_trials(deepcopy=False)
        for name, distribution in trial.distributions.items()
    }
    return {name: from_optuna(distribution) for name, distribution in found.items()}
