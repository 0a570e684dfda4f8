"""Gaussian process."""

from __future__ import annotations

from typing import ClassVar

from optuna.samplers import BaseSampler, GPSampler
from pydantic import Field

from fairtune.config import Config
from fairtune.study.samplers import SAMPLERS
from fairtune.study.samplers.shown import Shown


@SAMPLERS.register("gp")
class Gp(Config):
    """Gaussian process with expected improvement, as Optuna has it.

    Jones et al. 1998, "Efficient global optimization of expensive black-box functions"; Matern
    kernel with a length scale per parameter, fitted anew for each draw with a noise term. Runs of
    other workers count as points whose value is not known yet. The values are standings, so
    pruned trials are learned from. Slow: see the measured seconds of a draw before using it for
    long masks. Several objectives become one as
    `fairtune.study.samplers.shown.judged` says. Refuses spaces with conditional parameters.

    Attributes:
        startup: Finished trials before which points are random.
    """

    conditional: ClassVar[bool] = False
    several: ClassVar[bool] = True

    startup: int = Field(default=10, ge=1)

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw; torch is loaded when it draws."""
        inner = GPSampler(
            seed=seed,
            n_startup_trials=self.startup,
            deterministic_objective=False,
            warn_independent_sampling=False,
        )
        return Shown(inner, seed)
