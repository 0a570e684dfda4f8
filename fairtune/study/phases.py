"""The phases of a study: each a pure function of its rows to the next run.

Every worker computes the same answer from the same rows, so there is no coordinator. A phase
whose turn has not come proposes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fairtune.adaptation.rules import Rule
from fairtune.config import Dimension, Float, Int
from fairtune.config.dimensions import Scalar
from fairtune.errors import ModelError
from fairtune.study.budget import Ending
from fairtune.study.fields import EDIT, MASK, MITIGATIONS
from fairtune.study.overlay import Draw
from fairtune.study.plan import Plan
from fairtune.study.queued import KIND, Point, waiting
from fairtune.study.rank import best_baselines
from fairtune.study.rows import (
    BASELINE,
    CONFIRM,
    CONTROL,
    SEARCH,
    Proposal,
    Row,
    current,
    decide_digest,
    due,
    next_replicate,
    results,
)
from fairtune.study.samplers import startup_of
from fairtune.study.shortlist import best_of_control, shortlist
from fairtune.study.space import Node, middle
from fairtune.training.recipe import Recipe

ANCHORS = (
    "norm:all",
    "attn:all",
    "mlp:all",
    "block:all",
    "none",
    "block:last-3",
    "block:last-6",
    "block:first-6",
)
"""Well-known masks that a search starts with, where its space can say them.

In a network of several towers those of all towers together, then those of each alone.
"""

ANCHOR_SHARE = 0.25
REDRAWS = 20
ADDED, NOTHING = (MITIGATIONS, EDIT), "none"
"""What is added to plain training, and the choice that adds nothing."""

LABEL = "label"
MIDDLE = "middle"
"""Label of the anchor at the middle of every range, where no mask is searched."""


@dataclass(eq=False)
class BaselinePhase:
    """Reference masks at every point of their own learning-rate search; never pruned."""

    plan: Plan
    name: str = BASELINE

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Draw) -> Proposal | None:
        """Return the first run of the list that no row stands for."""
        return first_missing(self.proposals(), rows.get(BASELINE, ()))

    def budget(self) -> int | None:
        """No limit: the list is finite."""
        return None

    def done(self, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Tell whether every run of the list has ended."""
        return all_ended(self.proposals(), rows.get(BASELINE, ()))

    def proposals(self) -> Iterator[Proposal]:
        """Yield every run: for each point, each baseline, so that a partial list is even."""
        study = self.plan.study
        names = study.baselines.of
        points = {name: self.plan.baseline_points(name) for name in names}
        for i in range(max((len(p) for p in points.values()), default=0)):
            for name in names:
                if i < len(points[name]):
                    recipe = self.plan.baseline(name, points[name][i])
                    yield self.plan.proposal(
                        BASELINE,
                        recipe,
                        stream=BASELINE,
                        attrs={LABEL: name, "point": points[name][i]},
                    )


@dataclass(eq=False)
class SearchPhase:
    """Anchors first, then what people enqueued, then what the sampler draws.

    Attributes:
        plan: The study.
        before: Has to be done first.
        queue: Reads the points that people want tried, those from before among them.
        name: Of the phase.
    """

    plan: Plan
    before: BaselinePhase
    queue: Callable[[], Sequence[Point]] = tuple
    name: str = SEARCH

    def __post_init__(self) -> None:
        study = self.plan.study
        signs = [objective.sign for objective in study.judge.objectives]
        self._ending = Ending.of(study.budget, signs, startup_of(study.sampler))

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Draw) -> Proposal | None:
        """Return an anchor, an enqueued point, a new one, or a replicate of one drawn again."""
        if not self.before.done(rows):
            return None
        mine = rows.get(SEARCH, ())
        if self.ended(mine) is not None:
            return None
        known = {row.digest for row in current(mine).values()}
        for anchor in self.anchors():
            if anchor.digest not in known:
                return anchor
        for wanted in waiting(self.queue(), mine):
            return self._enqueued(wanted, mine)
        return self._drawn(mine, draw)

    def budget(self) -> int | None:
        """Return the number of trials."""
        return self.plan.study.budget.trials

    def ended(self, mine: Sequence[Row]) -> str | None:
        """Return why no further trial starts, or None while one may."""
        return self._ending.reason(mine)

    def done(self, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Tell whether nothing more is to be run."""
        mine = rows.get(SEARCH, ())
        running = any(row.state == "running" for row in mine)
        waiting = bool(due(mine)) and self._ending.late(mine) is None
        ended = self.ended(mine) is not None
        return self.before.done(rows) and ended and not running and not waiting

    def anchors(self) -> list[Proposal]:
        """Return the anchors this space can express, at most a quarter of the budget.

        Where mitigations or edits are searched, the first one has none of them, if it may.
        """
        space, trials = self.plan.space, self.plan.study.budget.trials
        rules: Sequence[str | None] = (None,) if space.get(MASK) is None else self._rules()
        found: dict[str, Proposal] = {}
        for rule in rules:
            proposal = self._anchor(rule)
            if proposal is not None:
                found.setdefault(proposal.digest, proposal)
        most = int(ANCHOR_SHARE * trials)
        if any(space.get(path) is not None for path in ADDED):
            plain = None if found else self._anchor(None)
            if plain is not None:
                found[plain.digest] = plain
            most = max(most, 1)
        return list(found.values())[:most]

    def _enqueued(self, wanted: Point, mine: Sequence[Row]) -> Proposal:
        recipe = self.plan.recipe(wanted.values)
        return self.plan.proposal(
            KIND,
            recipe,
            stream=SEARCH,
            replicate=next_replicate(mine, recipe.identity()),
            params=self.plan.space.encode(wanted.values, self.plan.units),
            attrs={LABEL: wanted.label, KIND: wanted.mark},
        )

    def _rules(self) -> list[str]:
        towers = self.plan.units.towers
        return [*ANCHORS, *(str(Rule.parse(r).within(t)) for t in towers for r in ANCHORS)]

    def _anchor(self, rule: str | None) -> Proposal | None:
        """Return the point with the mask of `rule`, None for the middle of every range."""
        plan = self.plan
        try:
            mask = None if rule is None else Rule.parse(rule).mask(plan.units)
        except ModelError:
            return None  # a model without such units
        values: dict[str, Any] = {}
        for path, node in plan.space.nodes:
            if path == MASK and mask is not None:
                values[path] = list(mask.units)
            else:
                values[path] = central(node, path, plan)
        params = plan.space.encode(values, plan.units)
        if params is None:
            return None
        attrs = {LABEL: MIDDLE if rule is None else rule}
        recipe = plan.recipe(values)
        return plan.proposal("anchor", recipe, stream=SEARCH, params=params, attrs=attrs)

    def _drawn(self, mine: Sequence[Row], draw: Draw) -> Proposal | None:
        for _ in range(REDRAWS):
            drawn = draw()
            recipe, params = point(self.plan, drawn.suggest)
            digest = recipe.identity()
            verdict = decide_digest(mine, digest)
            if verdict == "new":
                return self.plan.proposal("search", recipe, stream=SEARCH, params=params)
            # Where nothing is fitted another seed would tell nothing new.
            if verdict == "replicate" and not recipe.scored:
                number = next_replicate(mine, digest)
                return self.plan.proposal(
                    "replicate", recipe, stream=SEARCH, replicate=number, params=params
                )
        return self._again(mine)

    def _again(self, mine: Sequence[Row]) -> Proposal | None:
        """Return one more run of the finished recipe with the fewest.

        A space whose every point was run must not keep a study from spending its budget: until
        it is spent nothing is confirmed.
        """
        runs: dict[str, list[Row]] = {}
        for row in results(mine):
            runs.setdefault(row.digest, []).append(row)
        if not runs:
            return None
        first = min(runs.values(), key=len)[0]
        return self.plan.proposal(
            "replicate",
            self.plan.recipe_of(first),
            stream=SEARCH,
            replicate=next_replicate(mine, first.digest),
            params=first.params,
        )


class Before(Protocol):
    """A phase that another one waits for."""

    def done(self, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Tell whether nothing more is to be run."""


@dataclass(eq=False)
class ConfirmPhase:
    """The best of the search and every baseline at its best point, with fresh seeds."""

    plan: Plan
    before: Before
    name: str = CONFIRM

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Draw) -> Proposal | None:
        """Return the first run of the list that no row stands for."""
        if self.plan.study.confirm.top == 0 or not self.before.done(rows):
            return None
        return first_missing(self.proposals(rows), rows.get(CONFIRM, ()))

    def budget(self) -> int | None:
        """No limit: the list is finite."""
        return None

    def done(self, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Tell whether every run of the list has ended."""
        if self.plan.study.confirm.top == 0:
            return self.before.done(rows)
        return self.before.done(rows) and all_ended(self.proposals(rows), rows.get(CONFIRM, ()))

    def proposals(self, rows: Mapping[str, Sequence[Row]]) -> Iterator[Proposal]:
        """Yield every run, seed by seed, so that a partial list is even over recipes."""
        for seed in range(self.plan.study.confirm.seeds):
            for label, recipe in self.candidates(rows).items():
                if seed and recipe.scored:
                    continue  # nothing is fitted: seeds change nothing
                yield self.plan.proposal(
                    CONFIRM, recipe, stream=CONFIRM, replicate=seed, attrs={LABEL: label}
                )

    def candidates(self, rows: Mapping[str, Sequence[Row]]) -> dict[str, Recipe]:
        """Return recipes by label: `search-N` by rank, baselines, `control`; no digest twice."""
        study, objectives = self.plan.study, self.plan.study.judge.objectives
        found: dict[str, Recipe] = {}
        digests: set[str] = set()
        for name, row in best_baselines(rows.get(BASELINE, ()), self.sign).items():
            if name not in study.baselines.of:
                continue  # taken out of the study since
            found[name] = self.plan.recipe_of(row)
            digests.add(row.digest)
        top = shortlist(rows, objectives, study.confirm.top, digests)
        digests |= {entry.digest for entry in top}
        if study.baselines.control is not None:
            control = best_of_control(rows, objectives, study.select)
            if control is not None and control.digest not in digests:
                found[CONTROL] = self.plan.recipe_of(control.rows[0])
        best = {f"search-{i + 1}": self.plan.recipe_of(e.rows[0]) for i, e in enumerate(top)}
        return {**best, **found}

    @property
    def sign(self) -> int:
        """1 when a larger objective is better, else -1."""
        return self.plan.study.judge.primary.sign


def point(
    plan: Plan, suggest: Callable[[str, Dimension], Scalar]
) -> tuple[Recipe, dict[str, Scalar]]:
    """Return a point of a study's space and its parameters, drawn by `suggest`."""
    params: dict[str, Scalar] = {}

    def noted(name: str, dimension: Dimension) -> Scalar:
        params[name] = suggest(name, dimension)
        return params[name]

    values = plan.space.draw(noted, plan.units)
    params |= plan.space.switches(values)
    return plan.recipe(values), params


def central(node: Node, path: str, plan: Plan) -> Any:
    """Return what an anchor takes for a field that is no mask: the middle, or the first choice.

    Of mitigations and edits none, where that is a choice.
    """

    def chosen(name: str, dimension: Dimension) -> Scalar:
        if isinstance(dimension, Float | Int):
            return middle(dimension)
        plain = name in ADDED and NOTHING in dimension.options
        return NOTHING if plain else dimension.options[0]

    return node.draw(path, chosen, plan.units)


def first_missing(wanted: Iterator[Proposal], rows: Sequence[Row]) -> Proposal | None:
    """Return the first run of a list that no row stands for."""
    known = current(rows)
    return next((proposal for proposal in wanted if proposal.key not in known), None)


def all_ended(wanted: Iterator[Proposal], rows: Sequence[Row]) -> bool:
    """Tell whether every run of a list has ended."""
    speaking = current(rows)
    again = {row.key for row in due(rows)}
    return all(
        p.key in speaking and speaking[p.key].state != "running" and p.key not in again
        for p in wanted
    )
