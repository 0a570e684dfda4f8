"""The sections of docs/measured.md from the files of mitigating.py and transport.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evidence_page import source, table

Row = Mapping[str, Any]
ERM, EVEN = "ERM", "ERM, even groups"
WORST, AUC, GAP = "worst_auc@group", "auc", "auc_gap@group"
ARMS = {
    "unbiased": "Validation without the bias",
    "biased": "Validation with the bias of training",
}


def planted(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section of the files that mitigating.py wrote, one or several arms each."""
    first = found[0]
    arms = {arm["arm"]: arm for one in found for arm in one["arms"]}
    counts = next(iter(arms.values()))["n"]
    sizes = ", ".join(f"{name} {n}" for name, n in counts.items())
    lines = [
        "## Mitigations on a planted bias",
        "",
        "HAM10000 with a blue square that in training goes with the label in one of two random "
        f"groups of lesions (`marked`; strength {first['strength']:g}, "
        "`tests/bench/planted.py`), and says nothing on the test. DINOv2 ViT-S/14 at 70 px, its "
        f"last two blocks train. Each method had {first['trials']} trials over the learning rate "
        "and its own settings; the one with the best worst-group AUC on validation was trained "
        f"with {first['seeds']} seeds that all methods share (`tests/bench/mitigating.py`, "
        f"`planted-bias.yaml`). Seed {first['seed']}; rows: {sizes}. Intervals are two-level "
        "(patients and seeds), paired, 95 %, one by one: among so many, one in twenty excludes 0 "
        "by chance. A group is harmed where its AUC falls by more than .02. Methods with "
        "*marker* are told of the square, as an annotated shortcut.",
        "",
        *[f"- command: `{one['command']}`" for one in found],
        f"- commit: `{first['commit'] or 'unknown'}`",
        "",
    ]
    for arm, title in ARMS.items():
        if arm in arms:
            lines += [f"### {title}", "", *_arm(arms[arm]["rows"]), ""]
    return lines


def brief(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what each method did to the worst-served group, in one line, for its page."""
    arms = {arm["arm"]: arm["rows"] for one in found for arm in one["arms"]}
    named = [arm for arm in ARMS if arm in arms]
    heads = ["method", *(f"validation {arm}: worst group − ERM's" for arm in named)]
    by_name = [{row["method"]: row for row in arms[arm]} for arm in named]
    body = [
        [name, *(f"{_change(rows[name], ERM)} {_verdict(rows[name])}" for rows in by_name)]
        for name in by_name[0]
        if name != ERM
    ]
    return table(heads, body)


def _arm(rows: Sequence[Row]) -> list[str]:
    heads = [
        "method", "validation", "AUC", "worst group", "gap", "worst group − ERM's",
        "− ERM's with even groups", "harmed against ERM", "worst group is served",
    ]  # fmt: skip
    return table(heads, [_method(row) for row in rows])


def _method(row: Row) -> list[str]:
    test, name = row["test"], row["method"]
    return [
        name,
        f"{max(row['validation']):.3f}",
        *(_with_se(test[key]) for key in (AUC, WORST, GAP)),
        _change(row, ERM),
        _change(row, EVEN),
        _harmed(row),
        _verdict(row),
    ]


def _with_se(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ± {figure['se']:.3f}"


def _change(row: Row, other: str) -> str:
    if other not in row["against"]:
        return "–"
    found = row["against"][other][WORST]
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _harmed(row: Row) -> str:
    if ERM not in row["against"]:
        return "–"
    found = [
        f"{g['group']} {g['change']:+.3f}{'' if g['certain'] else ' (uncertain)'}"
        for g in row["against"][ERM]["groups"]
        if g["harmed"]
    ]
    return ", ".join(found) or "none"


def _verdict(row: Row) -> str:
    if ERM not in row["against"]:
        return "–"
    found = row["against"][ERM][WORST]
    if found["low"] > 0:
        return "better"
    return "worse" if found["high"] < 0 else "cannot tell"


def steps(found: Mapping[str, Any]) -> list[str]:
    """Return the section of the file that mitigation_steps.py wrote."""
    ways = ("nothing kept", "frozen blocks kept")
    heads = ["a step with", *(f"{way}: ms" for way in ways), *(f"{way}: × plain" for way in ways)]
    body = [
        [
            name,
            *(f"{found[way][name]['milliseconds']:.0f}" for way in ways),
            *(f"{found[way][name]['ratio']:.2f}" for way in ways),
        ]
        for name in found[ways[0]]
    ]
    return [
        "## Steps with mitigations",
        "",
        f"Medians of {found['repetitions']} steps of {found['batch']} images each, all in turns "
        "on one thread: DINOv2 ViT-S/14 at 70 px in bf16, the last two blocks train, two age "
        "groups (`tests/bench/mitigation_steps.py`). First fits (`jtt`), scoring (`swad`) and "
        "post-processing are no steps.",
        "",
        *source(found),
        f"- machine: {found['machine']['cpu']}",
        "",
        *table(heads, body),
        "",
    ]


def distances(found: Mapping[str, Any]) -> list[str]:
    """Return the section of `transport.json`."""
    times = found["milliseconds"]
    heads = ["distance of 64 scores, forward and backward", "median ms", "least to most"]
    body = [
        [name, f"{t['median']:.2f}", f"{t['least']:.2f} to {t['most']:.2f}"]
        for name, t in times.items()
    ]
    errors = [
        [
            blur,
            f"{worst['value']:.0e}",
            f"{worst['gradient']:.0e}",
            f"{worst['converged']:.0%}",
            f"{worst['short']:.0e}",
        ]
        for blur, worst in found["sinkhorn"].items()
    ]
    return [
        "## Distances between scores",
        "",
        f"One thread, {found['repetitions']} repetitions in turns (`tests/bench/transport.py`). "
        f"`w2` is {found['w2_faster_than_geomloss']:g} times as fast as geomloss at the setting "
        "of FairCLIP's authors (blur 1e-4, scaling .5).",
        "",
        *source(found),
        f"- machine: {found['machine']['cpu']}",
        "",
        *table(heads, body),
        "",
        "Errors of `sinkhorn` in single precision against its own solution in double precision, "
        f"of scores in groups of 32, 20 and 7, the worst of {found['seeds']} seeds; and of "
        "geomloss at scaling .95, which does not test whether it has converged.",
        "",
        *table(
            ["blur, SD", "value", "gradient", "converged", "geomloss's value"],
            errors,
        ),
        "",
    ]
