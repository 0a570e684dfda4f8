"""A worker's events as sinks are told of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fairtune.experiment.sink import RunName, Sinks, epoch_values, params_of
from fairtune.study.claim import Claim
from fairtune.study.execute import Event
from fairtune.study.overview import LABEL
from fairtune.study.parts import runs_before
from fairtune.study.rows import Complete, Failed

log = logging.getLogger(__name__)


class ToSinks:
    """Tells sinks of every claim, epoch and outcome.

    Args:
        sinks: Who is told.
        study: Name of the study.
        objectives: Names of its objectives.
    """

    def __init__(self, sinks: Sinks, study: str, objectives: Sequence[str]) -> None:
        self._sinks, self._study, self._objectives = sinks, study, tuple(objectives)

    def __call__(self, event: Event) -> None:
        """Take in one event; whatever goes wrong is a warning."""
        try:
            self._tell(event)
        except Exception as error:
            log.warning("sinks were not told: %s: %s", type(error).__name__, error)

    def _tell(self, event: Event) -> None:
        claim, run = event.claim, self._name(event.claim)
        if event.kind == "claim":
            proposal = claim.proposal
            mask = str(proposal.attrs.get("mask", ""))
            self._sinks.begin(run, params_of(proposal.recipe, proposal.seed, mask))
        elif event.report is not None:
            # Epochs of a trial's runs are counted on: folds and levels are not told apart.
            number = runs_before(claim.progress) * event.report.of + event.report.number
            self._sinks.epoch(run, number, epoch_values(event.report, event.values))
        elif event.outcome is not None:
            state = type(event.outcome).__name__.lower()
            values = getattr(event.outcome, "values", None) or ()
            attrs = {} if isinstance(event.outcome, Failed) else event.outcome.attrs
            limits = event.outcome.constraints if isinstance(event.outcome, Complete) else {}
            named = {f"constraint/{name}": value for name, value in limits.items()}
            figures = {**attrs, **named, **dict(zip(self._objectives, values))}
            self._sinks.end(run, state, figures)

    def _name(self, claim: Claim) -> RunName:
        proposal = claim.proposal
        label = str(proposal.attrs.get(LABEL, ""))
        return RunName(self._study, claim.phase, claim.root + 1, label, proposal.key)
