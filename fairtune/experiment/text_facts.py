"""What is to be known of the texts and prompts of a run: lost rows, cuts, and what they give away.

Facts are plain numbers, kept in recipe.json beside the versions; words are made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fairtune.usage import Usage

if TYPE_CHECKING:
    from fairtune.experiment.stored import StoredRun
    from fairtune.training.ground import Ground
    from fairtune.training.recipe import Recipe

TEXTS = "texts"
"""Their name in recipe.json."""

_KNEW = "were written by somebody or something that knew the label (text_leaks_label)"


def text_facts(ground: Ground, recipe: Recipe) -> dict[str, Any]:
    """Return what happened to texts, and what is doubtful about prompts; empty without either.

    Keys: `rows`, `left_out` (rows without a text), `cut` (training and validation texts that are
    longer than the model reads), `limit` (its tokens), `leaks`, `doubts`.
    """
    table, found = ground.pack.table, dict[str, Any]()
    if recipe.usage.reads_text:
        ground.texts.tokens(np.empty(0, dtype=np.int64))
        found |= {
            "rows": len(ground.pack.rows("train")) + len(ground.pack.rows("val")),
            "left_out": table.dropped.get("text", 0),
            "cut": ground.texts.cut,
            "limit": ground.texts.tokenizer.rule.limit,
            "leaks": table.spec.text_leaks_label,
        }
    if recipe.usage.reads_prompts:
        from fairtune.training.texts import prompts_of

        doubts = prompts_of(table, recipe).doubts(table.classes, table.task)
        found |= {"doubts": doubts} if doubts else {}
    return found


def words_of(run: StoredRun) -> list[str]:
    """Return what is to be known of the texts and prompts of a stored run, as sentences."""
    return text_words(run.texts, run.recipe.usage, learned=not run.recipe.scored)


def warnings_of(run: StoredRun) -> list[str]:
    """Return what of `words_of` a reader must know before relying on a figure."""
    return text_warnings(run.texts, run.recipe.usage, learned=not run.recipe.scored)


def text_words(facts: Mapping[str, Any], usage: Usage, *, learned: bool = True) -> list[str]:
    """Return the facts as sentences, what a reader must not miss first.

    Args:
        facts: What `text_facts` returned.
        usage: Of the run.
        learned: Whether anything was fitted.
    """
    return [*text_warnings(facts, usage, learned=learned), *_counted(facts)]


def text_warnings(facts: Mapping[str, Any], usage: Usage, *, learned: bool = True) -> list[str]:
    """Return what a reader must know before relying on a figure, as sentences."""
    found = []
    leaks = facts.get("leaks") and (learned or not usage.pairs)
    if leaks and usage.pairs:
        found.append(
            f"The texts that images were trained with {_KNEW}: some of what the model learned of "
            "them is the label itself. No text is read where patients are scored."
        )
    elif leaks:
        found.append(
            f"The texts that are scored {_KNEW}: the figures are those of reading the label in "
            "the text, and say nothing about patients whose text was written without it."
        )
    doubts = [str(doubt) for doubt in facts.get("doubts", ())]
    return found + [f"{doubt[0].upper()}{doubt[1:]}." for doubt in doubts]


def _counted(facts: Mapping[str, Any]) -> list[str]:
    found = []
    if facts.get("cut"):
        found.append(
            f"{facts['cut']} of {facts['rows']} training and validation texts are longer than the "
            f"{facts['limit']} tokens that the model reads, and are cut at a word."
        )
    if facts.get("left_out"):
        found.append(f"{facts['left_out']} rows without a text are left out.")
    return found
