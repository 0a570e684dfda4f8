"""What report and model card say of a usage, its prompts and its texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit import session
from kit_two_towers import recipe_fields, write_data

from fairtune.config.yaml12 import dumps
from fairtune.experiment import alone as retraining
from fairtune.experiment.alone import Alone, finetune_alone
from fairtune.report.card import Card, text
from fairtune.report.usage import prompt_grid


def made(folder: Path, usage: Any, *, data: dict[str, Any] | None = None, **changes: Any) -> Alone:
    write_data(folder / "data", **(data or {}))
    path, out = folder / "one.yaml", folder / "out"
    minimum = {"n": 5, "positives": 2, "negatives": 2}
    recipe = recipe_fields(folder, usage, **changes)
    path.write_text(
        dumps({"recipe": recipe, "objectives": ["auc"], "validation": {"min_group": minimum}})
    )
    return finetune_alone(None, session(out), out, recipe_file=path, seed=1, command="c")


def card_of(alone: Alone) -> str:
    return text(Card.of_run(alone.deploy, alone.judge))


def test_a_zero_shot_card_says_that_nothing_was_fitted_and_by_what_it_scores(
    tmp_path: Path,
) -> None:
    alone = made(tmp_path, "zero_shot")
    said = card_of(alone)
    assert "asked, as it is, to tell not ill, ill" in said
    assert "nothing was fitted" in said
    assert "a new head" not in said
    assert "none: nothing is fitted" in said
    assert "| ill | a photo of fluid; a photo of a large heart; an x ray of fluid;" in said
    assert "an image alone" in said
    assert str(tmp_path) not in said
    assert "nothing was fitted: images are scored by prompts" in retraining.test_text(alone)


@pytest.mark.parametrize(
    ("usage", "changes", "leak", "given"),
    [
        ({"classify": {"features": "both"}}, {}, "reading the label in", "an image and its text"),
        (
            "contrastive",
            {"adaptation": {"mask": "text.block:last-1"}, "optim": {"lr": 1e-3}},
            "some of what the model learned of them is the label itself",
            "an image alone",
        ),
    ],
)
def test_texts_that_knew_the_label_are_told(
    tmp_path: Path, usage: Any, changes: dict[str, Any], leak: str, given: str
) -> None:
    alone = made(tmp_path, usage, data={"text_leaks_label": True, "bare": 2}, **changes)
    said = card_of(alone)
    assert leak in said
    assert given in said
    assert "2 rows without a text are left out" in said
    assert leak in retraining.test_text(alone)
    assert (prompt_grid(alone.deploy) is None) == (usage != "contrastive")
    assert ("fairtune predict" in said) == (usage == "contrastive")


def test_pairs_that_nothing_learned_of_give_nothing_away(tmp_path: Path) -> None:
    untouched = {"adaptation": {"mask": "none"}}
    alone = made(tmp_path, "contrastive", data={"text_leaks_label": True}, **untouched)
    assert "knew the label" not in card_of(alone)
    assert "knew the label" not in retraining.test_text(alone)
