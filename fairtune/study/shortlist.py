"""Which recipes of a search are confirmed: a pure function of rows.

With one objective the best shrunken means. With several, a point estimate says little of who
belongs to the front, so every row carries its objectives under the same few weightings of the
patients, and recipes are ordered by how often nothing dominates them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fairtune.evaluation.arrays import FloatArray
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.optimism import shrunken_means
from fairtune.evaluation.pareto import crowding, front
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.sampled import Side, sample
from fairtune.study.rank import Ranked, best_baselines, ranked
from fairtune.study.rows import BASELINE, CONTROL, SEARCH, Row
from fairtune.study.selection import Contest, Entrant, picks, utility_of

DRAWS = "draws"
"""Attribute of a row: its objectives under resampled patients, as text."""

REPLICATES = 100
Rows = Mapping[str, Sequence[Row]]


def draws_of(
    p: Predictions,
    objectives: Sequence[Objective],
    *,
    minimum: GroupMinimum,
    threshold: Threshold,
) -> str:
    """Return what a row keeps of its objectives' patient bootstrap.

    Patients are weighted alike in every row of a study, so rows are compared draw by draw.
    """
    side = {"run": Side([p], threshold)}
    drawn = sample(side, objectives, minimum=minimum, replicates=REPLICATES)["run"]
    return ";".join(",".join(f"{x:.4f}" for x in drawn.of(o).draws) for o in objectives)


def shortlist(
    rows: Rows, objectives: Sequence[Objective], top: int, taken: Collection[str] = ()
) -> list[Ranked]:
    """Return the recipes of the search to confirm, the best primary objective first.

    One objective: the `top` best shrunken means. Several: of twice as many that are most often
    non-dominated over the draws, the most crowded are dropped until `top` are left (crowding
    distance, Deb et al. 2002; the ends of the front stay); then what each selection rule would
    pick from the search is added. Degenerate recipes come last, constant ones never.

    Args:
        rows: Rows by phase.
        objectives: The study's objectives, the primary one first.
        top: How many.
        taken: Digests that are confirmed anyway.
    """
    known = ranked(rows.get(SEARCH, ()), objectives[0].sign)
    entries = [e for e in known if e.digest not in taken and not e.unusable]
    if len(objectives) == 1 or not entries or not top:
        return entries[:top]
    spread = spread_of(entries, objectives)
    kept = _uncrowded(entries, spread, objectives, top)
    contest = contest_of_rows(entries, rows.get(BASELINE, ()), objectives, spread)
    kept |= {choice.entrant.label for choice in picks(contest)[0].values()}
    return [e for e in entries if e.digest in kept]


def best_of_control(
    rows: Rows, objectives: Sequence[Objective], rule: str, taken: Collection[str] = ()
) -> Ranked | None:
    """Return what `rule` picks from the random masks, None while there are none.

    With one objective, or where the rule cannot be used on rows, the best primary objective.
    """
    known = ranked(rows.get(CONTROL, ()), objectives[0].sign)
    entries = [e for e in known if not e.unusable and e.digest not in taken]
    if not entries:
        return None
    if len(objectives) > 1 or rule != "best":
        spread = spread_of(entries, objectives)
        contest = contest_of_rows(entries, rows.get(BASELINE, ()), objectives, spread)
        choice = picks(contest)[0].get(rule)
        if choice is not None:
            return next(e for e in entries if e.digest == choice.entrant.label)
    return entries[0]


def spread_of(entries: Sequence[Ranked], objectives: Sequence[Objective]) -> FloatArray:
    """Return `(recipes, objectives, draws)`: draws around the shrunken mean of each recipe.

    A recipe whose rows carry no draws stands at its mean in all of them.
    """
    columns = []
    for j in range(len(objectives)):
        values = {e.digest: [_value(r, j) for r in e.rows] for e in entries}
        shrunk = shrunken_means(values)
        columns.append([shrunk[e.digest].shrunk for e in entries])
    centre = np.array(columns).T
    moved = np.stack([_deviations(e.rows, len(objectives)) for e in entries])
    return np.asarray(centre[:, :, None] + moved)


def _deviations(rows: Sequence[Row], objectives: int) -> FloatArray:
    found = [_read(str(r.attrs[DRAWS])) for r in rows if r.attrs.get(DRAWS)]
    found = [drawn for drawn in found if drawn.shape == (objectives, REPLICATES)]
    if not found:
        return np.zeros((objectives, REPLICATES))
    mean = np.mean(found, axis=0)
    return np.asarray(mean - mean.mean(axis=1, keepdims=True))


def _read(text: str) -> FloatArray:
    return np.array([[float(x) for x in one.split(",")] for one in text.split(";")])


def _value(row: Row, objective: int) -> float:
    assert row.values is not None
    return row.values[objective]


def _uncrowded(
    entries: Sequence[Ranked],
    spread: FloatArray,
    objectives: Sequence[Objective],
    top: int,
) -> set[str]:
    signs = [float(o.sign) for o in objectives]
    limits = np.array([_violation(e.rows) for e in entries])
    often = np.mean([front(spread[:, :, k], signs, limits) for k in range(REPLICATES)], axis=0)
    centre = spread.mean(axis=2)
    order = sorted(
        range(len(entries)), key=lambda i: (entries[i].degenerate is not None, -often[i], i)
    )
    pool = [i for i in order[: 2 * top] if often[i] > 0] or order[:1]
    pool += [i for i in order if i not in pool][: max(0, top - len(pool))]
    while len(pool) > top:
        lonely = crowding(centre[pool])
        worst = min(range(len(pool)), key=lambda k: (lonely[k], often[pool[k]], -pool[k]))
        pool.pop(worst)
    return {entries[i].digest for i in pool}


def contest_of_rows(
    entries: Sequence[Ranked],
    baselines: Sequence[Row],
    objectives: Sequence[Objective],
    spread: FloatArray,
) -> Contest:
    """Return the contest that rows allow: group values as far as rows carry them.

    Args:
        entries: Recipes, the best first.
        baselines: Rows of the baseline phase.
        objectives: The study's objectives.
        spread: From `spread_of`.
    """
    utility = utility_of(objectives[0])
    attribute = next((o.attribute for o in objectives if o.attribute is not None), None)
    best = best_baselines(baselines, objectives[0].sign)
    plain = [_entrant(label, [row], objectives, utility, attribute) for label, row in best.items()]
    known = [_entrant(e.digest, e.rows, objectives, utility, attribute) for e in entries]
    place = {e.digest: i for i, e in enumerate(entries)}
    names = {str(o): j for j, o in enumerate(objectives)}
    groups = set(known[0].groups)
    complete = all(set(e.groups) == groups for e in [*known, *plain])
    return Contest(
        tuple(known),
        tuple(plain),
        tuple(objectives),
        utility,
        attribute if complete else None,
        tuple(dict.fromkeys(name for e in entries for r in e.rows for name in r.constraints)),
        lambda label, objective: float(spread[place[label], names[str(objective)]].std()),
    )


def _entrant(
    label: str,
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    utility: str,
    attribute: str | None,
) -> Entrant:
    start = f"{utility}@{attribute}/"
    names = [name for name in rows[0].attrs if name.startswith(start)]
    groups = {
        name.removeprefix(start): float(np.mean([r.attrs[name] for r in rows]))
        for name in names
        if all(name in r.attrs for r in rows)
    }
    overall = [float(r.attrs[utility]) for r in rows if utility in r.attrs]
    scaled = None
    if overall and groups:
        whole = float(np.mean(overall))
        scaled = whole / (1 + sum(abs(whole - value) for value in groups.values()))
    return Entrant(
        label,
        {str(o): float(np.mean([_value(r, j) for r in rows])) for j, o in enumerate(objectives)},
        float(np.mean([float(r.attrs.get("trainable_share", 0.0)) for r in rows])),
        groups,
        scaled,
        _violation(rows),
    )


def _violation(rows: Sequence[Row]) -> float:
    return float(np.mean([sum(max(0.0, v) for v in r.constraints.values()) for r in rows]))
