"""Pruners: which runs are ended early, judged at rungs that this project keeps itself.

Optuna's own `report` knows one float per step and refuses several objectives; here a rung is a
score of ours, higher is better, stored with the row's beat. With several objectives the score has
one number for each, and runs are compared by non-domination rank, then by crowding: the ranking
of MO-ASHA (Schmucker et al. 2021, "Multi-objective asynchronous successive halving"), with the
tie-break of NSGA-II in place of an epsilon-net. Only rows of kind `search` are ever pruned;
anchors and replicates are peers but run to their end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fairtune.config import Config, Registry
from fairtune.evaluation.pareto import order
from fairtune.study.rows import Row, Score

PRUNERS: Registry[Config] = Registry("pruner", "fairtune.study.pruners")


@runtime_checkable
class Rule(Protocol):
    """Decides at rungs: after epochs, or after levels of fidelity."""

    def rungs(self, of: int, key: str) -> tuple[int, ...]:
        """Return the epochs, all below `of`, at which the run `key` is judged."""

    def stop(
        self, epoch: int, of: int, key: str, score: Score, peers: Sequence[Row]
    ) -> str | None:
        """Return why the run is to end after `epoch`, or None to go on.

        Args:
            epoch: One of `rungs(of, key)`.
            of: Epochs planned.
            key: Identity of the run.
            score: Its score at this rung; `comparable` makes it and those of peers numbers.
            peers: Rows of other runs of the phase that were planned for as many epochs.
        """


@runtime_checkable
class Pruner(Protocol):
    """Declaration of a pruner."""

    def build(self, *, levels: bool = False) -> Rule:
        """Return the working rule.

        Args:
            levels: Runs are judged after levels of fidelity, of which each but the last is a rung
                from `min_resource` on (default: the first), and not after epochs.
        """


def unit(levels: bool) -> str:
    """Return what rungs are counted in, for people."""
    return "level" if levels else "epoch"


def comparable(score: Score, others: Sequence[Score]) -> tuple[float, list[float]]:
    """Return scores of one rung as single numbers, higher is better.

    Scores with one number per objective become minus their place by rank, then crowding (see
    `evaluation.pareto.order`). A score of another form than the first says nothing of it and is
    left out.

    Args:
        score: Of the run that is judged.
        others: Of its peers at the same rung.
    """
    if not isinstance(score, tuple):
        return score, [other for other in others if not isinstance(other, tuple)]
    same = [other for other in others if isinstance(other, tuple)]
    first, *rest = order([score, *same], [1] * len(score)).tolist()
    return -float(first), [-float(place) for place in rest]


def least_epochs(of: int, given: int | None) -> int:
    """Return the first rung: `given`, or max(2, a quarter of the epochs, rounded up)."""
    return given if given is not None else max(2, math.ceil(of / 4))
