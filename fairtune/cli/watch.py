"""`fairtune status` and `fairtune watch`: a study from any machine that reaches its storage."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fairtune.cli.options import Out, Storage

if TYPE_CHECKING:
    from fairtune.study.asked import Stopping
    from fairtune.study.follow import Figure, PhaseState, Running, State

Name = Annotated[str, typer.Argument(help="Name of the study.")]
MOST_FAILURES = 5


def status(
    study: Name,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
    out: Out = None,
    storage: Storage = None,
) -> None:
    """Say where a study stands; needs its storage only, not its results folder."""
    from fairtune.cli.models import print_json
    from fairtune.cli.options import place_of
    from fairtune.study.follow import state_of
    from fairtune.study.overview import Overview

    state = state_of(Overview.load(place_of(study, out, storage)))
    if as_json:
        print_json(state.to_json())
    else:
        print("\n".join(lines(state)))


def watch(
    study: Name,
    interval: Annotated[
        float, typer.Option("--interval", min=0.5, help="Seconds between two readings.")
    ] = 5.0,
    out: Out = None,
    storage: Storage = None,
) -> None:
    """Show where a study stands until it is finished; Ctrl-C leaves, the study goes on."""
    from fairtune.cli.options import place_of
    from fairtune.errors import StorageError
    from fairtune.study.follow import follow

    told = ""
    with View() as show:
        for found in follow(place_of(study, out, storage), interval):
            if isinstance(found, StorageError):
                show(f"{told}\n{found.what}; asking again")
            else:
                told = "\n".join(lines(found))
                show(told)


class View:
    """Rewrites a text on a terminal; elsewhere prints it whenever it has changed."""

    def __init__(self) -> None:
        self._live = None
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
        self._last: str | None = None

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, text: str) -> None:
        """Show `text`."""
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(text, overflow="ellipsis", no_wrap=True), refresh=True)
        elif text != self._last:
            print(text)
        self._last = text


def lines(state: State) -> list[str]:
    """Return a state as lines for people."""
    from fairtune.report.words import duration

    said = [f"study {state.study}: {', '.join(state.objectives)} on validation, {state.storage}"]
    said += _columns([_phase(phase) for phase in state.phases])
    if state.best is not None:
        best = state.best
        groups = "  ".join(f"{name} {value:.3f}" for name, value in best.groups.items())
        runs = f"mean of {best.runs} runs, shrunken" if best.runs > 1 else "shrunken"
        note = f"  {best.note}" if best.note else ""
        said.append(f"best {best.value:.3f} ({runs}): {best.label}  {best.mask}{note}")
        said += [f"  AUC {groups}"] if groups else []
    said += _figures("baselines", state.baselines, "points")
    said += _figures("confirmed", state.confirmed, "seeds")
    if state.running:
        said += ["running", *_columns([_run(run) for run in state.running])]
    said += _failed(state)
    if state.enqueued:
        said.append(f"enqueued: {', '.join(state.enqueued)}")
    if state.stop is not None and not state.finished:
        said.append(_stop(state.stop))
    if state.finished:
        tested = f"tested: {state.tested}" if state.tested else "not tested yet"
        said.append(f"finished; {tested}")
    elif state.left_seconds is not None:
        lanes = max(1, sum(not run.lost for run in state.running))
        said.append(f"left: about {duration(state.left_seconds)} with {lanes} at once")
    if not state.running and not state.finished:
        said.append("nobody works on it: `fairtune search` with its study file goes on")
    return said


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in rows
    ]


def _phase(phase: PhaseState) -> list[str]:
    ended = phase.complete + phase.pruned + phase.failed
    of = "" if phase.planned is None else f" of {phase.planned}"
    states = ("complete", "pruned", "failed", "running", "retrying")
    parts = [f"{getattr(phase, s)} {s}" for s in states if getattr(phase, s)]
    return [phase.phase, f"{ended}{of}", ", ".join(parts)]


def _figures(title: str, figures: tuple[Figure, ...], runs: str) -> list[str]:
    if not figures:
        return []
    rows = [[f.label, f"{f.value:.3f}", f"{f.runs} {runs}", f.note or ""] for f in figures]
    return [title, *_columns(rows)]


def _run(run: Running) -> list[str]:
    from fairtune.report.words import duration

    epoch = run.part + (f"epoch {run.epoch}/{run.epochs}" if run.epoch else "epoch -")
    value = "-" if run.value is None else f"{run.value:.3f}"
    beat = "beat ?" if run.silent is None else f"beat {duration(run.silent)} ago"
    name = f"{run.phase} {run.trial}" + (f" {run.label}" if run.label else "")
    if run.attempt > 1:
        name += f" (attempt {run.attempt})"
    lost = "gone" if run.gone else "silent" if run.lost else ""
    return [name, run.mask, run.worker, epoch, value, beat, f"for {duration(run.seconds)}", lost]


def _stop(stop: Stopping) -> str:
    when = f"{stop.at[:16].replace('T', ' ')} UTC on {stop.by}"
    if not stop.left:
        return f"stopped by `fairtune stop`, {when}"
    end = "at the next step of" if stop.now else "after"
    return f"`fairtune stop`, {when}: its workers leave {end} {', '.join(stop.left)}"


def _failed(state: State) -> list[str]:
    if not state.failures:
        return []
    shown = state.failures[-MOST_FAILURES:]
    rows = [
        [
            f"{f.phase} {f.trial}" + (f" {f.label}" if f.label else ""),
            f"{f.reason}{' (will be tried again)' if f.again else ''}",
            f.detail,
        ]
        for f in shown
    ]
    more = len(state.failures) - len(shown)
    return [f"failed{f' (and {more} before)' if more else ''}", *_columns(rows)]


def register(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(status)
    app.command()(watch)
