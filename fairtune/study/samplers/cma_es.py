"""Covariance matrix adaptation with margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial
from pydantic import Field

from fairtune.config import Config
from fairtune.config.dimensions import Dimension
from fairtune.study.axes import position, size, value_at
from fairtune.study.distributions import from_optuna
from fairtune.study.samplers import SAMPLERS
from fairtune.study.standing import learnable, standings

if TYPE_CHECKING:
    from cmaes import CMAwM

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
_POOL = 64
_ORIGIN = 0

BEHIND = "cmaes:behind"
"""Attribute of a trial: the continuous point that was rounded to it, parameters by name."""


@SAMPLERS.register("cmaes")
class CmaEs(Config):
    """CMA-ES with margin, on positions in [0, 1].

    Hamano et al. 2022, "CMA-ES with margin: lower-bounding marginal probability for mixed-integer
    black-box optimization", by the package `cmaes`. A choice is the place in its list (booleans
    0 and 1), so that masks move with everything else; Optuna's own sampler would draw them at
    random. Optuna also keeps the pickled optimiser in the storage, a megabyte per generation for
    long masks, and code that whoever writes the storage could have run here. Instead the
    generations are replayed from the trials for each draw: so many finished trials in order of
    number are one generation, whoever proposed them. CMA-ES wants to be told the continuous
    point behind a discrete one. It stands beside the trial; where it is missing (runs that others
    proposed, or that are tried again), one is drawn from the distribution of the generation that
    is rounded to the trial. Values are standings, so pruned trials count. Refuses spaces with
    conditional parameters, and several objectives unless `search` makes them one: weights that
    change from draw to draw would replay other generations each time.

    Attributes:
        startup: Finished trials before which points are random; they are the first to be learned
            from.
        population: Trials of a generation; None means 4 + 3 ln(parameters).
    """

    conditional: ClassVar[bool] = False
    several: ClassVar[bool] = False

    startup: int = Field(default=1, ge=1)
    population: int | None = Field(default=None, ge=4)

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""
        return Replayed(self.startup, self.population, seed)


class Replayed(BaseSampler):
    """The sampler of one draw; see `CmaEs`."""

    def __init__(self, startup: int, population: int | None, seed: int) -> None:
        self._startup, self._population, self._seed = startup, population, seed
        self._uniform = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that every finished trial has."""
        known = learnable(study.get_trials(deepcopy=False))
        space = intersection_search_space(known, include_pruned=True)
        return {name: d for name, d in space.items() if not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a point drawn from the distribution to which the trials have led."""
        known = learnable(study.get_trials(deepcopy=False))
        if not search_space or len(known) < self._startup:
            return {}
        space = {name: from_optuna(d) for name, d in search_space.items()}
        axes = _Axes(space)
        optimizer = axes.optimizer(self._population)
        standing = standings(known, study.directions)
        many = optimizer.population_size
        for start in range(0, len(known) - many + 1, many):
            now = slice(start, start + many)
            raw = axes.behind(optimizer, known[now])
            optimizer.tell([(x, -float(y)) for x, y in zip(raw, standing[now])])
        optimizer.reseed_rng(self._seed)
        found, raw = optimizer.ask()
        study._storage.set_trial_system_attr(trial._trial_id, BEHIND, raw.tolist())
        return {
            name: value_at(dimension, float(place))
            for (name, dimension), place in zip(space.items(), found)
        }

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a uniform value."""
        return self._uniform.sample_independent(study, trial, param_name, param_distribution)


class _Axes:
    """A space as a box: one axis per parameter, from 0 to 1."""

    def __init__(self, space: Mapping[str, Dimension]) -> None:
        self._space = space
        sizes = [size(dimension) for dimension in space.values()]
        self._steps = np.array([0.0 if n is None else 1 / (n - 1) for n in sizes])

    def optimizer(self, population: int | None) -> CMAwM:
        from cmaes import CMAwM  # brings scipy.stats, which costs a second

        count = len(self._steps)
        return CMAwM(
            mean=np.full(count, 0.5),
            sigma=1 / 6,
            bounds=np.tile([0.0, 1.0], (count, 1)),
            steps=self._steps,
            n_max_resampling=10 * count,
            seed=_ORIGIN,
            population_size=population,
        )

    def behind(self, optimizer: CMAwM, trials: Sequence[FrozenTrial]) -> list[Vector]:
        """Return the continuous point of each trial of a generation.

        Where it is not known, it is put together axis by axis from draws of the optimiser that
        were rounded to the trial's value, or from the nearest one.
        """
        found = [np.array(t.system_attrs.get(BEHIND, ())) for t in trials]
        missing = [i for i, point in enumerate(found) if len(point) != len(self._steps)]
        if missing:
            optimizer.reseed_rng(_ORIGIN)
            pool = [optimizer.ask() for _ in range(_POOL)]
            rounded, raw = np.array([p for p, _ in pool]), np.array([x for _, x in pool])
            for i in missing:
                found[i] = self._among(rounded, raw, trials[i], i * _POOL // len(trials))
        return found

    def _among(self, rounded: Matrix, raw: Matrix, trial: FrozenTrial, first: int) -> Vector:
        point = np.array([position(d, trial.params[name]) for name, d in self._space.items()])
        # Another order for each trial, so that equal values get different draws.
        order = (np.arange(_POOL) + first) % _POOL
        alike = np.abs(rounded[order] - point) < self._steps / 2
        nearest = np.abs(raw[order] - point).argmin(axis=0)
        chosen = np.where(alike.any(axis=0), alike.argmax(axis=0), nearest)
        return np.where(self._steps > 0, raw[order][chosen, np.arange(len(point))], point)
