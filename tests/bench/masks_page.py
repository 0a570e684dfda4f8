"""The section of docs/measured.md on samplers and mask spaces, from the file of masks.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NONE = "–"


def section(found: Mapping[str, Any]) -> list[str]:
    """Return the lines of the section."""
    machine, rows = found["machine"], found["rows"]
    names = sorted({row["problem"] for row in rows}, key=order)
    cells = {(*way(row), row["problem"]): row for row in rows}
    ways = sorted({way(row) for row in rows}, key=lambda w: (w[2], w[0] != "bits", w))
    commits = dict.fromkeys(row.get("commit") or "unknown" for row in rows)
    usual = max((row["seeds"] for row in rows), default=0)

    def table(show: Callable[[Mapping[str, Any]], str]) -> list[str]:
        body = [
            [str(part) for part in one]
            + [show(cells[k]) if (k := (*one, n)) in cells else NONE for n in names]
            for one in ways
        ]
        rows = [["space", "sampler", "trials", *names], ["---"] * (len(names) + 3), *body]
        return [f"| {' | '.join(row)} |" for row in rows]

    return [
        "## Samplers and mask spaces",
        "",
        "Synthetic masks, defined in `tests/bench/masks.py`: studies with noise of SD "
        f"{found['noise']}; score of the trial with the best noisy value, where a uniform mask "
        "has 0 and the optimum 1; mean ± standard error, with the number of studies where it is "
        f"not {usual}. Seeds from {found['first_seed']}, none of them used for tuning. `+lr`: a "
        "learning rate that explains half of the variance is searched too. Bold: a target, and "
        "whether it is met.",
        "",
        *(f"- command: `{command}`" for command in found["commands"]),
        f"- commit: {', '.join(f'`{name}`' for name in commits)}",
        f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"load {machine['load']} when it ended",
        "",
        *table(lambda row: score(row, usual)),
        "",
        "Milliseconds of a draw, mean over the study:",
        "",
        *table(lambda row: f"{1000 * row['seconds']:.0f}"),
        "",
    ]


def way(row: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return space, sampler and trials of a row."""
    return row["space"], row["sampler"], row["trials"]


def order(problem: str) -> tuple[bool, bool, int]:
    """Return the key by which objectives stand side by side."""
    kind, switches = problem.removesuffix("+lr").split("-")
    return problem.endswith("+lr"), kind == "depth", int(switches)


def score(row: Mapping[str, Any], usual: int) -> str:
    """Return a row's score; how many studies where they are not as many as elsewhere."""
    text = f"{row['score']:.2f}"
    if row["se"] is not None:
        text += f" ± {row['se']:.2f}"
    if row["seeds"] != usual:
        text += f" ({row['seeds']})"
    if row["target"] is not None:
        text += f" **≥ {row['target']:.2f}: {'met' if row['met'] else 'missed'}**"
    return text
