"""Showing trials to Optuna's samplers in the form in which they learn from all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairtune.config.dimensions import Dimension
from fairtune.study.distributions import from_optuna
from fairtune.study.overlay import Overlay
from fairtune.study.standing import Vector, along, learnable, standings, towards

# Keeps the weights of a draw apart from its points.
_WEIGHTS = 1


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
        inner: Draws points of the joint space.
        seed: Of parameters that `inner` leaves open, and of weights.
        marks: What `inner` expects beside a finished trial.
        several: Whether `inner` takes one standing per objective; else several objectives are
            shown as one (see `judged`).
    """

    def __init__(
        self, inner: BaseSampler, seed: int, marks: Marks = no_marks, *, several: bool = False
    ) -> None:
        self._inner, self._marks, self._several, self._seed = inner, marks, several, seed
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
            trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
            known = learnable(trials)
            values = self._values(study, known)
            shown = [
                _complete(t, value.tolist(), self._marks(index))
                for index, (t, value) in enumerate(zip(known, values))
            ]
            running = [t for t in trials if t.state is TrialState.RUNNING]
            overlay = Overlay([*shown, *running], [StudyDirection.MAXIMIZE] * values.shape[1])
            copied = Study(study_name="", storage=overlay, sampler=self._inner)
            self._copy = copied, overlay.fake
        return self._copy

    def _values(self, study: Study, known: Sequence[FrozenTrial]) -> Vector:
        """Return `(trials, objectives)` standings."""
        directions = study.directions
        if not self._several or len(directions) == 1:
            return judged(study, known, self._seed).reshape(len(known), 1)
        columns = [standings(known, directions, along(j)) for j in range(len(directions))]
        return np.stack(columns, axis=1)


def judged(study: Study, known: Sequence[FrozenTrial], seed: int) -> Vector:
    """Return `(known,)` standings.

    Several objectives become one as in ParEGO (Knowles 2006, "ParEGO: a hybrid algorithm with
    on-line landscape approximation for expensive multiobjective optimization problems"): weights
    are drawn uniformly from the simplex for each draw, and the number is the augmented Chebyshev
    one. Deviations: objectives in units of their SD instead of their range, which one failed run
    would stretch; weights from the whole simplex instead of a grid.

    Args:
        study: The study, or its copy.
        known: From `learnable`.
        seed: Of the draw.
    """
    directions = study.directions
    if len(directions) == 1:
        return standings(known, directions)
    weights = np.random.default_rng([seed, _WEIGHTS]).dirichlet(np.ones(len(directions)))
    return standings(known, directions, towards(weights.tolist()))


def _complete(
    trial: FrozenTrial, values: Sequence[float], marks: Mapping[str, Any]
) -> FrozenTrial:
    made = create_trial(
        state=TrialState.COMPLETE,
        values=list(values),
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
