"""What a study file says about by what recipes are judged, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fairtune.config import Config
from fairtune.config.model import Source
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError, FairtuneError, did_you_mean
from fairtune.evaluation.constraints import Constraint
from fairtune.evaluation.objectives import Objective
from fairtune.study.form import Form
from fairtune.study.samplers import SAMPLERS
from fairtune.training.recipe import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Judged:
    """By what a study judges, as far as it could be read.

    Attributes:
        objectives: The primary one first.
        constraints: What a recipe must keep to.
        form: How several objectives are looked for.
        whole: Every objective could be read.
    """

    objectives: tuple[Objective, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    form: Form = field(default_factory=Form)
    whole: bool = False


def read(data: dict[str, Any], source: Source, problems: list[FairtuneError]) -> Judged:
    """Read objectives, constraints and `search`; what cannot be read is added to `problems`."""
    texts = data.get("objectives")
    objectives = _each(Objective.parse, "objectives", data, source, problems)
    whole = isinstance(texts, list) and 0 < len(texts) == len(objectives)
    constraints = _each(Constraint.parse, "constraints", data, source, problems)
    form = Form()
    if whole:
        try:
            form = Form.parse(data.get("search", "pareto"), objectives)
        except FairtuneError as error:
            error.where = source.where("search")
            problems.append(error)
    return Judged(tuple(objectives), tuple(constraints), form, whole)


def faults(
    read: Judged, recipe: Recipe | None, baselines: Sequence[str] | None, source: Source
) -> list[FairtuneError]:
    """Return what is wrong with objectives and constraints beside the rest of the file.

    Args:
        read: From `read`.
        recipe: The fixed part, None where it could not be read.
        baselines: Names of the baselines, None where they could not be read.
        source: The document.
    """
    found: list[FairtuneError] = []
    for key, parts in (("objectives", read.objectives), ("constraints", read.constraints)):
        if len(set(parts)) != len(parts):
            twice = [str(part) for part in parts if parts.count(part) > 1]
            where = source.where(key)
            found.append(ConfigError(f"{key} stand twice", where=where, found=twice))
    found += _first_is_cost(read, source)
    found += _only_disparities(read, source)
    if recipe is not None:
        found += _attributes(read, recipe.data.attributes, source)
    if baselines is not None:
        found += _baselines(read.constraints, baselines, source)
    return found


def unfit_sampler(sampler: Config, read: Judged, source: Source) -> list[FairtuneError]:
    """Return that the sampler takes one objective and the study has several."""
    if len(read.objectives) < 2 or read.form.is_scalar or sampler.several:  # type: ignore[attr-defined]
        return []
    able = [name for name in SAMPLERS if SAMPLERS.get(name).several]  # type: ignore[attr-defined]
    return [
        ConfigError(
            "this sampler takes one objective",
            where=source.where("sampler"),
            found=f"{name_of(sampler)} for {len(read.objectives)} objectives",
            allowed=able,
            todo="choose one of these, or make the objectives one number with 'search'",
        )
    ]


def _each(
    parse: Callable[[str], T],
    key: str,
    data: dict[str, Any],
    source: Source,
    problems: list[FairtuneError],
) -> list[T]:
    texts = data.get(key)
    found: list[T] = []
    if not isinstance(texts, list):
        return found  # absent, or the plain part says so
    for i, text in enumerate(texts):
        try:
            found.append(parse(str(text)))
        except FairtuneError as error:
            error.where = source.where(key, i)
            problems.append(error)
    return found


def _attributes(read: Judged, known: Sequence[str], source: Source) -> list[FairtuneError]:
    named = [("objectives", i, o) for i, o in enumerate(read.objectives)]
    named += [
        ("constraints", i, c.objective) for i, c in enumerate(read.constraints) if c.objective
    ]
    return [
        ConfigError(
            f"the attribute of {key} is not among recipe.data.attributes",
            where=source.where(key, i),
            found=name,
            allowed=list(known),
            todo=did_you_mean(name, known),
        )
        for key, i, objective in named
        for name in (objective.attribute or "").split("*")
        if name and name not in known
    ]


def _baselines(
    constraints: Sequence[Constraint], known: Sequence[str], source: Source
) -> list[FairtuneError]:
    found: list[FairtuneError] = []
    for i, constraint in enumerate(constraints):
        if constraint.relation == "no_harm" and not known:
            found.append(
                ConfigError(
                    "no_harm compares with the best baseline, and the study runs none",
                    where=source.where("constraints", i),
                    found=str(constraint),
                    todo="name baselines, e.g. baselines: [fullft, linear_readout]",
                )
            )
        elif constraint.baseline is not None and constraint.baseline not in known:
            found.append(
                ConfigError(
                    "a constraint relative to a baseline that the study does not run",
                    where=source.where("constraints", i),
                    found=constraint.baseline,
                    allowed=list(known) or "none: the study runs no baselines",
                    todo=did_you_mean(constraint.baseline, known),
                )
            )
    return found


def _first_is_cost(read: Judged, source: Source) -> list[FairtuneError]:
    if not read.objectives or not read.whole:
        return []
    error = no_cost_first(read.objectives)
    if error is None:
        return []
    error.where = source.where("objectives", 0)
    return [error]


def no_cost_first(objectives: Sequence[Objective]) -> ConfigError | None:
    """Return that the objective by which recipes are told apart is a cost, or None."""
    first = objectives[0]
    if not first.is_cost:
        return None
    return ConfigError(
        "the first objective says how well a model does, and this one what it costs",
        found=str(first),
        todo=f"name another one before {first}, or bound it: constraints: ['{first} <= 500']",
    )


def _only_disparities(read: Judged, source: Source) -> list[FairtuneError]:
    if not read.whole or not all(o.is_disparity or o.is_cost for o in read.objectives):
        return []
    if any(constraint.is_utility for constraint in read.constraints):
        return []
    attribute = read.objectives[0].attribute
    return [
        ConfigError(
            "all objectives are disparities or costs: a model that says nothing would win with 0",
            where=source.where("objectives"),
            found=[str(o) for o in read.objectives],
            todo=f"add a utility such as auc or worst_auc@{attribute}, or a constraint on one, "
            "e.g. constraints: ['auc >= baseline[fullft] - 0.01']",
        )
    ]
