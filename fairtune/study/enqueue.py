"""`fairtune enqueue`: a point of a study's space that its search tries next."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtune.adaptation.placement import METHOD
from fairtune.config import parse
from fairtune.config.dimensions import Scalar
from fairtune.config.overrides import split
from fairtune.errors import ConfigError, StudyError, did_you_mean
from fairtune.experiment.masks import read_card, read_mask
from fairtune.study import codec
from fairtune.study import identity as identities
from fairtune.study.budget import Budget
from fairtune.study.definition import defined
from fairtune.study.family import Family
from fairtune.study.fields import MASK, parts_of
from fairtune.study.overview import Overview
from fairtune.study.phases import central
from fairtune.study.place import ENDED
from fairtune.study.plan import Plan
from fairtune.study.queued import PREFIX, Point, points_of, waiting
from fairtune.study.rows import RUNS_PER_DIGEST, SEARCH, Row, decide_digest, roots
from fairtune.study.space import Node
from fairtune.training.recipe import Recipe

MIDDLE = "middle of its range"
_LONGEST = 60


@dataclass(frozen=True)
class Wanted:
    """What a person asks for.

    Attributes:
        mask: A recipe.json, a mask rule, or a FairTune `.npy`; None where no mask is searched.
        layout: FairTune tuning method of a `.npy`.
        words: Values of searched fields, `optim.lr=1e-4`.
        label: Its name in tables; None takes it from the mask.
        again: Run it once more, with a new seed, if it was run already.
    """

    mask: str | None = None
    layout: str | None = None
    words: Sequence[str] = ()
    label: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Enqueued:
    """What was stored, in words.

    Attributes:
        point: The point.
        fields: Of every searched field but the mask, its value and where that came from.
        mask: The mask, one character per block.
        before: Points that wait before it.
        notes: What else is to be known.
    """

    point: Point
    fields: Sequence[str]
    mask: str
    before: int
    notes: Sequence[str] = ()


def enqueue(view: Overview, family: Family, wanted: Wanted) -> Enqueued:
    """Store a point that the search tries next, after its anchors.

    Args:
        view: The study.
        family: Its Optuna studies.
        wanted: What a person asks for.

    Raises:
        FairtuneError: The mask cannot be read or does not fit the model, a value is out of its
            range, or the space cannot say the point.
        StudyError: It was run already, or waits already; the study keeps no study file.
    """
    plan = Plan(defined(view.search, view.place.name), view.base, view.units)
    given, sources, card = _given(plan, wanted)
    values = {
        path: given[path] if path in given else central(node, path, plan)
        for path, node in plan.space.nodes
    }
    values = _said(plan, values, sources)
    recipe = plan.recipe(values)
    notes = [] if card is None else _differences(plan, card, recipe)
    rows = view.rows[SEARCH]
    _check_new(recipe, points_of(view.search), rows, again=wanted.again)
    point = Point(
        mark=uuid.uuid4().hex,
        values=values,
        digest=recipe.identity(),
        label=(wanted.label or _name(wanted))[:_LONGEST],
        at=codec.now(),
        again=wanted.again,
    )
    before = len(waiting(points_of(view.search), rows))
    family.set_attr(SEARCH, f"{PREFIX}{point.mark}", point.to_json())
    fields = [
        f"{path} {_short(value)} ({sources.get(path, MIDDLE)})"
        for path, value in values.items()
        if path != MASK
    ]
    mask = plan.mask(recipe).glyph(plan.units)
    return Enqueued(point, fields, mask, before, [*notes, *_ended(view)])


def _given(plan: Plan, wanted: Wanted) -> tuple[dict[str, Any], dict[str, str], Recipe | None]:
    """Return the fields that were given, where each came from, and the recipe, if one was."""
    given: dict[str, Any] = {}
    sources: dict[str, str] = {}
    card, nodes = None, dict(plan.space.nodes)
    if wanted.mask is not None and wanted.mask.endswith(".json"):
        card = parse(Recipe, read_card(wanted.mask)["recipe"]).of_data(fold=None)
        found = {path: value for path in nodes for value in _field(card, path)}
        given |= found
        sources |= dict.fromkeys(found, "recipe.json")
    elif wanted.mask is not None:
        if MASK not in nodes:
            raise ConfigError("this study searches no mask", where="--mask", found=wanted.mask)
        given[MASK] = list(read_mask(wanted.mask, wanted.layout, plan.units).units)
        sources[MASK] = "--mask"
    for word in wanted.words:
        parts, value = split(word)
        path = ".".join(parts)
        if path not in nodes:
            raise ConfigError(
                "this study does not search the field",
                where="--set",
                found=path,
                allowed=", ".join(nodes),
                todo=did_you_mean(path, nodes),
            )
        given[path], sources[path] = value, "--set"
    if MASK in nodes and MASK not in given:
        raise ConfigError("which mask?", where="--mask", todo="give a rule or a file")
    if not given:
        raise ConfigError("which point?", todo="give --mask, or --set FIELD=VALUE")
    return given, sources, card


def _field(recipe: Recipe, path: str) -> list[Any]:
    """Return the value at `path` of a recipe, as a list of one; empty where it says none."""
    node: Any = recipe.to_json()
    parts = parts_of(path)
    if path.startswith(f"{METHOD}.") and not recipe.adaptation.method.by_type:
        parts = METHOD.split(".")  # one method for all types
    for part in parts:
        node = node.get(part) if isinstance(node, dict) else None
    if path == MASK and recipe.head_only:
        return [[]]
    return [] if node is None else [node]


def _said(plan: Plan, values: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """Return the values as the space itself would draw them.

    Raises:
        StudyError: The space cannot say them.
    """
    params: dict[str, Scalar] = {}
    for path, node in plan.space.nodes:
        part = node.encode(path, values[path], plan.units)
        if part is None:
            raise _unsayable(plan, path, node, values[path], sources)
        params |= part
    drawn = plan.space.draw(lambda name, dimension: params[name], plan.units)
    one, other = (plan.recipe(fields).canonical() for fields in (values, drawn))
    for name in identities.differing(one, other):
        raise StudyError(
            "the space cannot say this point: it sets a field that the study fixes",
            where=name,
            todo="give a value that the study file allows",
        )
    return drawn


def _unsayable(
    plan: Plan, path: str, node: Node, value: Any, sources: Mapping[str, str]
) -> StudyError:
    if path == MASK:
        return StudyError(
            "the study's mask space cannot say this mask",
            where=sources.get(path, path),
            allowed=[str(space) for space in plan.space.mask_spaces()] or None,
        )
    ranges: dict[str, Any] = {n: dim.to_json() for n, dim, _ in node.names(path, plan.units)}
    inner = f"{path}."  # what the file fixes inside members has to be said too
    ranges |= {n: value for n, value in plan.space.constants().items() if n.startswith(inner)}
    return StudyError(
        "the study's space has no such value",
        where=f"{path} ({sources.get(path, MIDDLE)})",
        found=value,
        allowed=", ".join(f"{name}: {dim}" for name, dim in ranges.items()),
    )


def _differences(plan: Plan, card: Recipe, recipe: Recipe) -> list[str]:
    """Return in what a recipe.json is not the point: in searched fields it has to be.

    Raises:
        StudyError: A searched field differs, as the space cannot say its value.
    """
    names = identities.differing(card.canonical(), recipe.canonical())
    searched = [path for path, _ in plan.space.nodes]
    lost = [n for n in names if any(n == p or n.startswith(f"{p}.") for p in searched)]
    if lost:
        raise StudyError("the space cannot say this recipe", where="--mask", found=", ".join(lost))
    if not names:
        return []
    return [f"of recipe.json the study keeps its own: {', '.join(names)}"]


def _check_new(
    recipe: Recipe, points: Sequence[Point], rows: Sequence[Row], *, again: bool
) -> None:
    digest = recipe.identity()
    mine = [row for row in rows if row.digest == digest]
    numbers = ", ".join(str(row.number + 1) for row in mine)
    verdict = decide_digest(rows, digest)
    if verdict == "redraw":
        raise StudyError(
            f"the point has {RUNS_PER_DIGEST} runs, was pruned or failed for good",
            found=f"search {numbers}",
            todo="`fairtune retry` tries a failed run again",
        )
    if verdict == "replicate" and not again:
        raise StudyError(
            "the point was run already, or runs",
            found=f"search {numbers}",
            todo="give --again to run it once more with a new seed",
        )
    if not again and any(point.digest == digest for point in waiting(points, rows)):
        raise StudyError("the point waits to be tried already", found=digest[:12])


def _ended(view: Overview) -> list[str]:
    """Return that nothing more is tried, if that is so."""
    trials = Budget.model_validate(view.settings["budget"]).trials
    why = view.settings.get(ENDED)
    if why is None and len(roots(view.rows[SEARCH])) >= trials:
        why = f"budget.trials: {trials} trials"
    if why is None:
        return []
    return [f"the search has ended ({why}): it is tried once `fairtune search` allows more"]


def _name(wanted: Wanted) -> str:
    if wanted.mask is None:
        return "enqueued"
    return Path(wanted.mask).stem if wanted.mask.endswith((".json", ".npy")) else wanted.mask


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
