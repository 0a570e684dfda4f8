"""What the next row of a phase is to be: a run to be tried again, or a new proposal."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from fairtune.config.digest import digest
from fairtune.study import codec
from fairtune.study.codec import Origin
from fairtune.study.options import Options
from fairtune.study.overlay import Draw
from fairtune.study.rows import Proposal, Row, Score, current, due, roots
from fairtune.study.standing import as_one, signs_of
from fairtune.study.view import View


class Phase(Protocol):
    """A part of a study: a pure function of its rows to the next run."""

    @property
    def name(self) -> str:
        """`search`, `baseline` or `confirm`."""

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Draw) -> Proposal | None:
        """Return the next run, or None when there is nothing to do now.

        Args:
            rows: Rows of every phase, in order of number; see `fairtune.study.rows` for what
                they mean. Retries are made by the ledger and never proposed.
            draw: Draws a point of the search space; only the search phase calls it.
        """

    def budget(self) -> int | None:
        """Return the number of first attempts the phase may have, None for any number."""


@dataclass(frozen=True)
class Wanted:
    """A row to be created."""

    proposal: Proposal
    origin: Origin
    rungs: Mapping[int, Score] = field(default_factory=dict)
    planned: int | None = None
    system_attrs: Mapping[str, Any] = field(default_factory=dict)

    def trial(self) -> FrozenTrial:
        """Return the trial that one transaction writes."""
        beat = codec.beat(0, self.rungs, self.planned, {})
        return codec.new_trial(
            self.proposal, self.origin, beat=beat, system_attrs=self.system_attrs
        )


def next_row(
    phase: Phase,
    view: View,
    directions: Sequence[StudyDirection],
    worker: str,
    options: Options,
) -> Wanted | None:
    """Return the next row of `phase`, or None when it has nothing to do now.

    Raises:
        RuntimeError: The phase proposed a run that it already has; a fault of the phase.
    """
    rows, budget = view.rows[phase.name], phase.budget()
    first = roots(rows)
    admitted = {row.number for row in (first if budget is None else first[:budget])}
    token = uuid.uuid4().hex
    for row in due(rows):
        if row.root in admitted:
            origin = Origin(worker, token, row.attempt + 1, row.root)
            return Wanted(row.proposal(), origin, row.rungs, row.planned)
    if budget is not None and len(first) >= budget:
        return None
    draw = _draw(phase.name, len(first), view, directions, options)
    proposal = phase.propose(dict(view.rows), draw)
    if proposal is None:
        return None
    if proposal.key in current(rows):
        raise RuntimeError(f"phase {phase.name} proposed run {proposal.key} a second time")
    drawn = draw.last
    system = drawn.system_attrs if drawn and drawn.params == dict(proposal.params) else {}
    return Wanted(proposal, Origin(worker, token), system_attrs=system)


def _draw(
    phase: str,
    count: int,
    view: View,
    directions: Sequence[StudyDirection],
    options: Options,
) -> Draw:
    rows = view.rows[phase]
    speaking, ours = {r.number for r in current(rows).values()}, {r.number for r in rows}
    signs = signs_of(directions)
    trials = [
        codec.for_sampler(trial, signs)
        for trial in view.trials[phase]
        if trial.number in speaking or trial.number not in ours
    ]
    if len(directions) > 1 and options.form.is_scalar:
        trials = as_one(trials, signs, options.form)
        directions = [StudyDirection.MAXIMIZE]

    def sampler(index: int) -> BaseSampler:
        # From the rows alone: a resumed study goes on as if it had never stopped.
        mark = digest([options.seed, options.slot, phase, count, index])
        return options.sampler.build(int(mark[:8], 16))

    return Draw(trials, directions, sampler)
