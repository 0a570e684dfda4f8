"""What of a recipe its usage has no place for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fairtune.config.registry import name_of
from fairtune.errors import ConfigError
from fairtune.training.recipe_parts import OptimPart
from fairtune.usage import Usage
from fairtune.usage.at_once import AtOnce, OfRows

if TYPE_CHECKING:
    from fairtune.training.recipe import Recipe

_OF_LABELS = ("class_weights", "label_smoothing", "mixup", "cutmix")


def misfits(recipe: Recipe) -> Iterator[tuple[ConfigError, tuple[str, ...]]]:
    """Yield each fault and the field it stands in.

    A mask where nothing or the head alone is fitted, softened labels where labels take no part,
    and mitigations that act on what the usage does not have.
    """
    usage = name_of(recipe.usage)  # type: ignore[arg-type]
    fits = recipe.usage.fits
    if fits in ("nothing", "head") and not recipe.head_only:
        yield (
            ConfigError(
                f"the usage '{usage}' trains no units of the model",
                found=recipe.adaptation.mask,
                allowed="none",
                todo="write adaptation: {mask: none}, or usage: contrastive",
            ),
            ("adaptation", "mask"),
        )
    # Where a mask may be empty, what it leaves idle is no part of the run.
    if fits != "mask" and not recipe.minimises and recipe.mitigated:
        yield (
            ConfigError(
                "nothing is trained, so no mitigation can act on training",
                found=[name_of(m) for m in recipe.mitigations if m.trains],  # type: ignore[attr-defined]
                allowed="post-processing: group_temperature, threshold_optimizer",
            ),
            ("mitigations",),
        )
    yield from _of_head(recipe)
    if not recipe.usage.pairs:
        yield from _unpaired(recipe)
        return
    if recipe.optim.batch_size < 2 and not recipe.scored:
        yield (
            ConfigError(
                f"the usage '{usage}' tells each pair of a batch from the others, and there is "
                "none",
                found={"batch_size": recipe.optim.batch_size},
                allowed="at least 2; accumulated batches do not count",
            ),
            ("optim", "batch_size"),
        )
    plain = OptimPart.model_fields
    for field in _OF_LABELS:
        if getattr(recipe.optim, field) != plain[field].default:
            yield (
                ConfigError(
                    f"the usage '{usage}' is trained without labels",
                    found={field: getattr(recipe.optim, field)},
                    allowed=plain[field].default,
                ),
                ("optim", field),
            )
    for member in recipe.mitigations:
        if "head" in member.slots:  # type: ignore[attr-defined]
            yield _no_head(usage, name_of(member)), ("mitigations",)
        if getattr(member, "score", None) == "score":
            yield (
                ConfigError(
                    f"a step of the usage '{usage}' has pairs and no logits of classes",
                    found={name_of(member): {"score": "score"}},
                    allowed=["similarity", "loss", "embedding"],
                    todo=f"write {name_of(member)}: {{score: similarity}}",
                ),
                ("mitigations",),
            )


def _of_head(recipe: Recipe) -> Iterator[tuple[ConfigError, tuple[str, ...]]]:
    """Yield the faults of a usage that fits a head of its own kind."""
    usage, name = recipe.usage, name_of(recipe.usage)  # type: ignore[arg-type]
    if isinstance(usage, AtOnce) and usage.chooses and recipe.mitigated:
        yield (
            ConfigError(
                "numbers are chosen on validation only where the head is fitted at once, and with "
                "a mitigation it is trained by steps",
                found=dict.fromkeys(usage.chooses, "validation"),
                todo="write numbers, or search them: a study chooses them by its own objectives",
            ),
            ("usage",),
        )
    if not isinstance(usage, OfRows):
        return
    for member in recipe.mitigations:
        if "head" in member.slots:  # type: ignore[attr-defined]
            yield _no_head(name, name_of(member)), ("mitigations",)
    parts = (usage.attribute or "").split("*")
    known = recipe.data.attributes
    if usage.attribute and (not set(parts) <= set(known) or len(set(parts)) != len(parts)):
        yield (
            ConfigError(
                f"the usage '{name}' draws rows by what is not an attribute of the recipe",
                found=usage.attribute,
                allowed=[*known, "crossings such as A*B"],
                todo="add it to recipe.data.attributes",
            ),
            ("usage",),
        )


def _no_head(usage: str, member: str) -> ConfigError:
    return ConfigError(f"the usage '{usage}' has no head that '{member}' could take the place of")


def grouped(usage: Usage, default: str | None) -> Usage:
    """Return the usage with `default` as its attribute, where it acts on one and names none."""
    if default is None or not isinstance(usage, OfRows):
        return usage
    named: Usage = usage.attributed(default)
    return named


def unnamed(usage: Usage) -> ConfigError | None:
    """Return that a usage draws rows by groups and nothing says of which attribute, or None."""
    if not isinstance(usage, OfRows) or usage.attribute != "":
        return None
    return ConfigError(
        "rows are drawn by groups, and nothing says of which attribute",
        where="recipe.usage",
        todo="name it there as `attribute`, or in an objective such as worst_auc@ATTRIBUTE",
    )


def _unpaired(recipe: Recipe) -> Iterator[tuple[ConfigError, tuple[str, ...]]]:
    for member in recipe.mitigations:
        if getattr(member, "score", None) == "similarity":
            yield (
                ConfigError(
                    "only pairs of images and texts have a similarity",
                    found={name_of(member): {"score": "similarity"}},
                    allowed=["score", "loss", "embedding"],
                    todo="write usage: contrastive, or another score",
                ),
                ("mitigations",),
            )
