"""One row that this worker runs, as the code that runs it sees it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fairtune.study import codec
from fairtune.study.codec import Origin
from fairtune.study.rows import SEARCH, Proposal, Score


@dataclass(frozen=True)
class Decision:
    """Whether a run goes on after an epoch.

    Attributes:
        stop: Why it ends here, or None to go on.
    """

    stop: str | None = None


class Desk(Protocol):
    """What a claim asks of the ledger it came from."""

    def rungs(self, claim: Claim, of: int) -> tuple[int, ...]:
        """Return the epochs at which the claim is judged."""

    def score(self, utility: float, objective: float | Sequence[float] | None) -> Score:
        """Return the score, of the utility where `objective` is None."""

    def publish(self, claim: Claim) -> None:
        """Write the claim's beat now; a storage that does not answer is left to the next beat."""

    def judge(self, claim: Claim, epoch: int, of: int, score: Score) -> str | None:
        """Return why the claim is to be pruned, or None."""


class Claim:
    """A running row.

    Attributes:
        proposal: What to run.
        phase: Phase of the row.
        number: Number of the row in its phase.
        attempt: 0 for the first try; a later one may find the checkpoint of the one before.
        root: Number of the first attempt's row.
        worker: Name of this worker.
        origin: How the row names its maker; of use to the ledger alone, as `trial_id` is.
        progress: What `status` and `watch` show; fill it with JSON values at will, the next beat
            publishes it.
    """

    def __init__(
        self,
        proposal: Proposal,
        origin: Origin,
        *,
        phase: str,
        number: int,
        trial_id: int,
        rungs: Mapping[int, Score],
        planned: int | None,
        desk: Desk,
    ) -> None:
        self.proposal, self.phase, self.number = proposal, phase, number
        self.attempt, self.worker = origin.attempt, origin.worker
        self.root = number if origin.root is None else origin.root
        self.progress: dict[str, Any] = {}
        self.origin, self.trial_id, self._desk = origin, trial_id, desk
        self._lock = threading.Lock()
        self._beats, self._beating, self._open = 0, True, True
        self._rungs, self._planned = dict(rungs), planned
        self._stop: str | None = None

    def poll(self) -> str | None:
        """Return why to stop at once, or None; a flag, no I/O.

        It is set when another worker took over the run: this one was silent for longer than the
        grace, and its retry has begun or has finished.
        """
        return self._stop

    def report(
        self,
        epoch: int,
        of: int,
        utility: float,
        objective: float | Sequence[float] | None = None,
    ) -> Decision:
        """Tell the score after an epoch and ask whether to go on.

        At the first rung, and below half of the epochs, runs are compared by `utility`; from half
        of the epochs on by `objective`, if there is one. A rung is written once. Only rows of
        kind `search` are ever told to stop.

        Args:
            epoch: Epochs done, counted from 1.
            of: Epochs planned; only runs planned for as many are compared.
            utility: Validation negative log-likelihood; lower is better.
            objective: The objectives in the study's directions, one number where there is one.
        """
        rungs = self._desk.rungs(self, of)
        if epoch not in rungs or epoch in self._rungs:
            return Decision()
        early = epoch == rungs[0] or 2 * epoch < of
        score = self._desk.score(utility, None if early else objective)
        if not all(map(math.isfinite, score if isinstance(score, tuple) else (score,))):
            return Decision()
        with self.held():
            self._rungs[epoch], self._planned = score, of
        self._desk.publish(self)
        if self.proposal.kind != SEARCH:
            return Decision()
        return Decision(self._desk.judge(self, epoch, of, score))

    # For the ledger and the thread that beats

    @property
    def is_open(self) -> bool:
        """No outcome of the claim is stored yet."""
        return self._open

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Keep the claim from being quietened meanwhile; yields whether it still beats."""
        with self._lock:
            yield self._beating

    def quieten(self) -> None:
        """Let no further beat be written, waiting for one that is under way."""
        with self._lock:
            self._beating = False

    def close(self) -> None:
        """Note that the outcome is stored."""
        self._open = False

    def tell_to_stop(self, reason: str) -> None:
        """Set what `poll` returns."""
        self._stop = reason

    def next_beat(self) -> dict[str, Any]:
        """Count one beat and return what it says."""
        self._beats += 1
        return self.last_beat()

    def last_beat(self) -> dict[str, Any]:
        """Return what a beat says: the counter, the progress, the rungs."""
        return codec.beat(self._beats, self._rungs, self._planned, self.progress)
