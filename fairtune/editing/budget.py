"""How the queries of a budget are spent: on steps, and on fitting the heads anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The steps of a search.

    Attributes:
        steps: How many.
        refits: Numbers of the steps, from 0, before which the heads are fitted anew.
    """

    steps: int
    refits: tuple[int, ...] = ()


def plan(budget: int, step: int, every: int, refit: int) -> Plan:
    """Return the steps that fit a budget.

    After every `every` steps the heads are fitted anew where that and a further step still fit;
    where they do not, what is left is spent on steps against the heads as they are.

    Args:
        budget: Queries in all.
        step: Queries of a step; 0 for a mode that makes none.
        every: Steps from one refit to the next; 0 for none.
        refit: Queries of a refit.
    """
    if not step:
        return Plan(0)
    spent, steps, refits = 0, 0, list[int]()
    while spent + step <= budget:
        if every and steps and steps % every == 0 and spent + refit + step <= budget:
            spent += refit
            refits.append(steps)
        spent += step
        steps += 1
    return Plan(steps, tuple(refits))
