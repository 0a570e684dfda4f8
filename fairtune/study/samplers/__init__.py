"""Samplers: how the next point of a study's space is chosen."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from optuna.samplers import BaseSampler

from fairtune.config import Config, Registry

SAMPLERS: Registry[Config] = Registry(
    "sampler",
    "fairtune.study.samplers",
    later=("auto", "gp", "cmaes", "nsga2", "blr_ts"),
)


@runtime_checkable
class Sampler(Protocol):
    """Declaration of a sampler.

    A sampler is made anew for every draw, from a seed that depends on the study's seed, the
    worker and the number of rows: it keeps nothing between draws, so that a resumed study draws
    what an uninterrupted one would have drawn.
    """

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""
