"""How figures are printed, and that hidden counts stay hidden."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.evaluation.objectives import Objective
from fairtune.report.words import (
    count_texts,
    duration,
    harm_words,
    number,
    objective_words,
    prose,
    signed,
    with_ends,
)


def test_numbers() -> None:
    assert with_ends(0.6124, 0.5, 0.7149) == "0.612 [0.50, 0.71]"
    assert with_ends(0.6, float("nan"), float("nan")) == "0.600"
    assert number(float("nan")) == number(None) == "–"
    assert signed(-0.0514) == "−0.051"
    assert [duration(s) for s in (6, 348, 7200)] == ["6.0 s", "5.8 min", "2.0 h"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worst_auc@age", "the AUC of the worst-served group by age"),
        ("auc", "the AUC over all patients"),
        (
            "tpr_gap@spec=0.9@sex",
            "the gap in sensitivity at specificity 0.9 between groups by sex",
        ),
        ("es_auc@race", "the equity-scaled AUC by race"),
        (
            "eo_diff@sex",
            "the larger of the gaps in sensitivity and in false-positive rate by sex",
        ),
    ],
)
def test_objectives_in_words(text: str, words: str) -> None:
    objective = Objective.parse(text)
    assert objective_words(objective) == words
    assert "harm" in harm_words(objective)


def test_prose_cuts_paths_and_mends_minus_signs() -> None:
    assert prose("no runs in /home/me/x/study.db: -0.05 left") == "no runs in study.db: −0.05 left"
    assert prose("AUC and/or gap, 1/2") == "AUC and/or gap, 1/2"


@given(st.lists(st.integers(0, 30), min_size=2, max_size=5))
def test_small_counts_cannot_be_worked_out(counts: list[int]) -> None:
    texts = count_texts(counts)
    assert [t for t, n in zip(texts, counts) if 0 < n < 5] == ["<5"] * sum(
        0 < n < 5 for n in counts
    )
    hidden = [i for i, n in enumerate(counts) if 0 < n < 5]
    if not hidden or max(counts) < 5:
        return
    fitting = [t for t in itertools.product(*map(possible, texts)) if sum(t) == sum(counts)]
    assert tuple(counts) in fitting
    assert all(len({trial[i] for trial in fitting}) > 1 for i in hidden)


def possible(text: str) -> range:
    """What a reader may take a printed count to be."""
    if text == "<5":
        return range(1, 5)
    low, _, high = text.partition("–")
    return range(int(low), int(high or low) + 1)


def test_the_room_needs_no_torch() -> None:
    code = (
        "import sys, fairtune.report.render, fairtune.cli.report;sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
