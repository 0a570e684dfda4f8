"""One recipe as a person writes it: a YAML file, without a space to search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pydantic

from fairtune.config import Config, parse
from fairtune.config.model import Source, carried
from fairtune.config.yaml12 import read
from fairtune.errors import ConfigError, FairtuneError, did_you_mean, raise_all
from fairtune.evaluation.objectives import Objective
from fairtune.experiment.judge import Judge, Validation, compared_by
from fairtune.training.recipe import Recipe

SUFFIXES = (".yaml", ".yml")
_OF_STUDIES = ("space", "budget", "baselines", "sampler", "pruner", "confirm", "select")


class _File(Config):
    """A recipe, and by what its run is judged; a name is for people.

    Attributes:
        name: Anything.
        recipe: As in a study file.
        objectives: As in a study file; the run to deploy is the median of the first.
        validation: As in a study file, without folds: they are for trials of a search.
    """

    name: str = ""
    recipe: dict[str, Any]
    objectives: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    validation: Validation = Validation()

    @pydantic.model_validator(mode="after")
    def _official(self) -> _File:
        for field in ("folds", "confirm_part"):
            if getattr(self.validation, field) != Validation.model_fields[field].default:
                error = ConfigError(
                    "a recipe that is run as it is has the official split alone",
                    found={field: getattr(self.validation, field)},
                    todo="leave it out",
                )
                raise carried(error, "validation", field)
        return self


def read_recipe(path: Path) -> tuple[Recipe, Judge]:
    """Return the recipe of a YAML file, and by what its run is judged.

    Raises:
        FairtuneError: Everything that is wrong with the file, each with line and column.
    """
    document = read(path)
    source, data = Source(document), document.data
    if isinstance(data, dict) and (searched := [key for key in _OF_STUDIES if key in data]):
        raise ConfigError(
            "this is a study file: its recipe is searched first",
            where=source.where(searched[0]),
            allowed="the keys name, recipe, objectives, validation",
            todo=f"fairtune search {path.name}, then fairtune finetune --study NAME",
        )
    file = parse(_File, data, source)
    recipe = parse(Recipe, file.recipe, source.at("recipe"))
    objectives: list[Objective] = []
    problems: list[FairtuneError] = []
    for i, text in enumerate(file.objectives):
        try:
            objectives.append(_objective(text, recipe.data.attributes))
        except FairtuneError as error:
            error.where = source.where("objectives", i)
            problems.append(error)
    raise_all(source.title(), problems)
    judge = Judge(tuple(objectives), file.validation)
    return recipe.attributed(compared_by(judge.objectives)), judge


def _objective(text: str, known: tuple[str, ...]) -> Objective:
    found = Objective.parse(text)
    for name in (found.attribute or "").split("*"):
        if name and name not in known:
            raise ConfigError(
                "the attribute of objectives is not among recipe.data.attributes",
                found=name,
                allowed=list(known),
                todo=did_you_mean(name, known),
            )
    return found
