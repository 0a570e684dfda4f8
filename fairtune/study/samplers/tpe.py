"""Tree-structured Parzen estimator."""

from __future__ import annotations

import threading
import warnings
from typing import ClassVar

import optuna
from optuna.samplers import BaseSampler, TPESampler
from pydantic import Field

from fairtune.config import Config
from fairtune.study.samplers import SAMPLERS

# Filters of warnings belong to the process: two threads that swap them would undo each other.
_FILTERS = threading.Lock()


@SAMPLERS.register("tpe")
class Tpe(Config):
    """Multivariate tree-structured Parzen estimator, grouped by conditional branch.

    Bergstra et al. 2011, "Algorithms for hyper-parameter optimization", as Optuna has it. What
    Optuna's default leaves open is pinned, since it differs between versions:
    `multivariate=True` for any number of objectives; `group=True`, for without it one trial that
    has no parameters empties the joint space for good; `constant_liar=False`. Several objectives
    are split by non-domination rank and hypervolume (Ozaki et al. 2022, "Multiobjective
    tree-structured Parzen estimator"); pruned trials then count as worse than complete ones, and
    those that violate constraints as worse still, by how much they do.

    Attributes:
        startup: Finished trials before which points are random.
        candidates: Points from which the one with the best expected improvement is taken.
    """

    conditional: ClassVar[bool] = True
    several: ClassVar[bool] = True

    startup: int = Field(default=10, ge=1)
    candidates: int = Field(default=24, ge=1)

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""
        with _FILTERS, warnings.catch_warnings():
            # `group` is called experimental since 2.8; it is pinned on purpose.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                n_startup_trials=self.startup,
                n_ei_candidates=self.candidates,
                multivariate=True,
                group=True,
                constant_liar=False,
                seed=seed,
            )
