"""What the code that runs a claim, and the thread that beats for it, ask of the study.

Both run beside the ledger's own thread, so nothing here touches what the ledger last read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from optuna.exceptions import UpdateFinishedTrialError

from fairtune.errors import StorageError
from fairtune.study.claim import Claim
from fairtune.study.family import Family
from fairtune.study.form import Form, signed
from fairtune.study.orders import STOPPED_BY, Orders
from fairtune.study.pruners import Rule
from fairtune.study.rows import STALE, Row, Score, current
from fairtune.study.storages import PASSING

# While a run trains it does not wait long for the storage.
_SECONDS = 5.0


@dataclass(frozen=True)
class StudyDesk:
    """The desk of one study.

    Attributes:
        family: The study.
        rule: The pruner.
        signs: Per objective 1 when higher is better, -1 when lower is.
        form: How several objectives are compared.
        orders: What a person tells the workers, if they can hear it.
    """

    family: Family
    rule: Rule
    signs: tuple[float, ...]
    form: Form = field(default_factory=Form)
    orders: Orders | None = None

    def rungs(self, claim: Claim, of: int) -> tuple[int, ...]:
        """Return the epochs at which the claim is judged."""
        return self.rule.rungs(of, claim.proposal.key)

    def score(self, utility: float, objective: float | Sequence[float] | None) -> Score:
        """Return the score, of the utility where `objective` is None."""
        if objective is None:
            return -utility
        given = [objective] if isinstance(objective, int | float) else objective
        values = signed(given, self.signs)
        return values[0] if len(values) == 1 else values

    def publish(self, claim: Claim) -> None:
        """Write the claim's beat now; if the storage does not answer, the next beat says it."""
        with contextlib.suppress(StorageError, *PASSING):
            self.beat(claim)

    def judge(self, claim: Claim, epoch: int, of: int, score: Score) -> str | None:
        """Return why the claim is to be pruned, or None, also when the peers cannot be read."""
        key = claim.proposal.key
        try:
            rows, _ = self.family.read(claim.phase, _SECONDS)
        except StorageError:
            return None
        peers = [
            row
            for row in current(rows).values()
            if row.key != key and row.planned == of and row.state != "failed"
        ]
        return self.rule.stop(epoch, of, key, *self._seen(epoch, score, peers))

    def _seen(self, epoch: int, score: Score, peers: Sequence[Row]) -> tuple[Score, list[Row]]:
        """Return score and peers at a rung as the study's form sees them."""
        here = [row for row in peers if isinstance(row.rungs.get(epoch), tuple)]
        if not self.form.is_scalar or not isinstance(score, tuple):
            return score, list(peers)
        own, *others = self.form.scalar([score, *(row.rungs[epoch] for row in here)]).tolist()
        shown = [replace(r, rungs={**r.rungs, epoch: s}) for r, s in zip(here, others)]
        return own, shown

    def beat(self, claim: Claim) -> None:
        """Write one beat; if the row was taken away, or a person says so, end the claim's run."""
        self._write(claim)
        order = None if self.orders is None else self.orders.heard(_SECONDS)
        if order is not None and order.now:
            claim.tell_to_stop(STOPPED_BY)

    def _write(self, claim: Claim) -> None:
        with claim.held() as beats:
            if not beats or claim.poll() is not None:
                return
            try:
                self.family.beat(claim.trial_id, claim.next_beat())
            except UpdateFinishedTrialError:
                reason = self._taken(claim)
                if reason is not None:
                    claim.tell_to_stop(reason)

    def _taken(self, claim: Claim) -> str | None:
        """Return why a claim whose row was ended has to stop; None while its result may count."""
        rows, _ = self.family.read(claim.phase, _SECONDS)
        row = next(row for row in rows if row.number == claim.number)
        others = [r for r in rows if r.key == row.key and r.number != row.number]
        if any(r.state == "running" or r.has_result for r in others):
            return f"row {claim.number} was taken over by another worker"
        return None if row.reason == STALE else f"row {claim.number} was ended: {row.reason}"
