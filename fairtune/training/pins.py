"""What pins a recipe to data and model, and what takes the pins off."""

from __future__ import annotations

from typing import Any

import torch

from fairtune.adaptation import Mask, Rule
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError, ModelError
from fairtune.mitigation.combine import following
from fairtune.models.precision import has_tf32
from fairtune.models.units import Units
from fairtune.training.recipe import Recipe
from fairtune.usage.at_once import AtOnce


def resolve_mask(recipe: Recipe, units: Units) -> Mask:
    """Return the recipe's mask, a rule or a tuple of names, for a model with `units`."""
    mask = recipe.adaptation.mask
    return Rule.parse(mask).mask(units) if isinstance(mask, str) else Mask.of(mask, units)


def refuse_other(asked: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a part whose pinned values are not those that were found.

    Raises:
        ModelError: Names the first value that differs.
    """
    for name, value in asked.items():
        if value is not None and value != found[name] and name != "weights":
            raise ModelError(
                f"the recipe is pinned to another {name}",
                found=found[name],
                allowed=value,
                todo="use the data, weights and model file that the recipe was made with",
            )


def refuse_uncut(recipe: Recipe, depth: int) -> None:
    """Refuse what is done block by block of a model whose blocks cannot be computed one by one.

    Args:
        recipe: What is asked for.
        depth: Blocks that the network can be cut behind.

    Raises:
        ModelError: Names the field.
    """
    for field in ("checkpointing", "compile"):
        if getattr(recipe.fit, field) == "blocks" and not depth:
            raise ModelError(
                "the blocks of this model cannot be computed one by one",
                where=f"recipe.fit.{field}",
                found=recipe.model.name,
                allowed="blocks: vision transformers; none: every model",
            )


def refuse_unread(recipe: Recipe, reads: bool) -> None:
    """Refuse a usage of texts with a model that reads none.

    Args:
        recipe: What is asked for.
        reads: Whether the model has a text tower.

    Raises:
        ModelError: Names the usage.
    """
    if recipe.reads and not reads:
        raise ModelError(
            "the usage reads texts, and this model reads none",
            where="recipe.usage",
            found={"usage": name_of(recipe.usage), "model": recipe.model.name},  # type: ignore[arg-type]
            allowed="a model with a text tower, e.g. clip_vit_b16",
        )


def refuse_tf32(recipe: Recipe, device: torch.device) -> None:
    """Refuse TF32 where `device` has none.

    Raises:
        ModelError: Says where there is.
    """
    if recipe.fit.precision == "tf32" and not has_tf32(device):
        raise ModelError(
            "this device has no TF32",
            where="recipe.fit.precision",
            found=str(device),
            allowed="fp32, bf16 or auto; tf32 on NVIDIA processors from Ampere on",
        )


def refuse_unvalidated(recipe: Recipe, rows: int) -> None:
    """Refuse what needs validation rows in a run without any.

    That is a mitigation that follows the validation loss, and a usage with numbers that are
    chosen on validation.

    Args:
        recipe: What is asked for.
        rows: Its validation rows.

    Raises:
        ConfigError: Names what it is and says what to do.
    """
    chooses = recipe.usage.chooses if isinstance(recipe.usage, AtOnce) else ()
    if chooses and not rows:
        raise ConfigError(
            "numbers of the usage are chosen on validation, and no rows are left to validate on",
            where="recipe.fit.rows",
            found={"rows": recipe.fit.rows, **dict.fromkeys(chooses, "validation")},
            allowed="train",
            todo="fit on train alone, or write numbers in place of `validation`",
        )
    names = following(recipe.mitigations)
    if names and not rows:
        raise ConfigError(
            f"'{names[0]}' follows the validation loss, and no rows are left to validate on",
            where="recipe.fit.rows",
            found=recipe.fit.rows,
            allowed="train",
            todo=f"fit on train alone, or leave '{names[0]}' out",
        )


def without_pins(recipe: Recipe) -> Recipe:
    """Return `recipe` free of the hashes that pin it to one machine's files."""
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(
                update=dict.fromkeys(("fingerprint", "split", "augmentation", "prompts"))
            ),
            "model": recipe.model.model_copy(
                update={"weights_sha": None, "units": None, "tokenizer": None}
            ),
        }
    )
