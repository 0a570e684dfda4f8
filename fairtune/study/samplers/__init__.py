"""Samplers: how the next point of a study's space is chosen."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from optuna.samplers import BaseSampler

from fairtune.config import Config, Registry

SAMPLERS: Registry[Config] = Registry("sampler", "fairtune.study.samplers")


STARTUP = 10
"""Trials after which a search is taken to learn, at the least."""


@runtime_checkable
class Sampler(Protocol):
    """Declaration of a sampler.

    A sampler is made anew for every draw, from a seed that depends on the study's seed, the
    worker and the number of rows: it keeps nothing between draws, so that a resumed study draws
    what an uninterrupted one would have drawn. It learns from the parameters and results of
    trials alone, whoever proposed them: what Optuna's samplers note beside a trial is missing
    from anchors, from runs that are tried again and after a change of sampler.

    Attributes:
        conditional: Whether it takes a space in which some parameters are not in every trial.
        several: Whether it takes several objectives as they are.
    """

    conditional: ClassVar[bool]
    several: ClassVar[bool]

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""


def startup_of(sampler: Config) -> int:
    """Return the finished trials before which `sampler` learns nothing, at least `STARTUP`."""
    own = [getattr(sampler, name, None) or 0 for name in ("startup", "population")]
    return max(STARTUP, *own)
