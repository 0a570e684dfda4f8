"""A study in a few lines, for the end of `search` and for `status`."""

from __future__ import annotations

from fairtune.errors import FairtuneError
from fairtune.study.overview import Overview
from fairtune.study.place import ENDED, Place
from fairtune.study.rows import (
    BASELINE,
    CONFIRM,
    CONTROL,
    FINAL,
    SEARCH,
    counts,
    paid_queries,
    results,
)
from fairtune.study.select import corrected, picked, rows_in_words


def summary(place: Place) -> str:
    """Return counts by phase, the candidates with their figures, and the pick with its reason."""
    view = Overview.load(place)
    named = ", ".join(str(objective) for objective in view.judge.objectives)
    lines = [f"study {place.name}: {named} on validation, {view.url}"]
    for phase in (BASELINE, SEARCH, CONTROL, CONFIRM, FINAL):
        tally = {state: n for state, n in counts(view.rows[phase]).items() if n}
        if tally:
            parts = ", ".join(f"{n} {state}" for state, n in tally.items())
            lines.append(f"  {phase}: {parts}")
    asked = paid_queries([row for rows in view.rows.values() for row in rows])
    if asked is not None:
        lines.append(f"  queries asked for edits: {asked:,.0f}")
    ended = view.settings.get(ENDED)
    if ended is not None:
        lines.append(f"  search ended by {ended}")
    broken = [r for r in results(view.rows[SEARCH]) if any(v > 0 for v in r.constraints.values())]
    if view.judge.constraints:
        total = len(results(view.rows[SEARCH]))
        lines.append(f"  constraints: {total - len(broken)} of {total} trials keep all of them")
    candidates = view.candidates()
    if not candidates:
        return "\n".join([*lines, "  no recipe is finished yet"])
    wide = max(len(c.label) for c in candidates)
    lines.append(f"  {'recipe':<{wide}}  search  confirm (per seed)")
    for c in candidates:
        confirm = "-" if c.confirmed is None else f"{c.confirmed:.3f}"
        seeds = " ".join(f"{v:.3f}" for v in c.values)
        note = f"  {c.degenerate}" if c.degenerate else ""
        lines.append(f"  {c.label:<{wide}}  {c.searched:.3f}   {confirm}   ({seeds}){note}")
    if all(c.unusable for c in candidates):
        return "\n".join([*lines, "  every recipe is degenerate: there is nothing to pick"])
    try:
        chosen = picked(view, candidates)
    except FairtuneError as error:
        return "\n".join([*lines, f"  no pick by '{view.settings['select']}': {error.what}"])
    lines.append(f"  pick by '{view.settings['select']}': {chosen.label}")
    if chosen.degenerate:
        lines.append("  warning: on this validation set no recipe can be told from chance")
    try:
        found = corrected(view, candidates)
    except FairtuneError as error:
        found = None
        lines.append(f"  {rows_in_words(view)} cannot be corrected for the choice: {error.what}")
    if found is not None:
        lines.append(
            f"  {rows_in_words(view)} {found.naive:.3f}, corrected for the choice of recipe and "
            f"group {found.corrected:.3f}"
        )
    lines.append(f"  next: fairtune finetune --study {place.name}")
    return "\n".join(lines)
