"""What a model does with an image: its usage in words, its prompts, what befell its texts."""

from __future__ import annotations

from fairtune.config.registry import name_of
from fairtune.experiment.polarity import wrong_way
from fairtune.experiment.stored import StoredRun
from fairtune.experiment.text_facts import warnings_of, words_of
from fairtune.report.grid import Cell, Grid
from fairtune.report.words import sentence

__all__ = ["given_words", "prompt_grid", "text_warnings_of", "text_words_of", "usage_words"]


def usage_words(run: StoredRun) -> str:
    """Return how the model was made, as the end of a sentence that begins with its name."""
    recipe, share = run.recipe, 100 * run.costs["trainable_share"]
    asked = f"tell {', '.join(map(str, run.card['classes']))} (target {recipe.data.target})"
    if recipe.scored:
        return f"asked, as it is, to {asked} by the prompts below: nothing was fitted."
    if recipe.usage.fits == "mask":
        return (
            f"adapted to {asked} by training {share:.2f} % of its parameters on images with their "
            "texts; an image is scored by the prompts below."
        )
    if recipe.usage.fits == "head":
        called = name_of(recipe.usage)  # type: ignore[arg-type]
        chosen = run.operating.get("chosen", {})
        said = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        numbers = f"; validation chose {said}" if said else ""
        return f"adapted to {asked} by a head on its frozen features ({called}{numbers})."
    return f"adapted to {asked} by training {share:.2f} % of its parameters and a new head."


def given_words(run: StoredRun) -> str:
    """Return what the model needs of a patient besides groups."""
    usage = run.recipe.usage
    if not usage.reads_text or usage.pairs:
        return "an image"
    return "an image and its text" if "image" in usage.sees else "a text"


def prompt_grid(run: StoredRun) -> Grid | None:
    """Return every class with the sentences that say it; None where no prompt is read."""
    if not run.prompts:
        return None
    rows = []
    for name, said in run.prompts["classes"].items():
        parts = {name: said}
        if isinstance(said, dict):
            parts = {f"{name}: {side}": phrases for side, phrases in said.items()}
        for label, phrases in parts.items():
            made = (t.replace("{}", p) for t in run.prompts["templates"] for p in phrases)
            rows.append([Cell(label), Cell("; ".join(made))])
    return Grid("Prompts", ["class", "sentences"], rows, numeric=False)


def text_words_of(run: StoredRun) -> list[str]:
    """Return what is to be known of the texts and prompts of a run, as sentences."""
    return words_of(run) + _measured(run)


def text_warnings_of(run: StoredRun) -> list[str]:
    """Return what of that a reader must know before relying on a figure."""
    return warnings_of(run) + _measured(run)


def _measured(run: StoredRun) -> list[str]:
    """Return that prompts rank the wrong way round, where validation says so."""
    if not run.recipe.usage.reads_prompts or run.recipe.fit.rows != "train":
        return []
    return [sentence(why) for why in wrong_way(run.recipe, run.validation())]
