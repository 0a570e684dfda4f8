"""Bayesian linear regression with a prior over blocks and types, and Thompson sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field

from fairtune.config import Config
from fairtune.config.dimensions import Scalar
from fairtune.study.distributions import from_optuna
from fairtune.study.linear.features import Features
from fairtune.study.linear.model import Data, Effects, choose, draw
from fairtune.study.linear.switches import Switches
from fairtune.study.samplers import SAMPLERS
from fairtune.study.samplers.shown import judged
from fairtune.study.standing import learnable

_TEMPERATURE = 0.5


@SAMPLERS.register("blr_ts")
class BlrTs(Config):
    """Thompson sampling on a linear model whose prior knows blocks and unit types.

    `y = X b + noise` with mask switches in {-1, 1} and `b ~ N(0, s^2 f/n [a K + (1-a) I])`; K is
    `Switches.covariance`, and `(a, f)` is the pair of {0, .5, .9} x {.3, .6, .85} with the
    highest evidence, chosen anew for each draw: depth structure is used where there is some. A
    point maximises one posterior draw of `b`, its covariance scaled by .25: the mask in closed
    form, other parameters over random candidates.

    Thompson sampling on sparse linear models of binary inputs is Baptista and Poloczek 2018,
    "Bayesian optimization of combinatorial structures" (BOCS). Deviations: main effects without
    interactions, the structured prior in place of a horseshoe, a tempered draw, and other
    parameters in the same model: numbers as z and z^2, choices one-hot, conditional ones with an
    indicator; how much of what is explained is theirs is chosen with `(a, f)`. Pruned trials
    count as `fairtune.study.standing` says; several objectives become one by weights that are
    drawn for each point, as `fairtune.study.samplers.shown.judged` says.

    Attributes:
        startup: Finished trials before which nothing is learned: masks are uniform and signs of
            draws from the prior (a = .9) in turns, everything else is uniform.
    """

    conditional: ClassVar[bool] = True
    several: ClassVar[bool] = True

    startup: int = Field(default=10, ge=2)

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""
        return LinearThompson(self.startup, seed)


class LinearThompson(BaseSampler):
    """The sampler of one draw; see `BlrTs`."""

    def __init__(self, startup: int, seed: int) -> None:
        self._startup, self._seed = startup, seed
        self._rng = np.random.default_rng(seed)
        self._uniform = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return every parameter that some trial had."""
        return {
            name: distribution
            for known in study.get_trials(deepcopy=False)
            for name, distribution in known.distributions.items()
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values of a point; a parameter that it lacks is drawn uniformly."""
        space = {name: from_optuna(d) for name, d in search_space.items()}
        known = learnable(study.get_trials(deepcopy=False))
        if len(known) < self._startup:
            return self._start(Switches.among(space), trial.number)
        standing = judged(study, known, self._seed)
        standing = standing - standing.mean()
        width = standing.std()
        points = [t.params for t in known]
        features = Features.of(space, points)
        data = Data(
            features.mask(points),
            features.rest(points),
            features.weights,
            features.switches.root,
            standing / width if width > 0 else standing,
        )
        effects = draw(data, choose(data), _TEMPERATURE, self._rng)
        options = [
            _best(features, allowed, effects, self._rng) for allowed in features.patterns(points)
        ]
        return max(options, key=lambda option: option.worth).params

    def _start(self, switches: Switches, number: int) -> dict[str, Any]:
        if number % 2 == 0 or not switches.names:
            return {}
        count = len(switches.names)
        shared = switches.root @ self._rng.standard_normal(count)
        effect = np.sqrt(0.9) * shared + np.sqrt(0.1) * self._rng.standard_normal(count)
        return {name: bool(e > 0) for name, e in zip(switches.names, effect)}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a uniform value."""
        return self._uniform.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class _Option:
    params: dict[str, Any]
    worth: float


def _best(
    features: Features,
    allowed: Mapping[str, set[Scalar] | None],
    effects: Effects,
    rng: np.random.Generator,
) -> _Option:
    """Return the point with the parameters of `allowed` that `effects` make the most of."""
    params: dict[str, Any] = {}
    presence = features.presence(allowed)
    worth = float(np.dot(presence, effects.rest[len(effects.rest) - len(presence) :]))
    for name, effect in zip(features.switches.names, effects.mask):
        if name in allowed:
            params[name] = bool(effect > 0)
            worth += abs(float(effect))
    for name, columns in features.slices.items():
        if name not in allowed:
            continue
        limit = allowed[name]
        values = [v for v in features.candidates(name, rng) if limit is None or v in limit]
        gains = features.columns(name, values) @ effects.rest[columns]
        best = int(np.argmax(gains))
        params[name] = values[best]
        worth += float(gains[best])
    return _Option(params, worth)
