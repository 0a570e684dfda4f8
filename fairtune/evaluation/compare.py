"""Comparing recipes on the same patients: the public names of paired, harm and verdict."""

from __future__ import annotations

from fairtune.evaluation.harm import GapChange, GroupChange, gap_change, no_harm, smallest_change
from fairtune.evaluation.paired import Difference, paired_difference
from fairtune.evaluation.verdict import Bounds, Verdict, holm, patients_needed, verdict

__all__ = [
    "Bounds",
    "Difference",
    "GapChange",
    "GroupChange",
    "Verdict",
    "gap_change",
    "holm",
    "no_harm",
    "paired_difference",
    "patients_needed",
    "smallest_change",
    "verdict",
]
