"""The study file: read, overridden, validated whole, every fault at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from fairtune.adaptation.placement import DIRECT, METHOD, Methods
from fairtune.adaptation.rules import Rule
from fairtune.config import Config, parse, shipped
from fairtune.config.model import Source
from fairtune.config.overrides import apply
from fairtune.config.yaml12 import Located, read
from fairtune.errors import ConfigError, FairtuneError, did_you_mean, raise_all
from fairtune.evaluation.objectives import Objective
from fairtune.experiment.judge import Judge, Validation
from fairtune.study.fidelity import Fidelity, fidelity_field, level_faults
from fairtune.study.fields import MASK, PINNED, parts_of
from fairtune.study.pruners import PRUNERS, Pruner
from fairtune.study.samplers import SAMPLERS
from fairtune.study.space import Space
from fairtune.study.written import compile_space
from fairtune.training.recipe import LATER as NOT_YET
from fairtune.training.recipe import Recipe

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
RULES_LATER = ("minimax", "dto", "es", "constraint", "1se", "knee")
BASELINES = ("fullft", "linear_readout", "norm:all", "attn:all", "block:last-3")


class Budget(Config):
    """How much a search may spend.

    Attributes:
        trials: Trials in all, over every worker and every resume; baselines, confirm runs and
            retries are not counted.
        minutes: Wall time after which no further trial of the search starts.
    """

    trials: Annotated[int, pydantic.Field(ge=1)]
    minutes: Annotated[float, pydantic.Field(gt=0)] | None = None


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
        of: Named masks or mask rules.
        lr_points: Learning rates (L2 penalties for the linear readout) tried for each.
    """

    of: tuple[str, ...] = BASELINES
    lr_points: Annotated[int, pydantic.Field(ge=1)] = 6


class _File(Config):
    """The plain part of a study file; `recipe` and `space` are read by their own rooms."""

    name: Annotated[str, pydantic.Field(pattern=NAME)]
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    recipe: dict[str, Any]
    space: dict[str, Any] = pydantic.Field(default_factory=dict)
    objectives: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    baselines: Baselines | tuple[str, ...] = Baselines()
    validation: Validation = Validation()
    budget: Budget
    sampler: Annotated[Any, SAMPLERS.field()] = pydantic.Field("auto", validate_default=True)
    pruner: Annotated[Any, PRUNERS.field()] = pydantic.Field("asha", validate_default=True)
    confirm: Confirm = Confirm()
    select: Literal["best"] = "best"
    fidelity: Annotated[Fidelity, pydantic.BeforeValidator(fidelity_field)] = Fidelity()


@dataclass(frozen=True, eq=False)
class StudyFile:
    """A validated study.

    Attributes:
        name: Name of the study.
        seed: Seed that every other seed follows from.
        recipe: Fixed part, with defaults filled in.
        space: Searched part.
        judge: Objectives and validation block.
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


LATER = {"constraints": None, "select": RULES_LATER}
"""Keys, and values, of later capabilities."""


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
    problems: list[FairtuneError] = list(_refuse_later(data, source))
    plain = {key: value for key, value in data.items() if key not in LATER or key == "select"}
    file = _caught(lambda: parse(_File, plain, source), problems)
    fixed = data.get("recipe")
    recipe = None
    if isinstance(fixed, dict):
        problems += _pinned(fixed, source)
        now = {key: value for key, value in fixed.items() if key not in NOT_YET}
        recipe = _caught(lambda: parse(Recipe, now, source.at("recipe")), problems)
    searched = data.get("space", {})
    space = Space()
    if isinstance(searched, dict):
        space, faults = compile_space(searched, source.at("space"))
        problems += faults
        problems += _twice(fixed if isinstance(fixed, dict) else {}, searched, source)
        problems += _methods(recipe, searched, source)
    objectives = _objectives(data, source, problems)
    problems += _baseline_faults(file, source)
    problems += _only_disparities(objectives, source)
    if recipe is not None:
        problems += _attributes(recipe, objectives, source)
        if file is not None:
            problems += level_faults(file.fidelity, recipe, file.pruner, source)
        if isinstance(searched, dict):
            problems += _sense(recipe, searched, file, source)
    raise_all(f"{document.name}", problems)
    assert file is not None
    assert recipe is not None
    baselines = file.baselines
    if not isinstance(baselines, Baselines):
        baselines = Baselines(of=baselines)
    return StudyFile(
        file.name,
        file.seed,
        recipe,
        space,
        Judge(tuple(objectives), file.validation),
        baselines,
        file.budget,
        file.sampler,
        file.pruner,
        file.confirm,
        file.select,
        source,
        file.fidelity,
    )


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


def _refuse_later(data: dict[str, Any], source: Source) -> list[FairtuneError]:
    found: list[FairtuneError] = []
    if "constraints" in data:
        found.append(_later("constraints", data["constraints"], source.where("constraints")))
    if data.get("select") in RULES_LATER:
        found.append(_later(f"select: {data['select']}", data["select"], source.where("select")))
        data["select"] = "best"
    recipe = data.get("recipe")
    for key in NOT_YET:
        if isinstance(recipe, dict) and key in recipe:
            found.append(_later(f"recipe.{key}", recipe[key], source.where("recipe", key)))
    budget = data.get("budget")
    for key in ("gpu_hours", "until"):
        if isinstance(budget, dict) and key in budget:
            found.append(_later(f"budget.{key}", budget.pop(key), source.where("budget", key)))
    return found


def _later(what: str, value: Any, where: str) -> FairtuneError:
    return ConfigError(
        f"'{what}' is not available in this version", where=where, found=value, todo="remove it"
    )


def _pinned(recipe: dict[str, Any], source: Source) -> list[FairtuneError]:
    out: list[FairtuneError] = []
    for path in PINNED:
        part, name = path.split(".")
        if isinstance(recipe.get(part), dict) and name in recipe[part]:
            where = source.where("recipe", part, name)
            out.append(
                ConfigError("this field is computed, not written", where=where, todo="remove it")
            )
    return out


def _twice(recipe: dict[str, Any], space: dict[str, Any], source: Source) -> list[FairtuneError]:
    out: list[FairtuneError] = []
    for path in space:
        node: Any = recipe
        for part in parts_of(path):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None and path not in NOT_YET:
            out.append(
                ConfigError(
                    "the field stands both in recipe and in space",
                    where=source.where("space", path),
                    found=path,
                    todo="keep one of them",
                )
            )
    return out


def _methods(recipe: Recipe | None, space: dict[str, Any], source: Source) -> list[FairtuneError]:
    typed = [path for path in space if path.startswith(f"{METHOD}.")]
    if not typed:
        return []
    fixed = None if recipe is None else recipe.adaptation.method
    named = fixed is not None and not fixed.by_type and fixed != Methods.parse(DIRECT)
    if METHOD not in space and not named:
        return []
    return [
        ConfigError(
            "a method for the whole mask stands beside methods of unit types",
            where=source.where("space", typed[0]),
            found=[METHOD, *typed],
            todo="keep one of the two",
        )
    ]


def _objectives(
    data: dict[str, Any], source: Source, problems: list[FairtuneError]
) -> list[Objective]:
    texts = data.get("objectives")
    found: list[Objective] = []
    if not isinstance(texts, list) or not texts:
        return found  # the plain part says so
    for i, text in enumerate(texts):
        try:
            found.append(Objective.parse(str(text)))
        except FairtuneError as error:
            error.where = source.where("objectives", i)
            problems.append(error)
    if len(texts) > 1:
        problems.append(_later("several objectives", texts, source.where("objectives", 1)))
    return found


def _baseline_faults(file: _File | None, source: Source) -> list[FairtuneError]:
    if file is None:
        return []
    inner = ("baselines", "of") if isinstance(file.baselines, Baselines) else ("baselines",)
    names = _names(file)
    out: list[FairtuneError] = []
    for i, name in enumerate(names):
        try:
            Rule.parse(name)
        except FairtuneError as error:
            error.where = source.where(*inner, i)
            out.append(error)
    if len(set(names)) != len(names):
        out.append(
            ConfigError("a baseline stands twice", where=source.where(*inner), found=list(names))
        )
    return out


def _sense(
    recipe: Recipe, searched: dict[str, Any], file: _File | None, source: Source
) -> list[FairtuneError]:
    if not searched:
        return [
            ConfigError(
                "the study searches nothing",
                where=source.where("space"),
                todo="name a mask space, e.g. space: {adaptation.mask: auto_peft1}",
            )
        ]
    out: list[FairtuneError] = []
    if "optim.lr" in searched or recipe.optim.lr is not None:
        return out
    todo = "search it: space.optim.lr: {float: [1e-5, 1e-3], log: true}"
    if MASK in searched or not recipe.solved:
        where = source.where("space")
        out.append(
            ConfigError("a mask is trained without a learning rate", where=where, todo=todo)
        )
        return out
    for name in _names(file):
        if str(_rule(name)) != "none":
            out.append(
                ConfigError(
                    "a baseline is trained without a learning rate",
                    where=source.where("baselines"),
                    found=name,
                    todo=f"{todo}, or write baselines: [linear_readout]",
                )
            )
    return out


def _names(file: _File | None) -> tuple[str, ...]:
    if file is None:
        return ()
    return file.baselines.of if isinstance(file.baselines, Baselines) else file.baselines


def _rule(name: str) -> Rule | None:
    try:
        return Rule.parse(name)
    except FairtuneError:
        return None  # said elsewhere


def _attributes(
    recipe: Recipe, objectives: list[Objective], source: Source
) -> list[FairtuneError]:
    known = recipe.data.attributes
    return [
        ConfigError(
            "the objective's attribute is not among recipe.data.attributes",
            where=source.where("objectives", i),
            found=name,
            allowed=list(known),
            todo=did_you_mean(name, known),
        )
        for i, objective in enumerate(objectives)
        for name in (objective.attribute or "").split("*")
        if name and name not in known
    ]


def _only_disparities(objectives: list[Objective], source: Source) -> list[FairtuneError]:
    if not objectives or not all(objective.is_disparity for objective in objectives):
        return []
    return [
        ConfigError(
            "all objectives are disparities: a model that says nothing would win with 0",
            where=source.where("objectives"),
            found=[str(o) for o in objectives],
            todo="use a worst-group objective such as "
            f"worst_auc@{objectives[0].attribute}; disparities join as constraints in a later "
            "version",
        )
    ]
