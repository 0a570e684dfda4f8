"""The study file: read, overridden, validated whole, every fault at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from fairtune.config import Config, parse, shipped
from fairtune.config.model import Source
from fairtune.config.overrides import apply
from fairtune.config.yaml12 import Located, read
from fairtune.errors import ConfigError, FairtuneError, did_you_mean, raise_all
from fairtune.experiment.judge import Judge, Validation, compared_by
from fairtune.study import checks, judged
from fairtune.study.baselines import baseline_faults, default_for
from fairtune.study.budget import Budget
from fairtune.study.edit_checks import edit_faults
from fairtune.study.fidelity import Fidelity, fidelity_field, level_faults
from fairtune.study.fields import USAGE
from fairtune.study.form import Form
from fairtune.study.pruners import PRUNERS, Pruner
from fairtune.study.samplers import SAMPLERS
from fairtune.study.selection import known_rule
from fairtune.study.space import Space
from fairtune.study.usages import usage_faults, with_usage
from fairtune.study.written import compile_space
from fairtune.training.recipe import Recipe

__all__ = [
    "Baselines",
    "Budget",
    "Confirm",
    "StudyFile",
    "build_study",
    "load_study",
]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MOST = 4
"""Objectives of a study."""


class Confirm(Config):
    """Which recipes are run again with fresh seeds.

    Attributes:
        top: Recipes of the search with the best shrunken means; 0 switches confirm off.
        seeds: Fresh seeds for each of them and for each baseline.
    """

    top: Annotated[int, pydantic.Field(ge=0)] = 5
    seeds: Annotated[int, pydantic.Field(ge=1)] = 4


class Baselines(Config):
    """Reference masks, each with its own search of the learning rate.

    Attributes:
        of: Named masks, mask rules, `zero_shot`; those that go with the usage if not given.
        lr_points: Learning rates (L2 penalties for the linear readout) tried for each.
        control: `random` runs as many random points of the space as the search has trials; the
            best of them is confirmed and tested beside the winner. Not part of the budget.
    """

    of: tuple[str, ...] = ()
    lr_points: Annotated[int, pydantic.Field(ge=1)] = 6
    control: Literal["random"] | None = None


class _File(Config):
    """The plain part of a study file; `recipe` and `space` are read by their own rooms."""

    name: Annotated[str, pydantic.Field(pattern=NAME)]
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    recipe: dict[str, Any]
    space: dict[str, Any] = pydantic.Field(default_factory=dict)
    objectives: Annotated[tuple[str, ...], pydantic.Field(min_length=1, max_length=MOST)]
    search: Any = "pareto"
    constraints: tuple[str, ...] = ()
    baselines: Baselines | tuple[str, ...] = Baselines()
    validation: Validation = Validation()
    budget: Budget
    sampler: Annotated[Any, SAMPLERS.field()] = pydantic.Field("auto", validate_default=True)
    pruner: Annotated[Any, PRUNERS.field()] = pydantic.Field("asha", validate_default=True)
    confirm: Confirm = Confirm()
    select: Annotated[str, pydantic.AfterValidator(known_rule)] = "best"
    fidelity: Annotated[Fidelity, pydantic.BeforeValidator(fidelity_field)] = Fidelity()


@dataclass(frozen=True, eq=False)
class StudyFile:
    """A validated study.

    Attributes:
        name: Name of the study.
        seed: Seed that every other seed follows from.
        recipe: Fixed part, with defaults filled in.
        space: Searched part.
        judge: Objectives, constraints and validation block.
        form: How sampler and pruner see several objectives.
        baselines: Reference masks.
        budget: What the search may spend.
        sampler: Member of the sampler registry.
        pruner: Member of the pruner registry.
        confirm: What is run again.
        select: Selection rule.
        source: The document, for messages.
        fidelity: Levels that trials rise through.
    """

    name: str
    seed: int
    recipe: Recipe
    space: Space
    judge: Judge
    form: Form
    baselines: Baselines
    budget: Budget
    sampler: Config
    pruner: Config
    confirm: Confirm
    select: str
    source: Source
    fidelity: Fidelity = field(default_factory=Fidelity)

    @property
    def judging(self) -> Pruner:
        """The pruner, as it judges trials of this fidelity."""
        return self.fidelity.judging(self.pruner)  # type: ignore[arg-type]


def load_study(path: str, words: Sequence[str] = (), name: str | None = None) -> StudyFile:
    """Read a study from a file, or a shipped one by name, with overrides applied.

    Args:
        path: A file, or the name of a shipped study such as `quickstart`.
        words: Overrides, `recipe.optim.epochs=4`.
        name: Takes the place of the file's name.

    Raises:
        FairtuneError: Everything that is wrong with it, each with line and column.
    """
    document = apply(read(_find(path)), words)
    if name is not None:
        document.data["name"] = name
    return build_study(document)


def build_study(document: Located) -> StudyFile:
    """Validate a document whole.

    Raises:
        FairtuneError: All faults at once.
    """
    source = Source(document)
    data = document.data
    if not isinstance(data, dict):
        raise ConfigError("a study file is a mapping", where=source.where(), found=data)
    problems: list[FairtuneError] = []
    file = _caught(lambda: parse(_File, data, source), problems)
    fixed, searched = data.get("recipe"), data.get("space", {})
    recipe, space = None, Space()
    if isinstance(searched, dict):
        space, faults = compile_space(searched, source.at("space"))
        problems += faults
    if isinstance(fixed, dict):
        problems += checks.pinned(fixed, source)
        whole = with_usage(fixed, space)
        recipe = _caught(lambda: parse(Recipe, whole, source.at("recipe")), problems)
    if isinstance(searched, dict):
        problems += checks.twice(fixed if isinstance(fixed, dict) else {}, searched, source)
        problems += checks.methods(recipe, searched, source)
        problems += usage_faults(recipe, space, source)
    read = judged.read(data, source, problems)
    # Where the searched usage cannot be read, nothing is known of what goes with it.
    unread = isinstance(searched, dict) and USAGE in searched and space.get(USAGE) is None
    known = None if unread else recipe
    names = _names(file, known)
    usage = None if known is None else known.usage
    problems += baseline_faults(names, usage, _inner(file), source)
    problems += judged.faults(read, recipe, None if file is None else names, source)
    asked = compared_by(read.objectives)
    problems += checks.mitigation_faults(recipe, space, asked, source)
    problems += edit_faults(recipe, space, asked, source)
    if known is not None and isinstance(searched, dict):
        problems += checks.sense(known, searched, names, source)
    if file is not None:
        problems += judged.unfit_sampler(file.sampler, read, source)
        if recipe is not None:
            problems += level_faults(file.fidelity, recipe, file.pruner, source)
    raise_all(f"{document.name}", problems)
    assert file is not None
    assert recipe is not None
    baselines = file.baselines
    if not isinstance(baselines, Baselines):
        baselines = Baselines(of=baselines)
    baselines = baselines.model_copy(update={"of": names})
    return StudyFile(
        file.name,
        file.seed,
        recipe.attributed(asked),
        space,
        Judge(read.objectives, file.validation, constraints=read.constraints, seed=file.seed),
        read.form,
        baselines,
        file.budget,
        file.sampler,
        file.pruner,
        file.confirm,
        file.select,
        source,
        file.fidelity,
    )


def _names(file: _File | None, recipe: Recipe | None) -> tuple[str, ...]:
    """Return the baselines that the file names, else those that go with the usage."""
    if file is None:
        return ()
    if not isinstance(file.baselines, Baselines):
        return file.baselines
    if "of" in file.baselines.model_fields_set:
        return file.baselines.of
    return () if recipe is None else default_for(recipe.usage)


def _inner(file: _File | None) -> tuple[str, ...]:
    """Return the place of the list of baselines."""
    nested = file is not None and isinstance(file.baselines, Baselines)
    return ("baselines", "of") if nested else ("baselines",)


def _find(path: str) -> Path:
    file = Path(path).expanduser()
    if file.suffix in (".yaml", ".yml"):
        if file.is_file():
            return file
        inside = shipped.root("studies") / file.name
        if file.parent == Path("studies") and inside.is_file():
            return inside
        raise ConfigError("no such study file", where=file, found=path)
    known = sorted(p.stem for p in shipped.root("studies").glob("*.yaml"))
    if path in known:
        return shipped.root("studies") / f"{path}.yaml"
    raise ConfigError(
        "no such study file",
        found=path,
        allowed=["a path to a .yaml file", *known],
        todo=did_you_mean(path, known),
    )


def _caught(make: Any, problems: list[FairtuneError]) -> Any:
    try:
        return make()
    except FairtuneError as error:
        problems.extend(getattr(error, "problems", [error]))
        return None
