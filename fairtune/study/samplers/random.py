"""Independent uniform draws."""

from __future__ import annotations

from typing import ClassVar

from optuna.samplers import BaseSampler, RandomSampler

from fairtune.config import Config
from fairtune.study.samplers import SAMPLERS


@SAMPLERS.register("random")
class Random(Config):
    """Each parameter uniform over its range (log-uniform on a log scale), independent of all."""

    conditional: ClassVar[bool] = True
    several: ClassVar[bool] = True

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""
        return RandomSampler(seed=seed)
