"""Progress: one live view on a terminal, plain lines otherwise."""

from __future__ import annotations

import signal
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairtune.evaluation.objectives import Objective
    from fairtune.study.claim import Claim
    from fairtune.study.execute import Event
    from fairtune.study.rows import Row
    from fairtune.study.worker import StopFlag
    from fairtune.training.observer import Epoch


def packing(what: str, done: int, total: int) -> None:
    """Say how far packing is, every tenth and at the end."""
    step = max(1, total // 10)
    if done == total or done % step == 0:
        print(f"{what}: {done}/{total}", file=sys.stderr)


@contextmanager
def stopping(flag: StopFlag) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGUSR1 end the work after the current step.

    A second Ctrl-C ends it at once. Schedulers send several signals in a row: those only ask. So
    does torchrun, which passes on the Ctrl-C that its processes have had from the terminal.
    """
    from fairtune.config.settings import launched

    alone = launched()[0] == 1

    def ask(number: int, frame: Any) -> None:
        if flag.reason() is not None and number == signal.SIGINT and alone:
            raise KeyboardInterrupt
        if flag.reason() is None:
            flag.request(signal.Signals(number).name)
            print("stopping after this step; Ctrl-C again to stop at once", file=sys.stderr)

    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    old = {s: signal.signal(s, ask) for s in asked}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM interrupt what waits, also where the shell had them ignored.

    Raises:
        KeyboardInterrupt: One of them came.
    """
    both = (signal.SIGINT, signal.SIGTERM)
    old = {s: signal.signal(s, signal.default_int_handler) for s in both}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Best:
    """The best trial so far, as the live view shows it."""

    value: float
    name: str
    groups: str


class Progress:
    """Turns a worker's events into lines, and on a terminal into a view that is rewritten.

    Args:
        objectives: The study's, the primary one first.
        trials: Budget of the search.
        echo: Where lines go.
    """

    def __init__(
        self, objectives: Sequence[Objective], trials: int, echo: Callable[[str], None] = print
    ) -> None:
        self.objectives, self.trials, self.echo = tuple(objectives), trials, echo
        self.objective = self.objectives[0]
        self.best: Best | None = None
        self._retries: set[int] = set()
        self._seconds: list[float] = []
        self._began: dict[tuple[str, int], float] = {}
        self._status: Any = None

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show a live view on a terminal while the work goes on."""
        if not sys.stdout.isatty():
            yield self
            return
        from rich.console import Console

        console = Console()
        self.echo = lambda line: console.print(line, markup=False, highlight=False)
        with console.status("starting") as status:
            self._status = status
            try:
                yield self
            finally:
                self._status = None

    def goes_on(self, rows: Iterable[Row]) -> None:
        """Take in the rows of the search that are stored already."""
        for row in sorted(rows, key=lambda r: r.number):
            if row.number != row.root:
                self._retries.add(row.number)
            if row.state == "complete" and row.values:
                self._improved(row.values[0], row.attrs, row.constraints, self._trial(row.root))

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        claim = event.claim
        if claim.phase == "search" and claim.number != claim.root:
            self._retries.add(claim.number)
        if event.kind == "epoch" and event.report is not None:
            self._say(self._epoch(event, event.report))
        elif event.kind == "claim":
            self._began[_place(event)] = time.monotonic()
            self._say(f"{self._name(event.claim)}: starting")
        elif event.kind == "finish":
            self.echo(self._finished(event))

    def _epoch(self, event: Event, report: Epoch) -> str:
        from fairtune.study.parts import shown as shown_place

        rate = report.images / max(report.seconds, 1e-9)
        left = (report.of - report.number) * report.seconds
        known = [(o, event.values.get(str(o))) for o in self.objectives]
        shown = "".join(f"{o} {value:.3f}  " for o, value in known if value is not None)
        return (
            f"{self._name(event.claim)}: {shown_place(event.claim.progress)}"
            f"epoch {report.number}/{report.of}  "
            f"{rate:.0f} images/s  {shown}{_span(left)} left{self._search_left(event)}"
        )

    def _search_left(self, event: Event) -> str:
        if event.claim.phase != "search" or not self._seconds:
            return ""
        trials = max(0, self.trials - event.claim.root - 1)
        return f", search {_span(trials * statistics.mean(self._seconds))}"

    def _finished(self, event: Event) -> str:
        from fairtune.study.rows import Complete, Pruned, in_brief

        outcome, name = event.outcome, self._name(event.claim)
        now = time.monotonic()
        seconds = now - self._began.pop(_place(event), now)
        if event.claim.phase == "search":
            self._seconds.append(seconds)
        proposal = event.claim.proposal
        tail = f"{in_brief(proposal.attrs, proposal.recipe)}  {_span(seconds)}"
        if isinstance(outcome, Complete):
            searched = event.claim.phase == "search"
            mark = searched and self._improved(
                outcome.values[0], outcome.attrs, outcome.constraints, name
            )
            named = {str(objective) for objective in self.objectives}
            figures = "  ".join(
                f"{k} {v:.3f}"
                for k, v in outcome.attrs.items()
                if (k == "auc" or k.startswith("auc_gap@")) and k not in named
            )
            why = outcome.attrs.get("degenerate")
            note = f"  {why}" if why else ""
            note += "".join(f"  breaks {k}" for k, v in outcome.constraints.items() if v > 0)
            first, *others = (f"{o} {v:.3f}" for o, v in zip(self.objectives, outcome.values))
            value = "  ".join([first + (" *" if mark else ""), *others])
            return f"{name}  {value}  {figures}  {tail}{note}"
        if isinstance(outcome, Pruned):
            return f"{name}  pruned ({outcome.reason})  {tail}"
        assert outcome is not None
        detail = outcome.detail.strip().splitlines()
        return f"{name}  failed: {outcome.reason}  {detail[-1] if detail else ''}"

    def _improved(
        self,
        value: float,
        attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
        name: str,
    ) -> bool:
        """Take in a finished trial; tell whether it is the best yet by the primary objective."""
        if attrs.get("degenerate") or any(v > 0 for v in constraints.values()):
            return False
        sign = self.objective.sign
        if self.best is not None and sign * value <= sign * self.best.value:
            return False
        start = f"auc@{self.objective.attribute}/"
        groups = "  ".join(
            f"{k.removeprefix(start)} {v:.3f}" for k, v in attrs.items() if k.startswith(start)
        )
        self.best = Best(value, name, groups)
        return True

    def _name(self, claim: Claim) -> str:
        if claim.phase == "search":
            number = self._trial(claim.root)
        else:
            number = f"{claim.phase} {claim.number + 1}"
        label, point = (claim.proposal.attrs.get(name) for name in ("label", "point"))
        named = f" {label}" if label else ""
        at = f" @ {point:.2g}" if isinstance(point, float) else ""
        return f"{number}{named}{at}"

    def _trial(self, root: int) -> str:
        # A retry has a row of its own, and is still the same trial of the budget.
        before = sum(number < root for number in self._retries)
        return f"search {root + 1 - before}/{self.trials}"

    def _say(self, line: str) -> None:
        if self._status is None:
            return
        if self.best is not None:
            best = self.best
            line += f"\n  best {best.value:.3f} ({best.name})  AUC {best.groups}"
        self._status.update(line.replace("[", "\\["))


def both(*tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return what tells each of `tell`, in order."""

    def each(event: Event) -> None:
        for one in tell:
            one(event)

    return each


def _place(event: Event) -> tuple[str, int]:
    return event.claim.phase, event.claim.number


def _span(seconds: float) -> str:
    """Return a length of time for people: `48 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
