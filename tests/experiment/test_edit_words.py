"""Sentences about an edit: what they claim follows from the intervals, and no more is claimed."""

from __future__ import annotations

import re

import pytest
from kit_assessed import arm, assessment, changes, group

from fairtune.experiment.assessed import RETRAINED, Assessment
from fairtune.experiment.edit_words import few, headline, sentences

CHANCE, READ, LESS = (0.52, 0.45, 0.6), (0.9, 0.86, 0.93), (0.8, 0.75, 0.85)
NAMES = ("none", "edit", "random", "reweighted", "early")


def found(
    none: tuple[float, ...], edit: tuple[float, ...], **told: tuple[float, ...]
) -> Assessment:
    by = {name: arm(name, retrained=edit if name == "edit" else none) for name in NAMES}  # type: ignore[arg-type]
    return assessment(arms=list(by.values()), changes=changes(**told))  # type: ignore[arg-type]


DOWN, UP = (-0.1, -0.15, -0.05), (0.1, 0.05, 0.15)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (found(READ, READ), "Not hidden"),
        (found(READ, LESS, **{RETRAINED: DOWN}), "Harder to read, not hidden"),
        (found(READ, CHANCE, **{RETRAINED: DOWN}), "cannot be told from guessing sex"),
        (found(CHANCE, CHANCE), "Nothing to hide is seen"),
        (found(LESS, READ, **{RETRAINED: UP}), "Easier to read"),
    ],
)
def test_what_is_hidden_follows_from_a_re_trained_head(made: Assessment, words: str) -> None:
    assert words in headline(made)


def test_the_head_of_before_never_makes_it_hidden() -> None:
    fooled = [arm(name, frozen=CHANCE) for name in NAMES]
    assert headline(assessment(arms=fooled)).startswith("Not hidden")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"auc": DOWN}, "the AUC of the task is worse (−0.100 [−0.15, −0.05])"),
        ({"auc": UP}, "the AUC of the task is better"),
        ({}, "a change of the AUC of the task cannot be told from 0"),
        ({"eo_diff": UP}, "the equalized-odds difference is worse"),
        ({"eo_diff": DOWN}, "the equalized-odds difference is better"),
        ({"eo_diff": UP}, "the reweighted head without edit has the smaller"),
        ({"eo_diff": DOWN}, "the reweighted head without edit has the larger"),
        ({"worst_auc": (float("nan"),) * 3}, "that of the worst-served group is not defined"),
        ({RETRAINED: DOWN}, "re-trained AUC differs by −0.100 [−0.15, −0.05];"),
        ({}, "so it may hide no more than such noise does"),
    ],
)
def test_what_it_costs_and_what_controls_do(
    told: dict[str, tuple[float, ...]], words: str
) -> None:
    assert words in " ".join(sentences(found(READ, READ, **told)))


def test_few_patients_and_small_groups_are_named() -> None:
    assert few(assessment()) == []
    small = [arm(name, groups=(group("F"), group("M", known=False))) for name in NAMES]
    said = " ".join(few(assessment(patients=60, arms=small)))
    assert "These are 60 patients" in said
    assert "figures of their own: M" in said


def test_no_model_is_called_free_of_bias() -> None:
    for made in (found(READ, CHANCE, **{RETRAINED: DOWN, "eo_diff": DOWN}), found(READ, READ)):
        said = " ".join([headline(made), *sentences(made)])
        assert not re.search(r"debias|unbias|\bfair\b|bias-free", said, re.IGNORECASE)
