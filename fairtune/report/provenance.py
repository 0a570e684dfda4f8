"""What the pick is made of, and what made the figures: for whoever wants to repeat them."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import fairtune
from fairtune.adaptation.mask import Mask
from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import StoredRun
from fairtune.models.units import Units
from fairtune.report.grid import Cell, Grid
from fairtune.report.summary import openings_of
from fairtune.report.words import number
from fairtune.study.code import forced_of
from fairtune.study.overview import Overview
from fairtune.training.recipe import PROTOCOL, Recipe

FILES = ("data.dataset", "model.name", "model.weights")
GLYPHS = "(. frozen, : part, # all)"
VERSIONS = ("fairtune", "torch", "python", "device")


def recipe(run: StoredRun, units: Units | None, label: str) -> Grid:
    """Return the fields of a recipe that act, without paths of this machine.

    Args:
        run: A run of it.
        units: Units of its model, for the drawing of the mask by blocks; left out without them.
        label: What it is called.
    """
    rows = []
    for path, value in _flat(run.recipe.canonical()):
        if path == "adaptation.mask":
            mask = Mask(tuple(value))
            share = number(run.costs["trainable_share"])
            text = f"{len(mask.units)} units, {share} of the parameters trained"
            text += "" if units is None else f", blocks {mask.glyph(units)} {GLYPHS}"
            empty = "nothing is fitted" if run.recipe.scored else "only the head is fitted"
            value = text if mask.units else f"none: {empty}"
        elif path in FILES:
            value = PurePath(str(value)).name
        rows.append([Cell(path), Cell(_plain(value))])
    return Grid(f"Recipe of {label}", ["field", "value"], rows, numeric=False)


def provenance(view: Overview, run: StoredRun | None) -> Grid:
    """Return versions, hashes, seeds and storage of a study."""
    facts = [
        ("study", view.place.name),
        ("seed of the study", view.seed),
        ("storage", storage_words(view)),
        *_ground(view.base),
        *_judged(view.judge),
        *([] if run is None else _made(run)),
    ]
    if forced := forced_of(view.search):
        facts.append(("runs by other code (--force)", "; ".join(forced)))
    if openings := openings_of(view):
        facts.append(("test opened by this study", "; ".join(openings)))
    return _listed(facts)


def of_run(run: StoredRun, judge: Judge) -> Grid:
    """Return versions, hashes and seeds of a run without a study."""
    return _listed([*_ground(run.recipe), *_judged(judge), *_made(run)])


def _ground(base: Recipe) -> list[tuple[str, Any]]:
    return [
        ("data", f"{PurePath(base.data.dataset).name}, target {base.data.target}"),
        ("data fingerprint", base.data.fingerprint),
        ("split", base.data.split),
        ("weights (tensor hash)", base.model.weights_sha),
        ("units", base.model.units),
    ]


def _judged(judge: Judge) -> list[tuple[str, Any]]:
    validation = judge.validation
    return [
        ("objectives", ", ".join(map(str, judge.objectives))),
        ("a group counts from", str(validation.minimum)),
        ("threshold", str(validation.rule)),
        ("epoch kept", _plain(validation.to_json()["epoch"])),
        ("protocol", PROTOCOL),
    ]


def _made(run: StoredRun) -> list[tuple[str, Any]]:
    said = run.card["provenance"]
    facts = [(name, said[name]) for name in VERSIONS if name in said]
    return [*facts, ("recipe digest", run.card["digest"]), ("run shown", run.key)]


def _listed(facts: list[tuple[str, Any]]) -> Grid:
    facts = [*facts, ("written by", f"fairtune {fairtune.__version__}")]
    rows = [[Cell(name), Cell(_plain(value))] for name, value in facts if value is not None]
    return Grid("Provenance", ["", ""], rows, numeric=False)


def storage_words(view: Overview) -> str:
    """Return the storage with its password hidden and without paths of this machine."""
    url = view.url
    if url.startswith("local:"):
        return "local: PostgreSQL in the results folder"
    kind = re.match(r"[\w+]+", url)
    if url.startswith(("sqlite", "journal")):
        return f"{kind.group() if kind else 'file'}: {PurePath(url.split('?')[0]).name}"
    return url


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        parts = [_flat(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()]
        return [item for part in parts for item in part]
    if isinstance(value, list | tuple) and value and all(isinstance(v, dict) for v in value):
        return [item for v in value for item in _flat(v, path)]
    return [(path, value)]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
