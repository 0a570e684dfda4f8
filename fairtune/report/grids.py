"""The tables that carry the result: recipes side by side, groups, differences, who paid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fairtune.evaluation.objectives import Objective
from fairtune.report.grid import Cell, Grid, cell
from fairtune.report.scored import PERMUTATIONS
from fairtune.report.tables import Tables
from fairtune.report.words import (
    FEW,
    NOTHING,
    TOO_SMALL,
    count_texts,
    duration,
    ends,
    grouped,
    metric_words,
    number,
    signed,
    with_ends,
)

SHOWN = ("auc", "tpr", "fpr", "ece")
"""Base metrics of the table of one recipe's groups."""


def recipes(tables: Tables) -> Grid:
    """Return validation, corrected, confirmed and test values beside each other."""
    rows = []
    for c in tables.candidates.to_dict("records"):
        seeds = f" ({c['confirm_seeds']} seeds)" if c["confirm_seeds"] > 1 else ""
        tested = f" ({c['test_seeds']} seeds)" if c["test_seeds"] > 1 else ""
        kind = "baseline" if c["is_baseline"] else "found by the search"
        tone = "strong" if c["pick"] else "plain"
        known = c["confirmed"] == c["confirmed"]
        rows.append(
            [
                Cell(f"{c['label']} (pick)" if c["pick"] else str(c["label"]), tone),
                Cell(f"{kind}, degenerate" if c["degenerate"] else kind, "quiet"),
                cell(c["searched"]),
                Cell(number(c["confirmed"]) + seeds) if known else cell(None),
                cell(c["corrected"]),
                Cell(number(c["test"]) + tested, tone) if c["test_seeds"] else cell(None),
            ]
        )
    notes = [
        "“Search” is what the recipe was chosen by, so it reads too well; “confirm” is its mean "
        "over fresh seeds on the same validation patients; “corrected” takes off what choosing "
        "the best on these patients contributed (bootstrap); only “test” speaks of patients that "
        "nothing was chosen on.",
    ]
    if tables.split == "validation":
        notes.append("The test is still closed.")
    heads = ["recipe", "", "search", "confirm", "corrected for choice", "test"]
    return Grid(f"{tables.objective}, by stage", heads, rows, notes=notes)


def groups(tables: Tables, attribute: str, metric: str) -> list[Grid]:
    """Return one table per target: groups by recipes, with worst, gap and noise floor."""
    found = tables.outcome
    if not len(found):
        return []
    of = found[(found["attribute"] == attribute) & (found["metric"] == metric)]
    targets = list(dict.fromkeys(of["target"]))
    return [_groups(tables, found, attribute, metric, target) for target in targets]


def _groups(
    tables: Tables, found: pd.DataFrame, attribute: str, metric: str, target: str | None
) -> Grid:
    one = found[found["target"].isna() if target is None else found["target"] == target]
    recipes = list(dict.fromkeys(one["recipe"]))
    own = one[(one["attribute"] == attribute) & (one["metric"] == metric)]
    names = list(dict.fromkeys(own["group"].dropna()))
    first = own[(own["recipe"] == recipes[0]) & own["group"].notna()].set_index("group")
    sizes = count_texts([int(first["n"][n]) for n in names])
    positives = count_texts([int(first["positives"][n]) for n in names])
    hidden = [n for n in names if not first["shown"][n]]
    rows = []
    for name, n, pos in zip(names, sizes, positives):
        few = name in hidden
        # A group too small to show keeps its positives to itself as well.
        cells = [Cell(name), Cell(n), Cell("" if few else pos, "quiet" if few else "plain")]
        for recipe in recipes:
            row = own[(own["recipe"] == recipe) & (own["group"] == name)]
            cells.append(_figure(row.to_dict("records")[0]))
        rows.append(cells)
    rows += _reductions(one, attribute, metric, recipes)
    words = metric_words(metric)
    where = "" if target is None else f", {target}"
    heads = [attribute, "n", "positives", *(_head(tables, r) for r in recipes)]
    return Grid(f"{words} by {attribute}{where}, {tables.split}", heads, rows)


def groups_of_one(
    found: pd.DataFrame, recipe: str, attribute: str, split: str, caption: str
) -> list[Grid]:
    """Return one table per target: groups of one recipe by AUC, decisions and calibration.

    Args:
        found: See `scored.group_frame`.
        recipe: Whose figures.
        attribute: Whose groups.
        split: For the caption.
        caption: What the recipe is called there.
    """
    own = found[found["recipe"] == recipe]
    grouped = own[(own["attribute"] == attribute) & own["group"].notna()]
    grids = []
    for target in dict.fromkeys(grouped["target"]):
        one = own[own["target"].isna() if target is None else own["target"] == target]
        where = "" if target is None else f", {target}"
        grids.append(_of_one(one, attribute, f"{caption} by {attribute}{where}, {split}"))
    return grids


def reading(split: str, *, by_group: bool = False) -> str:
    """Return how the tables of groups are to be read.

    Args:
        split: `test` or `validation`.
        by_group: Whether the model's decisions are made at thresholds that differ by group.
    """
    on = split == "test"
    which = "the one to deploy" if on else "the median confirm run, else the run of the search"
    cut = "frozen on validation" if on else "cross-fitted on validation"
    thresholds = "thresholds of each group" if by_group else "one threshold for all groups"
    return (
        f"One model per recipe ({which}), {split} patients, 95 % intervals at the patient "
        f"level; {thresholds}, {cut}; “worst” of a false-positive rate or a "
        "calibration error is the highest. The noise floor (mean to 95 %) is how large a gap "
        f"reads when group names are shuffled between patients ({PERMUTATIONS} times): a gap "
        "below its 95 % mark cannot be told from chance. Groups below the study's minimum are "
        "not shown, counts below "
        f"{FEW} read “<{FEW}”."
    )


def _of_one(one: pd.DataFrame, attribute: str, caption: str) -> Grid:
    of = one[(one["attribute"] == attribute) & one["group"].notna()]
    auc = of[of["metric"] == "auc"].set_index("group")
    names = list(auc.index)
    counts = {
        key: count_texts([int(auc[key][n]) for n in names])
        for key in ("n", "patients", "positives")
    }
    rows = []
    for i, name in enumerate(names):
        few = not auc["shown"][name]
        cells = [Cell(name), Cell(counts["n"][i])]
        # A group too small to show keeps what else there is of it to itself.
        cells += [Cell("" if few else counts[key][i]) for key in ("patients", "positives")]
        for metric in SHOWN:
            row = of[(of["metric"] == metric) & (of["group"] == name)]
            known = row.to_dict("records")
            cells.append(Cell(TOO_SMALL, "quiet") if few or not known else _figure(known[0]))
        rows.append(cells)
    rows += _totals(one, attribute)
    heads = [attribute, "n", "patients", "positives", *(metric_words(m) for m in SHOWN)]
    return Grid(caption, heads, rows)


def _totals(one: pd.DataFrame, attribute: str) -> list[list[Cell]]:
    """Return the rows below the groups: all patients, worst, gap, noise floor."""
    overall = one[one["attribute"].isna() & one["group"].isna() & (one["metric"] == "auc")]
    counts = [Cell(f"{int(overall[k].iloc[0]):,}") for k in ("n", "patients", "positives")]
    rows = [[Cell("all patients", "strong"), *counts]]
    for metric in SHOWN:
        rows[0].append(_reduced(one, metric, None))
    for words, form in (("worst group", "worst_{}"), ("gap", "{}_gap")):
        cells = [_reduced(one, form.format(metric), attribute) for metric in SHOWN]
        rows.append([Cell(words, "strong"), Cell(""), Cell(""), Cell(""), *cells])
    floors = []
    for metric in SHOWN:
        of = one[(one["metric"] == f"{metric}_gap") & (one["attribute"] == attribute)]
        floors.append(_short_floor(of.to_dict("records")[0]) if len(of) else cell(None))
    rows.append([Cell("noise floor"), Cell(""), Cell(""), Cell(""), *floors])
    return rows


def _reduced(one: pd.DataFrame, head: str, attribute: str | None) -> Cell:
    of = one[(one["metric"] == head) & one["group"].isna()]
    of = of[of["attribute"].isna() if attribute is None else of["attribute"] == attribute]
    return _value(of.to_dict("records")[0]) if len(of) else cell(None)


def _head(tables: Tables, recipe: str) -> str:
    return f"{recipe} (pick)" if recipe == tables.summary.pick else recipe


def _figure(row: Mapping[Any, Any]) -> Cell:
    if not row["shown"]:
        return Cell(TOO_SMALL, "quiet")
    return Cell(with_ends(row["value"], row["low"], row["high"]))


def _reductions(
    one: pd.DataFrame, attribute: str, metric: str, recipes: list[str]
) -> list[list[Cell]]:
    """Return the rows below the groups: overall, worst, gap, noise floor."""
    name, at, point = metric.partition("@")
    wanted = [
        ("all patients", metric, None),
        ("worst group", f"worst_{name}{at}{point}", attribute),
        ("gap", f"{name}_gap{at}{point}", attribute),
    ]
    rows: list[list[Cell]] = []
    for words, head, of in wanted:
        own = one[(one["metric"] == head) & one["group"].isna()]
        own = own[own["attribute"].isna() if of is None else own["attribute"] == of]
        if not len(own):
            continue
        by = {str(row["recipe"]): row for row in own.to_dict("records")}
        n = f"{int(own['n'].iloc[0]):,}" if of is None else ""
        known = int(own["positives"].iloc[0]) if of is None else -1
        cells = [Cell(words, "strong"), Cell(n), Cell(f"{known:,}" if known >= 0 else "")]
        cells += [_value(by[r]) if r in by else cell(None) for r in recipes]
        rows.append(cells)
        if head.endswith("_gap") or "_gap@" in head:
            floors = [_floor(by[r]) if r in by else cell(None) for r in recipes]
            rows.append([Cell("noise floor of the gap"), Cell(""), Cell(""), *floors])
    return rows


def _value(row: Mapping[Any, Any]) -> Cell:
    if row["value"] != row["value"]:
        return Cell("too few groups", "quiet")
    return Cell(with_ends(row["value"], row["low"], row["high"]), "strong")


def _floor(row: Mapping[Any, Any]) -> Cell:
    if row["base_rate_gap"] == row["base_rate_gap"]:
        return Cell(f"none; base rates differ by {number(row['base_rate_gap'])}", "quiet")
    if row["floor_mean"] != row["floor_mean"]:
        return cell(None)
    return Cell(f"mean {number(row['floor_mean'])}, 95 % {number(row['floor_95'])}", "quiet")


def _short_floor(row: Mapping[Any, Any]) -> Cell:
    if row["floor_mean"] != row["floor_mean"]:
        return cell(None)
    return Cell(f"{number(row['floor_mean'])} to {number(row['floor_95'])}", "quiet")


def differences(frame: pd.DataFrame, objective: Objective) -> Grid | None:
    """Return the difference of the pick to each baseline; None while the test is closed.

    Args:
        frame: See `tables.difference_frame`.
        objective: The primary objective.
    """
    if not len(frame):
        return None
    rows = [
        [
            Cell(d["baseline"]),
            Cell(with_ends(d["value"], d["low"], d["high"], sign=True)),
            Cell(ends(d["holm_low"], d["holm_high"])),
            Cell(number(d["p"])),
            Cell(f"{int(d['patients']):,}"),
        ]
        for d in frame.to_dict("records")
    ]
    heads = ["pick against", "difference [95 %]", "bounds after Holm", "p", "patients"]
    notes = [
        "Means over the seeds of each recipe, on the same patients, resampled by patient "
        "and seed. Positive is better for the pick. The bounds hold for all baselines "
        f"together; they speak of {frame['speaks_of'].iloc[0]}.",
    ]
    return Grid(f"Difference in {objective}, test", heads, rows, notes=notes)


def harm(changes: pd.DataFrame, moved: pd.DataFrame, delta: float) -> list[Grid]:
    """Return per attribute who is better and who worse off than under each baseline.

    Args:
        changes: See `tables.harm_frame`.
        moved: See `tables.gap_frame`.
        delta: Loss that is still tolerated.
    """
    found = []
    for attribute in dict.fromkeys(changes["attribute"]):
        frame = changes[changes["attribute"] == attribute]
        gaps = moved[moved["attribute"] == attribute]
        rows = []
        for h in frame.to_dict("records"):
            word = "harmed" if h["certain"] else "worse, uncertain" if h["harmed"] else ""
            rows.append(
                [
                    Cell(f"{h['group']}, against {h['reference']}"),
                    Cell(number(h["baseline"])),
                    Cell(number(h["pick"])),
                    Cell(
                        f"{signed(h['change'])} {ends(h['low'], h['high'])}",
                        "alarm" if h["harmed"] else "plain",
                    ),
                    Cell(word, "alarm" if h["harmed"] else "quiet"),
                ]
            )
        notes = [f"Against {g['reference']}: {g['sentence']}" for g in gaps.to_dict("records")]
        notes.append(
            f"Positive is better for the group. “Worse” is a loss of more than {delta:g}; "
            "“harmed” when the whole interval says so."
        )
        heads = [attribute, "baseline", "pick", "change [95 %]", ""]
        found.append(Grid(f"Change of each group by {attribute}, test", heads, rows, notes=notes))
    return found


def trials(tables: Tables) -> Grid:
    """Return every trial of the search and every point of the baselines."""
    rows = []
    mitigated = bool((tables.trials["mitigations"] != "").any())
    edited = bool((tables.trials["edit"] != "").any())
    for t in tables.trials.to_dict("records"):
        reason = t["reason"] if isinstance(t["reason"], str) else ""
        state = f"{t['state']}: {reason}" if reason else str(t["state"])
        state = "degenerate" if isinstance(t["degenerate"], str) else state
        rows.append(
            [
                Cell(f"{t['phase']} {t['number']}"),
                Cell(t["label"] or t["kind"], "quiet"),
                *([Cell(t["mitigations"] or NOTHING)] if mitigated else []),
                *([Cell(t["edit"] or NOTHING), Cell(grouped(t["queries"]))] if edited else []),
                Cell(state, "plain" if state == "complete" else "alarm"),
                cell(t["value"]),
                cell(t["auc"]),
                Cell(t["glyph"]),
                cell(t["share"]),
                Cell(duration(t["seconds"])),
            ]
        )
    what = ["mitigations"] if mitigated else []
    what += ["edit", "queries"] if edited else []
    heads = [
        "run",
        "",
        *what,
        "state",
        str(tables.objective),
        "AUC",
        "blocks",
        "trained share",
        "time",
    ]
    return Grid("All runs of search and baselines, on validation", heads, rows)
