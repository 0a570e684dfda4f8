"""`fairtune stop`, `retry`, `zombies`, `enqueue`, `merge`: a study in the hands of a person."""

from __future__ import annotations

from typing import Annotated

import typer

from fairtune.cli.options import Force, Out, Storage

Name = Annotated[str, typer.Argument(help="Name of the study.")]
MOST = 20


def stop(
    study: Name,
    now: Annotated[
        bool,
        typer.Option("--now", help="Runs end at their next step, and go on later from there."),
    ] = False,
    out: Out = None,
    storage: Storage = None,
) -> None:
    """Tell all workers of a study to leave after their runs; later ones go on with it."""
    from fairtune.cli.options import place_of
    from fairtune.study.tend import stop, tended

    with tended(place_of(study, out, storage)) as held:
        order, running = stop(held, now=now)
    when = "at the next step: they hear it within a minute" if order.now else "after their run"
    print(f"all workers that take part in {study} leave {when}")
    for row in running[:MOST]:
        print(f"  {row.phase} {row.number + 1} on {':'.join(row.worker.split(':')[:2])}")
    _more(len(running))
    if not running:
        print("  none has a run under way; one that waits for the others leaves within seconds")
    print("`fairtune search` or `fairtune worker` goes on with the study")


def retry(
    study: Name,
    trials: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TRIAL]...", help="7 of the search, or PHASE/7."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All that failed for good, where none is named.")
    ] = False,
    out: Out = None,
    storage: Storage = None,
) -> None:
    """Let runs that failed for good be tried again, by whoever works on the study."""
    from fairtune.cli.options import place_of
    from fairtune.errors import ConfigError
    from fairtune.study.tend import retry, tended

    if not trials and not failed:
        raise ConfigError(
            "which runs?", todo="give --failed for all that failed for good, or name trials"
        )
    with tended(place_of(study, out, storage)) as held:
        chosen, late = retry(held, trials or ())
    if not chosen:
        print(f"no run of {study} has failed for good")
        return
    print(f"{len(chosen)} run(s) will be tried again, as if for the first time:")
    for row in chosen:
        waits = "  (waits: the search has fewer trials now)" if row in late else ""
        print(f"  {row.phase} {row.number + 1}, failed by {row.reason}{waits}")


def zombies(
    study: Name,
    fail: Annotated[
        bool, typer.Option("--fail", help="Give them up: their runs are tried again.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=120,
            help="Watch beats so long, in place of trusting the clocks of the workers.",
        ),
    ] = None,
    out: Out = None,
    storage: Storage = None,
) -> None:
    """List runs whose worker is gone, or silent for longer than the grace."""
    from fairtune.cli.options import place_of
    from fairtune.study.tend import tended
    from fairtune.study.zombies import give_up, zombies

    with tended(place_of(study, out, storage)) as held:
        if seconds is not None:
            print(f"watching for {seconds:g} s")
        found = zombies(held, seconds)
        ended = give_up(held, found) if fail else []
    if not found:
        print(f"{study} has none")
        return
    for zombie in found:
        state = "  (given up: it is tried again)" if zombie in ended else ""
        host = f" on {zombie.worker}" if zombie.worker else ""
        print(f"{zombie.phase} {zombie.trial}{host}: {zombie.why}{state}")
    if not fail and any(zombie.ours for zombie in found):
        print("`--fail` gives them up; workers do so by themselves after 10 minutes of silence")


def enqueue(
    study: Name,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            help="recipe.json, a mask rule such as attn:9-11,norm:all, or a FairTune .npy.",
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option("--set", help="A searched field, e.g. optim.lr=1e-4; several times."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="FairTune tuning method of a .npy mask.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Its name in tables.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With a new seed, if it was run already.")
    ] = False,
    out: Out = None,
    storage: Storage = None,
) -> None:
    """Let the search of a study try this point next, as one of its trials."""
    from fairtune.cli.options import place_of
    from fairtune.errors import ConfigError
    from fairtune.study.enqueue import Wanted, enqueue
    from fairtune.study.overview import Overview
    from fairtune.study.tend import tended

    if layout is not None and (mask is None or not mask.endswith(".npy")):
        raise ConfigError("a layout is that of a .npy mask", where="--layout", found=layout)
    place = place_of(study, out, storage)
    view = Overview.load(place)
    with tended(place) as held:
        done = enqueue(view, held.family, Wanted(mask, layout, words or (), label, again))
    after = f"after {done.before} other(s)" if done.before else "next"
    fields = "".join(f", {field}" for field in done.fields)
    print(f"{done.point.label} comes {after}: mask {done.mask}{fields}")
    for note in done.notes:
        print(note)


def merge(
    study: Name,
    source: Annotated[
        str, typer.Option("--from", help="Storage URL that finished rows are copied from.")
    ],
    out: Out = None,
    storage: Storage = None,
    force: Force = False,
) -> None:
    """Copy the finished rows of a study from another storage; can be given again at any time."""
    from fairtune.cli.options import place_of
    from fairtune.study.merge import merge
    from fairtune.study.storages import redact

    place = place_of(study, out, storage)
    done = merge(place, source, force=force)
    rows = {phase: count for phase, count in done.copied.items() if count}
    copied = ", ".join(f"{count} {phase}" for phase, count in rows.items()) or "nothing"
    print(f"{'made' if done.made else 'added to'} {study} in {redact(place.url)}: {copied}")
    known = sum(done.known.values())
    if known:
        print(f"{known} run(s) had a result there already")
    for line in done.forced:
        print(line)
    if done.left:
        print("left, as they are under way (merge again once they have ended):")
        print("\n".join(f"  {name}" for name in done.left[:MOST]))
        _more(len(done.left))


def _more(count: int) -> None:
    if count > MOST:
        print(f"  and {count - MOST} more")


def register(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (stop, retry, zombies, enqueue, merge):
        app.command()(command)
