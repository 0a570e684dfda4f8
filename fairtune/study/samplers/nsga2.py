"""Genetic algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from optuna.samplers import BaseSampler, NSGAIISampler
from pydantic import Field

from fairtune.config import Config
from fairtune.study.samplers import SAMPLERS
from fairtune.study.samplers.shown import Shown


@SAMPLERS.register("nsga2")
class Nsga2(Config):
    """Elitist genetic algorithm with uniform crossover, as Optuna has it.

    Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II". Deviation: a
    generation is so many finished trials in order of number, whoever proposed them, instead of
    what is noted beside each trial; baselines of the search and repeated runs are then part of
    the population. The values are standings, one per objective, so pruned trials count, as
    worse ones, and trials that violate constraints stand behind the others in each.

    Attributes:
        population: Trials of a generation. More than 20 would leave too few generations for the
            budgets of such studies.
    """

    conditional: ClassVar[bool] = True
    several: ClassVar[bool] = True

    population: int = Field(default=20, ge=2, le=20)

    def build(self, seed: int) -> BaseSampler:
        """Return the Optuna sampler of one draw."""
        inner = NSGAIISampler(
            population_size=self.population,
            mutation=None,
            mutation_prob=None,
            crossover=None,
            crossover_prob=0.9,
            swapping_prob=0.5,
            seed=seed,
        )
        key = inner._get_generation_key()

        def generation(index: int) -> Mapping[str, Any]:
            return {key: index // self.population}

        return Shown(inner, seed, generation, several=True)
