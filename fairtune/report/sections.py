"""The report as sections of text, tables and figures, whatever they are written as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fairtune.report import edit_figures, grids, mitigations, post, provenance
from fairtune.report.costs_grid import costs
from fairtune.report.edits import APPLIED, added, edit_words
from fairtune.report.figure import Figure
from fairtune.report.figures import FIGURES
from fairtune.report.grid import Grid, plain_grid
from fairtune.report.tables import Tables
from fairtune.report.usage import prompt_grid, text_words_of
from fairtune.report.words import LABELS, harm_words, objective_words
from fairtune.study.overview import Overview

DECISIONS = ("roc", "calibration", "operating", "benefit", "crossings")
SEARCH = ("history", "overtuning", "tradeoff", "learning")
MASKS = ("network", "masks", "effects", "importance")


@dataclass(frozen=True)
class Picture:
    """An image: its content as a data URI, what it is, and what it shows."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True, eq=False)
class Part:
    """One piece of a section.

    Attributes:
        kind: `text`, `note` (small print), `heading`, `table`, `figure`, `pictures` or `folded`
            (tables that a page keeps shut).
        text: The sentence, the heading, or what is folded.
        grids: Tables.
        figure: The figure.
        printed: Whether what is folded is opened for printing.
        pictures: Images, side by side.
    """

    kind: Literal["text", "note", "heading", "table", "figure", "pictures", "folded"]
    text: str = ""
    grids: Sequence[Grid] = ()
    figure: Figure | None = None
    printed: bool = False
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Section:
    """A section: its id, its heading, what is in it."""

    name: str
    title: str
    parts: Sequence[Part]


def sections(view: Overview, tables: Tables, watts: float | None = None) -> list[Section]:
    """Return the report after the verdict; sections without content are left out.

    Args:
        view: The study.
        tables: Its tables.
        watts: See `costs_grid.costs`.
    """
    drawn = {name: make(tables) for name, make in FIGURES.items()}
    found = [
        Section("outcome", "Outcome", _outcome(tables)),
        Section("groups", "Groups", _groups(tables, drawn["forest"])),
        Section("decisions", "What the scores do", _figures(drawn, DECISIONS)),
        Section("search", "The search", _figures(drawn, SEARCH)),
        Section("mitigations", "Mitigations", _mitigations(view, tables)),
        Section("edit", "The edit", _edit(tables)),
        Section("parts", "What trains", _figures(drawn, MASKS)),
        Section("costs", "Costs", _costs(tables, watts)),
        Section("provenance", "Recipe and provenance", _provenance(view, tables)),
    ]
    return [section for section in found if section.parts]


def _outcome(tables: Tables) -> list[Part]:
    said = (
        f"The study assesses {objective_words(tables.objective)} ({tables.objective}). It speaks "
        f"of {harm_words(tables.objective)}. {LABELS}"
    )
    parts = [Part("text", said)]
    if len(tables.candidates):
        parts.append(_table(grids.recipes(tables)))
    else:
        parts.append(Part("text", "No recipe is finished yet."))
    if len(tables.objectives):
        caption = "Every objective, confirmed: means over fresh seeds on validation"
        parts.append(_table(plain_grid(tables.objectives, caption)))
    differences = grids.differences(tables.differences, tables.objective)
    return parts if differences is None else [*parts, _table(differences)]


def _groups(tables: Tables, forest: Figure | None) -> list[Part]:
    parts: list[Part] = []
    pick = tables.summary.pick
    if len(tables.outcome) and pick is not None:
        own = [
            grid
            for attribute in tables.attributes
            for grid in grids.groups_of_one(
                tables.outcome, pick, attribute, tables.split, "The pick"
            )
        ]
        parts += [_table(grid) for grid in own]
        parts += [Part("note", said) for said in _reading(tables)] if own else []
    if forest is not None:
        parts.append(Part("figure", figure=forest))
    if harm := grids.harm(tables.harm, tables.gaps, tables.delta):
        parts.append(Part("heading", "Who gains and who pays"))
        parts += map(_table, harm)
    if every := _every(tables):
        parts.append(Part("folded", "Every recipe by group and metric", every, printed=True))
    return parts


def _reading(tables: Tables) -> list[str]:
    run = tables.run
    if run is None:
        return [grids.reading(tables.split)]
    return [grids.reading(tables.split, by_group=post.by_group(run)), *post.needs(run)]


def _every(tables: Tables) -> list[Grid]:
    """Return groups by recipes for every metric of the study."""
    parts = [part.name for axis in tables.axes for part in axis.parts]
    metrics = dict.fromkeys(["auc", *parts, *grids.SHOWN])
    return [g for a in tables.attributes for m in metrics for g in grids.groups(tables, a, m)]


def _figures(drawn: dict[str, Figure | None], names: Sequence[str]) -> list[Part]:
    return [Part("figure", figure=made) for name in names if (made := drawn[name]) is not None]


def _mitigations(view: Overview, tables: Tables) -> list[Part]:
    found = mitigations.grids(view, tables.mitigations, tables.terms)
    if tables.run is not None:
        found += mitigations.pick_grids(tables.run.mitigations)
    return list(map(_table, found))


def _edit(tables: Tables) -> list[Part]:
    """Return what the pick adds to every image: no image of a patient is in it."""
    if tables.run is None or not tables.run.recipe.edited:
        return []
    parts = [Part("text", f"{edit_words(tables.run).strip()} {APPLIED}")]
    norms, found = tables.run.editing.get("norms"), added(tables.run)
    if norms is not None and found is not None:
        parts.append(Part("figure", figure=edit_figures.drawn(found, norms)))
    path = edit_figures.followed(tables.run.editing.get("trace", ()))
    return parts if path is None else [*parts, Part("figure", figure=path)]


def _costs(tables: Tables, watts: float | None) -> list[Part]:
    grid = costs(tables, watts)
    parts = [Part("text", "Nothing has run yet.")] if grid is None else [_table(grid)]
    if len(tables.trials):
        parts.append(Part("folded", "All runs of search and baselines", [grids.trials(tables)]))
    return parts


def _provenance(view: Overview, tables: Tables) -> list[Part]:
    found = [provenance.provenance(view, tables.run)]
    if tables.run is None:
        return list(map(_table, found))
    found.insert(0, provenance.recipe(tables.run, view.units, tables.summary.pick or ""))
    if (prompts := prompt_grid(tables.run)) is not None:
        found.insert(1, prompts)
    notes = [Part("note", said) for said in text_words_of(tables.run)]
    return [*map(_table, found), *notes]


def _table(grid: Grid) -> Part:
    return Part("table", grids=[grid])
