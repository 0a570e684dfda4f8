"""Progress: one live view on a terminal, plain lines otherwise."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairtune.study.execute import Event
    from fairtune.study.worker import StopFlag


def packing(what: str, done: int, total: int) -> None:
    """Say how far packing is, every tenth and at the end."""
    step = max(1, total // 10)
    if done == total or done % step == 0:
        print(f"{what}: {done}/{total}", file=sys.stderr)


@contextmanager
def stopping(flag: StopFlag) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the work after the current step; a second one ends it at once."""

    def ask(number: int, frame: Any) -> None:
        if flag.reason() is not None:
            raise KeyboardInterrupt
        flag.request(signal.Signals(number).name)
        print("stopping after this step; again to stop at once", file=sys.stderr)

    old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Progress:
    """Turns a worker's events into lines, and on a terminal into one line that is rewritten.

    Args:
        objective: Name of the primary objective.
        larger: Whether larger is better.
        trials: Budget of the search.
        echo: Where lines go.
    """

    def __init__(
        self,
        objective: str,
        larger: bool,
        trials: int,
        echo: Callable[[str], None] = print,
    ) -> None:
        self.objective, self.larger, self.trials, self.echo = objective, larger, trials, echo
        self.best: tuple[float, str] | None = None
        self.seconds: list[float] = []
        self._began = time.monotonic()
        self._status: Any = None

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show a live line on a terminal while the work goes on."""
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

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if event.kind == "epoch" and event.report is not None:
            self._epoch(event)
        elif event.kind == "claim":
            self._began = time.monotonic()
            self._say(f"{self._name(event)}: starting")
        elif event.kind == "finish":
            self._finish(event)

    def _epoch(self, event: Event) -> None:
        report = event.report
        assert report is not None
        rate = report.images / max(report.seconds, 1e-9)
        left = (report.of - report.number) * report.seconds
        value = event.values.get(self.objective, float("nan"))
        best = "" if self.best is None else f"  best {self.best[0]:.3f} ({self.best[1]})"
        self._say(
            f"{self._name(event)}: epoch {report.number}/{report.of}  {rate:.0f} images/s  "
            f"{self.objective} {value:.3f}  {left:.0f} s left{best}"
        )

    def _finish(self, event: Event) -> None:
        from fairtune.study.rows import Complete, Failed, Pruned

        outcome, name = event.outcome, self._name(event)
        seconds = time.monotonic() - self._began
        glyph = event.claim.proposal.attrs.get("mask", "")
        if isinstance(outcome, Complete):
            value = outcome.values[0]
            mark = self._better(value, name, event, bool(outcome.attrs.get("degenerate")))
            groups = "  ".join(
                f"{k} {v:.3f}"
                for k, v in outcome.attrs.items()
                if k == "auc" or k.startswith("auc_gap@")
            )
            line = (
                f"{name}  {self.objective} {value:.3f}{mark}  {groups}  {glyph}  {seconds:.0f} s"
            )
            if outcome.attrs.get("degenerate"):
                line += f"  degenerate: {outcome.attrs['degenerate']}"
        elif isinstance(outcome, Pruned):
            line = f"{name}  pruned ({outcome.reason})  {glyph}  {seconds:.0f} s"
        else:
            assert isinstance(outcome, Failed)
            detail = outcome.detail.strip().splitlines()
            line = f"{name}  failed: {outcome.reason}  {detail[-1] if detail else ''}"
        self.echo(line)

    def _better(self, value: float, name: str, event: Event, degenerate: bool) -> str:
        if event.claim.phase != "search" or degenerate:
            return ""
        sign = 1 if self.larger else -1
        if self.best is None or sign * value > sign * self.best[0]:
            self.best = (value, name)
            return " *"
        return ""

    def _name(self, event: Event) -> str:
        claim = event.claim
        label = claim.proposal.attrs.get("label")
        number = f"{claim.number + 1}"
        if claim.phase == "search":
            number += f"/{self.trials}"
        named = f" {label}" if label else ""
        point = claim.proposal.attrs.get("point")
        at = f" @ {point:.2g}" if isinstance(point, float) else ""
        return f"{claim.phase} {number}{named}{at}"

    def _say(self, line: str) -> None:
        if self._status is not None:
            self._status.update(line.replace("[", "\\["))
