"""What mitigations did in the runs of a study, and whether their weights let them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fairtune.config.registry import name_of
from fairtune.mitigation.combine import named_attributes
from fairtune.report.grid import Cell, Grid, cell
from fairtune.report.words import NOTHING, count_texts, number
from fairtune.study.execute import TERMS
from fairtune.study.overview import Overview
from fairtune.study.rows import SEARCH, current, mitigations_of
from fairtune.training.recipe import Recipe

DEAD, DOMINANT = 1e-3, 10.0
"""A term whose gradient is less than this share of the task's does nothing; one whose gradient is
more than so many times the task's does little else."""

PLAIN = "none"


def term_frame(view: Overview) -> pd.DataFrame:
    """Return one row per finished run of the search and term of a mitigation in it.

    Columns: `number` (from 1), `mitigation`, `loss_start`, `gradient_start`, `loss_end`,
    `gradient_end` (the term and its gradient as shares of those of the task), `weight` (`dead`,
    `dominant` or empty).
    """
    rows = []
    for row in _finished(view):
        for name, said in row.attrs.get(TERMS, {}).items():
            start = said["start"]
            end = said.get("end", start)  # a run of one step has no other
            rows.append(
                {
                    "number": row.number + 1,
                    "mitigation": name,
                    "loss_start": _number(start.get("loss")),
                    "gradient_start": _number(start.get("gradient")),
                    "loss_end": _number(end.get("loss")),
                    "gradient_end": _number(end.get("gradient")),
                    "weight": flag(start.get("gradient"), end.get("gradient")),
                }
            )
    columns = [
        "number", "mitigation", "loss_start", "gradient_start", "loss_end", "gradient_end",
        "weight",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def flag(start: float | None, end: float | None) -> str:
    """Return `dead`, `dominant` or nothing of a term's gradient beside the task's.

    A term is dead where it is so from start to end; one that outweighs the task at either end is
    dominant. What is not known (None: not finite) counts as large.
    """
    known = [float("inf") if value is None else value for value in (start, end)]
    if max(known) < DEAD:
        return "dead"
    return "dominant" if max(known) > DOMINANT else ""


def choice_frame(view: Overview) -> pd.DataFrame:
    """Return one row per set of mitigations that the search finished runs with.

    Columns: `mitigations`, `runs`, `mean`, `best` (of the primary objective on validation),
    `dead`, `dominant` (runs in which a term was). Empty where no run had any.
    """
    sign = view.judge.primary.sign
    flags = term_frame(view)
    found: dict[str, list[tuple[int, float]]] = {}
    for row in _finished(view):
        if row.values is not None:
            name = mitigations_of(row.recipe) or PLAIN
            found.setdefault(name, []).append((row.number + 1, float(row.values[0])))
    if set(found) <= {PLAIN}:
        return pd.DataFrame()
    rows = []
    for name, runs in found.items():
        values = [value for _, value in runs]
        own = flags[flags["number"].isin([n for n, _ in runs])]
        rows.append(
            {
                "mitigations": name,
                "runs": len(runs),
                "mean": sum(values) / len(values),
                "best": sign * max(sign * value for value in values),
                **{
                    word: int(own.loc[own["weight"] == word, "number"].nunique())
                    for word in ("dead", "dominant")
                },
            }
        )
    return pd.DataFrame(rows).sort_values("mean", ascending=sign < 0, ignore_index=True)


def grids(view: Overview, choices: pd.DataFrame, terms: pd.DataFrame) -> list[Grid]:
    """Return the tables of the section, none where no mitigation was at work."""
    found: list[Grid] = []
    if len(choices):
        rows = [
            [
                Cell(c["mitigations"], "strong" if c["mitigations"] == PLAIN else "plain"),
                *(cell(c[name]) for name in ("runs", "mean", "best")),
                *(Cell(str(c[n]), "alarm" if c[n] else "quiet") for n in ("dead", "dominant")),
            ]
            for c in choices.to_dict("records")
        ]
        heads = [
            "mitigations", "runs", f"mean {view.judge.primary}", "best", "dead", "dominant",
        ]  # fmt: skip
        notes = (
            "The best of several runs reads too high, the more so the more runs there were; what "
            "a mitigation does is told by confirmed runs against plain training on the same "
            "mask.",
            f"Dead: the gradient of a term stayed below {DEAD:g} of the task's. Dominant: it was "
            f"more than {DOMINANT:g} times the task's.",
        )
        found.append(Grid("Mitigations of the search, on validation", heads, rows, notes=notes))
    if len(terms):
        found.append(_terms(terms))
    return found


def mitigation_words(recipe: Recipe) -> str:
    """Return the mitigations of a recipe with their attributes: `sinkhorn (age), sam`."""
    said = []
    for member in recipe.mitigations:
        attributes = named_attributes(member)
        said.append(name_of(member) + (f" ({', '.join(attributes)})" if attributes else ""))
    return ", ".join(said)


def _terms(terms: pd.DataFrame) -> Grid:
    rows = [
        [
            Cell(f"search {t['number']}"),
            Cell(t["mitigation"]),
            *(Cell(_share(t[n])) for n in ("loss_start", "gradient_start")),
            *(Cell(_share(t[n])) for n in ("loss_end", "gradient_end")),
            Cell(t["weight"], "alarm" if t["weight"] else "plain"),
        ]
        for t in terms.to_dict("records")
    ]
    heads = ["run", "term", "loss, start", "gradient, start", "loss, end", "gradient, end", ""]
    return Grid("Terms of mitigations, as shares of the task's loss and gradient", heads, rows)


def pick_grids(said: Mapping[str, Any]) -> list[Grid]:
    """Return whom the pick's mitigations gave other weights, by group.

    Args:
        said: `StoredRun.mitigations`.
    """
    found = []
    if pairs := said.get("bad_pairs"):
        groups = {k.removeprefix("by "): v for k, v in pairs.items() if k.startswith("by ")}
        notes = ("A group that is flagged more often than the others is silenced by the mining.",)
        title = "Samples that bad-pair mining gives less weight, in the pick"
        rows = _counted(pairs, groups, "flagged")
        found.append(Grid(title, [*HEADS, "given less weight", "share"], rows, notes=notes))
    if (wrong := said.get("jtt")) and wrong.get("rows"):
        share = wrong["weight"]
        notes = (f"These rows have {number(share)} of the whole weight"
                 + (": they outvote all others." if share > HALF else "."),)  # fmt: skip
        rows = _counted(wrong, {"class": wrong["classes"], **wrong["groups"]}, "wrong")
        title = "Rows that the first fit of jtt got wrong, in the pick"
        found.append(Grid(title, [*HEADS, "wrong", "share"], rows, notes=notes))
    return found


HEADS = ("training rows", "n")
HALF = 0.5


def _counted(
    whole: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]], what: str
) -> list[list[Cell]]:
    """Return a row for all training rows, then for each group of each attribute."""
    rows = _told({"all rows": whole}, what)
    for attribute, counts in groups.items():
        rows += _told({f"{attribute} {name}": c for name, c in counts.items()}, what)
    return rows


def _told(groups: Mapping[str, Mapping[str, Any]], what: str) -> list[list[Cell]]:
    """Return a row for each group; small counts are not told, here or through their share."""
    told = [count_texts([c[n] for c in groups.values()]) for n in ("rows", what)]
    rows = []
    for (name, counts), n, chosen in zip(groups.items(), *told):
        plain = n.replace(",", "").isdigit() and chosen.replace(",", "").isdigit()
        share = counts[what] / counts["rows"] if plain and counts["rows"] else None
        rows.append([Cell(name), Cell(n), Cell(chosen), cell(share)])
    return rows


def _finished(view: Overview) -> list[Any]:
    rows = current(view.rows[SEARCH]).values()
    return sorted((r for r in rows if r.state == "complete"), key=lambda r: r.number)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _share(value: float) -> str:
    if value != value:
        return NOTHING
    if value == 0:
        return "0"
    return number(value) if 0.001 <= abs(value) < 1000 else f"{value:.0e}"
