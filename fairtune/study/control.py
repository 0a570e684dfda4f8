"""Random masks with the effort of a search: is it the search, or the learning rate?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.study import StudyDirection

from fairtune.config.digest import digest
from fairtune.study.overlay import Draw
from fairtune.study.phases import REDRAWS, Before, all_ended, first_missing, point
from fairtune.study.plan import Plan
from fairtune.study.rows import CONTROL, SEARCH, Proposal, Row, roots
from fairtune.study.samplers.random import Random


@dataclass(eq=False)
class ControlPhase:
    """As many uniform points of the space as the search has trials, with seeds of their own.

    The n-th point follows from the study's seed and n alone, so every worker knows the same list.
    Runs are judged, and ended early, like those of a search, but among themselves; they are in no
    row of the search.
    """

    plan: Plan
    before: Before
    name: str = CONTROL
    _drawn: list[Proposal] = field(default_factory=list, repr=False)

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Draw) -> Proposal | None:
        """Return the first point of the list that no row stands for."""
        if not self.before.done(rows):
            return None
        return first_missing(self.proposals(rows), rows.get(CONTROL, ()))

    def budget(self) -> int | None:
        """No limit: the list is finite."""
        return None

    def done(self, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Tell whether every run of the list has ended."""
        mine = rows.get(CONTROL, ())
        return self.before.done(rows) and all_ended(self.proposals(rows), mine)

    def proposals(self, rows: Mapping[str, Sequence[Row]]) -> Iterator[Proposal]:
        """Yield one random point for each trial of the search."""
        for number in range(len(roots(rows.get(SEARCH, ())))):
            if number == len(self._drawn):
                self._drawn.append(self._random(number))
            yield self._drawn[number]

    def _random(self, number: int) -> Proposal:
        known = [proposal.digest for proposal in self._drawn]

        def sampler(index: int) -> Any:
            mark = digest([self.plan.study.seed, CONTROL, number, index])
            return Random().build(int(mark[:8], 16))

        draw = Draw([], [StudyDirection.MAXIMIZE], sampler)
        for _ in range(REDRAWS):
            recipe, params = point(self.plan, draw().suggest)
            if recipe.identity() not in known:
                break
        again = known.count(recipe.identity())  # a space smaller than the budget
        return self.plan.proposal("search", recipe, stream=CONTROL, replicate=again, params=params)
