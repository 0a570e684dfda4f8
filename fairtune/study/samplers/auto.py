"""The sampler that this project would take."""

from __future__ import annotations

from typing import Any, ClassVar

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from fairtune.config import Config
from fairtune.study.linear.switches import numbered
from fairtune.study.samplers import SAMPLERS
from fairtune.study.samplers.blr_ts import BlrTs
from fairtune.study.samplers.shown import all_dimensions
from fairtune.study.samplers.tpe import Tpe

SWITCHES = 12
"""Switches of a mask, or scores of them (`topk`), from which `blr_ts` draws."""


@SAMPLERS.register("auto")
class Auto(Config):
    """`blr_ts` where 12 or more switches of a mask have a parameter each, else `tpe`.

    Both as by default.
    """

    conditional: ClassVar[bool] = True
    several: ClassVar[bool] = True

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""
        return Chosen(seed)


class Chosen(BaseSampler):
    """The sampler of one draw; see `Auto`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inner: BaseSampler | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what the chosen sampler draws jointly."""
        return self._chosen(study).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what the chosen sampler draws."""
        return self._chosen(study).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return what the chosen sampler draws for a parameter by itself."""
        inner = self._chosen(study)
        return inner.sample_independent(study, trial, param_name, param_distribution)

    def _chosen(self, study: Study) -> BaseSampler:
        if self._inner is None:
            few = len(numbered(all_dimensions(study))) < SWITCHES
            self._inner = (Tpe() if few else BlrTs()).build(self._seed)
        return self._inner
