"""The section of docs/measured.md from the file of editing.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evidence_page import source, table

TITLE = "Edits on real images"
Made = Mapping[str, Any]
DATA = {
    "nih-cxr-64": "Chest X-rays, sex (nih-cxr-64, target abnormal)",
    "marked": "Dermatoscopic images with a marker that tells sex (HAM10000, target malignant)",
}
HEADS = (
    "method", "seed", "sex, frozen head", "sex, re-trained head", "change of that", "AUC",
    "AUC by group", "eo_diff", "RMS / largest, 1/255",
)  # fmt: skip


def real(found: Mapping[str, Any]) -> list[str]:
    """Return the section of `editing.json`."""
    edits: list[Made] = list(found["edits"].values())
    lines = [
        f"## {TITLE}",
        "",
        "DINOv2 ViT-S/14, 70 px, bf16, frozen. An edit is learned on training rows, and assessed "
        "on test rows with heads that are fitted on training rows; thresholds of eo_diff are from "
        "validation. One query is a batch of 32 images. Intervals are of patients, 95 %, one by "
        "one; *change* is the re-trained head's AUC with the edit less that without, paired. "
        "Methods are the defaults of `dne` but for what is named; `gezo_as_published` has the "
        "published objective, size and start too (`tests/bench/editing.py`).",
        "",
        *source(found),
        "",
    ]
    for data, title in DATA.items():
        mine = [made for made in edits if made["data"] == data]
        if mine:
            lines += [f"### {title}", "", *_said(mine), "", *table(HEADS, list(_rows(mine))), ""]
    return lines


def brief(found: Mapping[str, Any]) -> list[str]:
    """Return means over seeds, for the page of edits."""
    edits: list[Made] = list(found["edits"].values())
    lines: list[str] = []
    for data, title in DATA.items():
        mine = [made for made in edits if made["data"] == data]
        if mine:
            lines += ["", f"{title}:", "", *table(BRIEF, list(_brief(mine)))]
    return lines[1:]


def _brief(mine: Sequence[Made]) -> Iterator[list[str]]:
    plain = mine[0]["arms"]["none"]
    yield ["no edit", "", *(_number(plain["figures"][name]["value"]) for name in SHOWN), NONE]
    settings = dict.fromkeys((m["queries"], m["method"]) for m in mine)
    for queries, method in sorted(settings):
        made = [m for m in mine if (m["queries"], m["method"]) == (queries, method)]
        edits = [m["arms"]["edit"] for m in made]
        means = [_mean(e["figures"][name]["value"] for e in edits) for name in SHOWN]
        yield [
            f"{method}, {queries:,}",
            str(len(made)),
            *map(_number, means),
            f"{_mean(e['norms']['rms'] for e in edits):.1f}",
        ]


def _mean(values: Iterable[float]) -> float:
    held = list(values)
    return sum(held) / len(held)


SHOWN = ("sa_auc_frozen", "sa_auc_retrained", "auc", "worst_auc", "eo_diff")
BRIEF = (
    "method, queries", "seeds", "sex, frozen head", "sex, re-trained head", "AUC", "worst group",
    "eo_diff", "RMS, 1/255",
)  # fmt: skip


def _said(mine: Sequence[Made]) -> list[str]:
    one = mine[0]
    return [
        f"{one['fitted']} training rows; {one['rows']} test rows of {one['patients']} patients."
    ]


def _rows(mine: Sequence[Made]) -> Iterator[list[str]]:
    for name, words in (
        ("none", "no edit"),
        ("reweighted", "no edit, group-reweighted head"),
        ("early", "no edit, head stopped early"),
    ):
        yield [words, "", *_figures(mine[0]["arms"][name], None), NONE]
    for queries in sorted({made["queries"] for made in mine}):
        for made in sorted(mine, key=lambda m: (m["method"], m["seed"])):
            if made["queries"] == queries:
                yield _row(made, "edit", f"{made['method']}, {queries:,} queries")
    largest = max(mine, key=lambda made: made["arms"]["edit"]["norms"]["rms"])
    yield _row(largest, "random", f"random, of the norm of {largest['method']}")


NONE = "–"


def _row(made: Made, arm: str, words: str) -> list[str]:
    shown, norms = made["arms"][arm], made["arms"][arm]["norms"]
    change = None
    if arm == "edit":
        change = next(
            c
            for c in made["changes"]
            if (c["figure"], c["against"]) == ("sa_auc_retrained", "none")
        )
    size = f"{norms['rms']:.1f} / {norms['linf']:.0f}"
    return [words, str(made["seed"]), *_figures(shown, change), size]


def _figures(arm: Mapping[str, Any], change: Mapping[str, float] | None) -> list[str]:
    figures = arm["figures"]
    groups = ", ".join(f"{name} {_number(g['auc']['value'])}" for name, g in arm["groups"].items())
    return [
        _interval(figures["sa_auc_frozen"]),
        _interval(figures["sa_auc_retrained"]),
        NONE if change is None else _interval(change, signed=True),
        _interval(figures["auc"]),
        groups,
        _interval(figures["eo_diff"]),
    ]


def _interval(figure: Mapping[str, float], *, signed: bool = False) -> str:
    if not math.isfinite(figure["value"]):
        return NONE
    low, high = (_number(figure[end], signed=signed) for end in ("low", "high"))
    return f"{_number(figure['value'], signed=signed)} [{low}, {high}]"


def _number(value: float, *, signed: bool = False) -> str:
    if not math.isfinite(value):
        return NONE
    return f"{value:+.3f}" if signed else f"{value:.3f}"
