"""The one place that decides what a study's rows mean and who may run what.

A study is a family of Optuna studies in one storage: NAME (search), NAME/baseline, NAME/control,
NAME/confirm, NAME/final. Each run is a row. A worker creates a row RUNNING with everything it
stands for in one transaction, looks whether the row may stand (budget, one run per key), beats
while it runs and ends it. Workers never talk to each other: what each may do follows from the rows
alone.

A draw depends on the rows, the study's seed, the worker's slot and the number of first attempts
so far, and on nothing a process remembers. With one worker a resumed study therefore draws the
points that an uninterrupted one would have drawn.
"""

from __future__ import annotations

import contextlib
import math
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from optuna.study import Study, StudyDirection

from fairtune.errors import EndpointAway, StorageError, StudyError
from fairtune.study import codec
from fairtune.study import identity as identities
from fairtune.study.beat import Beats
from fairtune.study.claim import Claim, Decision
from fairtune.study.codec import Origin
from fairtune.study.desk import StudyDesk
from fairtune.study.family import Family
from fairtune.study.intake import Phase, next_row
from fairtune.study.late import keep_late
from fairtune.study.options import Options, is_gone, worker_name
from fairtune.study.orders import STOPPED_BY, Orders
from fairtune.study.overlay import Draw, Drawn
from fairtune.study.rows import (
    BASELINE,
    CONFIRM,
    CONTROL,
    FINAL,
    SEARCH,
    STALE,
    STOPPED,
    Complete,
    Failed,
    Outcome,
    Proposal,
    Pruned,
    Row,
    refusal,
)
from fairtune.study.standing import signs_of
from fairtune.study.storages import open_storage, sole_worker
from fairtune.study.view import View

__all__ = [
    "Claim",
    "Complete",
    "Decision",
    "Draw",
    "Drawn",
    "Failed",
    "Ledger",
    "Options",
    "Outcome",
    "Phase",
    "Proposal",
    "Pruned",
    "Row",
    "worker_name",
]

FAMILY = (SEARCH, BASELINE, CONTROL, CONFIRM, FINAL)
_SLOWEST_BEAT = 60.0
_DETAIL = 4000
_BRIEF = 5.0
_LEAVING = 20.0


class Ledger:
    """A study as one worker sees it. Made by `open`; used by one thread, beside its beats."""

    def __init__(
        self, family: Family, directions: Sequence[StudyDirection], options: Options
    ) -> None:
        self._family, self._directions, self._options = family, list(directions), options
        self._clock, self._grace = options.clock, options.grace
        self.worker = options.worker or worker_name()
        self._seen: dict[tuple[str, int], tuple[int, float]] = {}
        self._mine: dict[tuple[str, int], Claim] = {}
        self._view = View(family)
        rule = options.pruner.build()
        self._orders = Orders(family)
        self._desk = StudyDesk(family, rule, signs_of(directions), options.form, self._orders)
        self._fresh = False

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        *,
        directions: Sequence[str] = (),
        identity: Mapping[str, Any] | None = None,
        create: bool = False,
        metric_names: Sequence[str] = (),
        options: Options | None = None,
    ) -> Ledger:
        """Open the study `name` of the storage at `url`.

        Args:
            url: As `fairtune.study.storages.normalise` takes it.
            name: Name of the study, without a slash.
            directions: `maximize` or `minimize` per objective; may be left out for reading.
            identity: What makes the study the one it is, as JSON; stored when it is created and
                compared ever after. None reads whatever is there.
            create: Make the study when there is none.
            metric_names: Names of the objectives for dashboards; stored at creation.
            options: How this process takes part.

        Raises:
            StorageError: The storage cannot be reached or read.
            StudyError: There is no such study, or it was created with another identity.
        """
        options = options or Options()
        if not name or "/" in name:
            raise StudyError("not a name of a study", found=name, allowed="a name without '/'")
        opened = open_storage(url, must_exist=not create)
        try:
            family = Family(opened, name, options.patience, options.clock, options.leaving)
            wanted = [StudyDirection[word.upper()] for word in directions]
            if create and not wanted:
                raise ValueError("a study is created with its directions")
            made = create and family.create(SEARCH, wanted, list(metric_names))
            if not family.find(SEARCH):
                raise identities.no_such_study(name, family.names(), opened.shown)
            stored = family.directions()
            if wanted and stored != wanted:
                raise identities.other_directions(name, _words(stored), directions)
            if identity is not None:
                identities.check(family, identity, made)
        except BaseException:
            opened.close()
            raise
        for phase in FAMILY:
            family.find(phase)
        return cls(family, stored, options)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the storage."""
        self._family.opened.close()

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Be the only worker, where the storage takes one; for the time of the work.

        Raises:
            StudyError: Another worker is.
        """
        return sole_worker(self._family.opened)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self._family.name

    @property
    def url(self) -> str:
        """Where the study is stored, with the password hidden."""
        return self._family.opened.shown

    @property
    def directions(self) -> tuple[str, ...]:
        """`maximize` or `minimize` per objective."""
        return tuple(_words(self._directions))

    def rows(self, phase: str = SEARCH) -> list[Row]:
        """Return all rows of `phase` in order of number, read now."""
        return self._family.read(phase)[0]

    def attrs(self, phase: str = SEARCH) -> dict[str, Any]:
        """Return the attributes of the study of `phase`, empty when there is none."""
        return self._family.attrs(phase)

    def set_attr(self, name: str, value: Any, phase: str = SEARCH) -> None:
        """Store the JSON value `value` with the study of `phase`, which is made if need be."""
        self._ensure(phase)
        self._family.set_attr(phase, name, value)

    def optuna_study(self, phase: str = SEARCH) -> Study:
        """Return the Optuna study of `phase` for figures; never to be written to."""
        return self._family.optuna_study(phase)

    def told_to_leave(self) -> str | None:
        """Return why a person wants this worker to leave, or None; see `fairtune.study.orders`."""
        return None if self._orders.heard() is None else STOPPED_BY

    def reap(self, phases: Sequence[Phase] = ()) -> list[Row]:
        """Fail rows whose beat has stood still for the grace on this worker's clock.

        A row of a process of this machine that no longer runs is failed at once. Where its worker
        was gone before it could look whether the row may stand, that is said in its place: by the
        budgets of `phases`.

        Returns:
            The rows failed now, as they were read. Their runs are tried again at most twice.
        """
        self._view.refresh()
        now, reaped = self._clock(), []
        budgets = {phase.name: phase.budget() for phase in phases}
        running: set[tuple[str, int]] = set()
        for phase, row in [(p, r) for p, rows in self._view.rows.items() for r in rows]:
            place = (phase, row.number)
            if row.state != "running" or place in self._mine:
                continue
            running.add(place)
            beat, since = self._seen.get(place, (-1, now))
            if beat != row.beat:
                self._seen[place] = (row.beat, now)
            # While the storage was away nobody could beat.
            still = now - max(since, self._family.back)
            late = beat == row.beat and still >= self._grace
            if late or is_gone(row.worker):
                why = refusal(row, self._view.rows[phase], budgets.get(phase)) or STALE
                if self._view.fail(row, why):
                    reaped.append(row)
        self._seen = {place: seen for place, seen in self._seen.items() if place in running}
        self._fresh = True
        return reaped

    def claim(self, phases: Sequence[Phase], at_most: int) -> list[Claim]:
        """Create up to `at_most` rows that this worker is to run, in the order of the phases.

        Runs that are to be tried again come before new ones of their phase.
        """
        for phase in phases:
            self._ensure(phase.name)
        unread = [name for name in self._family.phases() if name not in self._view.rows]
        if unread or not self._fresh:
            self._view.refresh(*(unread if self._fresh else ()))
        self._fresh = False
        claims: list[Claim] = []
        for phase in phases:
            while len(claims) < at_most:
                claim = self._claim_one(phase)
                if claim is None:
                    break
                claims.append(claim)
        return claims

    def others_running(self) -> bool:
        """Tell whether, as last read, another worker runs a row of this study."""
        return any(
            row.state == "running" and (phase, row.number) not in self._mine
            for phase, rows in self._view.rows.items()
            for row in rows
        )

    @contextlib.contextmanager
    def beating(
        self, claims: Sequence[Claim], leaving: Callable[[], str | None] = lambda: None
    ) -> Iterator[None]:
        """Beat for `claims`; at the end give back every claim that has no outcome.

        An exception fails the open claims as `error`; Ctrl-C, exit, a full disk and an endpoint
        that is away give them back. If the study itself cannot be written, other workers will
        miss their beats.

        Args:
            claims: Rows that this worker runs.
            leaving: Returns why this worker leaves, or None. One that leaves notes it in the rows
                that it gives back, and does not wait long for a storage that does not answer.
        """
        every = self._options.beat_every or min(_SLOWEST_BEAT, self._grace / 5)
        with Beats(claims, self._desk.beat, every):
            try:
                yield
            except (StorageError, EndpointAway) as error:
                with contextlib.suppress(StorageError):
                    self._give_back_open(claims, str(error), _BRIEF)
                raise
            except Exception:
                detail = traceback.format_exc()[-_DETAIL:]
                for claim in [c for c in claims if c.is_open]:
                    self.finish(claim, Failed("error", detail, retry=True))
                raise
            except BaseException as error:
                self._give_back_open(claims, type(error).__name__)
                raise
            why = leaving()
            if why is None:
                self._give_back_open(claims)
                return
            with contextlib.suppress(StorageError):
                self._give_back_open(claims, why, min(_LEAVING, self._options.patience))

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """Store the outcome of `claim`.

        A value that is not finite fails the row as `nan`. If another worker has failed the row
        meanwhile, the outcome is handed to `recover`.
        """
        values = getattr(outcome, "values", None)
        if values is not None:
            if len(values) != len(self._directions):
                raise ValueError(f"{len(values)} values for {len(self._directions)} objectives")
            if not all(math.isfinite(value) for value in values):
                outcome = Failed("nan", f"the objectives are {list(values)}")
        if not self._settle(claim, outcome):
            self.recover(claim, outcome)

    def give_back(self, claim: Claim, why: str = "") -> None:
        """End the row of `claim` so that the run is tried again, by whoever claims next."""
        self._settle(claim, Failed(STOPPED, why))

    def recover(self, claim: Claim, outcome: Outcome) -> bool:
        """Keep the result of a run whose row had been failed while it went on.

        The result claims a row of its own, as any run does, and so can be seen before it stands.
        If the retry has not begun, there is none; if it runs, its row is ended, which its next
        beat learns. If another row has a result, or the run failed, this one is dropped.

        Returns:
            Whether the result was kept.
        """
        return keep_late(self._view, self._family, claim, outcome)

    def append_final(
        self, proposal: Proposal, values: Sequence[float], attrs: Mapping[str, Any]
    ) -> int:
        """Add a finished row to NAME/final, which cannot be changed after, and return its number.

        What must be written before there is a result (an opening of the test split) belongs
        into `set_attr(..., phase="final")`.
        """
        self._ensure(FINAL)
        origin = Origin(self.worker, uuid.uuid4().hex)
        trial = codec.finished_trial(proposal, origin, outcome=Complete(values, attrs), beat={})
        made = self._family.add(FINAL, trial)
        _, trials = self._family.read(FINAL)
        return next(trial.number for trial in trials if trial._trial_id == made)

    # Claiming

    def _claim_one(self, phase: Phase) -> Claim | None:
        while True:
            wanted = next_row(phase, self._view, self._directions, self.worker, self._options)
            if wanted is None:
                return None
            trial_id = self._family.add(phase.name, wanted.trial())
            self._view.refresh(phase.name)
            row = self._view.row_of(phase.name, trial_id)
            why = refusal(row, self._view.rows[phase.name], phase.budget())
            if why is not None:
                self._view.fail(row, why)
                continue
            claim = Claim(
                wanted.proposal,
                wanted.origin,
                phase=phase.name,
                number=row.number,
                trial_id=trial_id,
                rungs=wanted.rungs,
                planned=wanted.planned,
                desk=self._desk,
            )
            self._mine[(phase.name, row.number)] = claim
            return claim

    def _ensure(self, phase: str) -> None:
        self._family.create(phase, self._directions, None)

    def _settle(self, claim: Claim, outcome: Outcome, patience: float | None = None) -> bool:
        claim.quieten()
        token = claim.origin.token
        ended = self._family.end(claim.trial_id, outcome, token, own=True, patience=patience)
        claim.close()
        self._mine.pop((claim.phase, claim.number), None)
        return ended

    def _give_back_open(
        self, claims: Sequence[Claim], why: str = "", patience: float | None = None
    ) -> None:
        for claim in [c for c in claims if c.is_open]:
            self._settle(claim, Failed(STOPPED, why[-_DETAIL:]), patience)


def _words(directions: Sequence[StudyDirection]) -> list[str]:
    return [direction.name.lower() for direction in directions]
