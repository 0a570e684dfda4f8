"""Methods compared over finished studies: tested figures side by side, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fairtune.errors import ConfigError, DataError, StudyError
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.ranks import Ranking, compare_methods
from fairtune.study.outcome import Outcome, Tested
from fairtune.study.overview import Overview
from fairtune.study.rows import CONTROL

PICK = "pick"
"""Name of a study's pick as a method."""

BLOCK = ("dataset", "target", "model", "attribute")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Figures of methods over studies.

    Attributes:
        head: What is compared, e.g. `worst_auc`.
        sign: 1 when larger is better, -1 when smaller is.
        values: Tidy: `study`, `dataset`, `target`, `model`, `attribute`, `method`, `value` (test,
            mean over the seeds).
        missing: What could not be computed, in words.
    """

    head: str
    sign: int
    values: pd.DataFrame
    missing: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Blocks by methods; studies of one block are averaged, an absent figure is NaN."""
        wide = self.values.pivot_table(
            index=list(BLOCK), columns="method", values="value", aggfunc="mean", sort=False
        )
        order = dict.fromkeys([PICK, *self.values["method"]])
        return wide[[name for name in order if name in wide.columns]]

    @cached_property
    def complete(self) -> pd.DataFrame:
        """The table of the methods that every block has."""
        return self.table.dropna(axis=1)

    @property
    def left_out(self) -> list[str]:
        """Methods that some block does not have."""
        return [name for name in self.table.columns if name not in self.complete.columns]

    @cached_property
    def ranking(self) -> Ranking:
        """Signed ranks and mean ranks of the methods that every block has.

        Raises:
            DataError: Fewer than two such methods.
        """
        if len(self.complete.columns) < 2:
            raise DataError(
                "fewer than two methods were tested in every block",
                found=list(self.complete.columns),
                allowed=list(self.table.columns),
                todo="compare studies with the same baselines",
            )
        values = self.complete.to_numpy(dtype=float)
        return compare_methods(values, list(self.complete.columns), self.sign)

    @property
    def repeated(self) -> bool:
        """Whether blocks share patients: several attributes or models of one data set."""
        sets = self.complete.index.get_level_values("dataset")
        return bool(sets.duplicated().any())

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        ranking = self.ranking
        return {
            "metric": self.head,
            "values": self.values.to_dict("records"),
            "methods": list(ranking.methods),
            "blocks": [dict(zip(BLOCK, key)) for key in self.complete.index],
            "pairs": [asdict(pair) for pair in ranking.pairs],
            "mean_ranks": None if ranking.means is None else asdict(ranking.means),
            "no_mean_ranks": ranking.why,
            "left_out": self.left_out,
            "missing": list(self.missing),
            "blocks_share_patients": self.repeated,
        }

    def text(self) -> str:
        """Return table, pairs and mean ranks as text."""
        ranking, complete = self.ranking, self.complete
        better = "larger" if self.sign > 0 else "smaller"
        lines = [f"{self.head} on test, mean over seeds ({better} is better)"]
        heads = ["block", *complete.columns]
        rows = [
            [" ".join(str(part) for part in key if part), *(f"{v:.3f}" for v in row)]
            for key, row in zip(complete.index, complete.to_numpy(dtype=float))
        ]
        lines += _aligned([heads, *rows])
        lines.append("Wilcoxon signed-rank tests, Holm over all pairs")
        pairs = [
            [
                f"{p.a} - {p.b}", f"{p.difference:+.3f}", f"{p.wins}:{p.losses}", f"{p.p:.3f}",
                f"{p.adjusted:.3f}",
            ]
            for p in ranking.pairs
        ]  # fmt: skip
        lines += _aligned([["pair", "median", "wins", "p", "Holm"], *pairs])
        lines += _mean_lines(ranking)
        if self.repeated:
            lines.append("blocks share patients: p-values are smaller than they should be")
        lines += [f"left out, not tested in every block: {name}" for name in self.left_out]
        return "\n".join([*lines, *self.missing])


def compare_studies(views: Sequence[Overview], head: str) -> Comparison:
    """Return the tested figures of several studies.

    Methods are a study's pick (a baseline, where validation picked one), its baselines and its
    control; a block is data set, target, model and attribute.

    Args:
        views: Studies, each finetuned.
        head: An objective without its attribute, e.g. `worst_auc`; of `auc` and other overall
            figures each study gives one block.

    Raises:
        ConfigError: Not an objective, or one with an attribute.
        StudyError: A study was not tested yet.
    """
    if "@" in head.replace("@spec=", "").replace("@sens=", "") or ":" in head:
        raise ConfigError(
            "the attribute is that of the block", where="--metric", found=head, allowed="worst_auc"
        )
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for view in views:
        outcome = Outcome.load(view)
        if outcome is None:
            raise StudyError(
                "the study was not tested yet",
                found=view.place.name,
                todo=f"fairtune finetune --study {view.place.name}",
            )
        for attribute in view.base.data.attributes:
            objective = _objective(head, attribute)
            if objective.attribute is None and attribute != view.base.data.attributes[0]:
                continue
            try:
                found = {n: t.mean(view, objective) for n, t in _methods(outcome).items()}
            except DataError as error:
                missing.append(f"{view.place.name}: no {objective}: {error.what}")
                continue
            data = view.base.data
            place = (data.dataset, data.target, view.base.model.name, objective.attribute or "")
            row = {"study": view.place.name, **dict(zip(BLOCK, place))}
            rows += [{**row, "method": name, "value": value} for name, value in found.items()]
    frame = pd.DataFrame(rows, columns=["study", *BLOCK, "method", "value"])
    if not len(frame):
        raise StudyError("no study has a figure to compare", found=missing)
    return Comparison(head, _objective(head, "any").sign, frame, tuple(missing))


def _objective(head: str, attribute: str) -> Objective:
    """Return the objective of a head: with the attribute, unless it takes none."""
    try:
        return Objective.parse(f"{head}@{attribute}")
    except ConfigError:
        return Objective.parse(head)


def _methods(outcome: Outcome) -> dict[str, Tested]:
    """Return the tested recipes that stand for a method, by its name."""
    references = {
        label: tested
        for label, tested in outcome.tested.items()
        if tested.is_baseline or label == CONTROL
    }
    return {PICK: outcome.tested[outcome.pick], **references}


def _mean_lines(ranking: Ranking) -> list[str]:
    means = ranking.means
    if means is None:
        return [f"no critical-difference diagram: {ranking.why}"]
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in means.ranks.items())
    lines = [
        f"mean ranks over {ranking.blocks} blocks: {told}",
        f"Friedman p {means.p:.3f}; critical difference {means.critical:.2f}",
    ]
    return lines + [f"cannot be told apart: {', '.join(names)}" for names in means.alike]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = np.array([[len(cell) for cell in row] for row in rows]).max(axis=0)
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
