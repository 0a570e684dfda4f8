"""Progress after an interruption goes on from what is stored."""

from __future__ import annotations

from dataclasses import replace

from kit_tiny import Tiny

from fairtune.cli.live import Progress
from fairtune.study.rows import Row


def stored(tiny: Tiny, degenerate: str | None) -> Row:
    row = next(r for r in tiny.view.rows["search"] if r.state == "complete")
    return replace(row, attrs={**row.attrs, "degenerate": degenerate})


def test_what_is_stored_sets_the_best_and_a_retry_is_no_new_trial(tiny: Tiny) -> None:
    row = stored(tiny, degenerate=None)
    failed = replace(row, number=0, root=0, state="failed", values=None)
    again = replace(row, number=1, root=0, values=(0.4,))
    second = replace(row, number=2, root=2, values=(0.6,))
    third = replace(row, number=3, root=3, values=(0.5,))
    progress = Progress(tiny.view.judge.objectives, 9)
    progress.goes_on([third, failed, second, again])
    assert progress.best is not None
    assert (progress.best.value, progress.best.name) == (0.6, "search 2/9")
    assert progress.best.groups


def test_a_degenerate_trial_is_never_the_best(tiny: Tiny) -> None:
    progress = Progress(tiny.view.judge.objectives, 9)
    progress.goes_on([stored(tiny, degenerate="constant scores")])
    assert progress.best is None
