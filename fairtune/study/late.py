"""A result that comes after its row was failed: its worker was silent past the grace."""

from __future__ import annotations

import uuid
from dataclasses import replace

from fairtune.study import codec
from fairtune.study.claim import Claim
from fairtune.study.family import Family
from fairtune.study.rows import DUPLICATE, SUPERSEDED, Failed, Outcome, current, refusal
from fairtune.study.view import View


def keep_late(view: View, family: Family, claim: Claim, outcome: Outcome) -> bool:
    """Keep the outcome of `claim`, whose row has been failed, unless its run has a result.

    It claims a row of its own, as any run does, so that others see that it is on its way before
    it stands. Whoever claims the run after that steps back; a retry that runs is ended.

    Returns:
        Whether it was kept; a failure never is.
    """
    if isinstance(outcome, Failed):
        return False
    phase, key = claim.phase, claim.proposal.key
    view.refresh(phase)
    if current(view.rows[phase])[key].has_result:
        return False
    token = uuid.uuid4().hex
    origin = replace(claim.origin, root=claim.root, recovered=True, token=token)
    trial = codec.new_trial(claim.proposal, origin, beat=claim.last_beat(), system_attrs={})
    made = family.add(phase, trial)
    view.refresh(phase)
    row, rows = view.row_of(phase, made), view.rows[phase]
    others = [r for r in rows if r.key == key and r.state == "running" and r is not row]
    # A retry that cannot be ended has a result of its own by now.
    stands = refusal(row, rows, None) is None
    if not (stands and all(view.fail(r, SUPERSEDED) for r in others)):
        view.fail(row, DUPLICATE)
        return False
    return family.end(made, outcome, token, own=True)
