"""What of a recipe its usage has no place for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fairtune.config.registry import name_of
from fairtune.errors import ConfigError
from fairtune.training.recipe_parts import OptimPart

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
    if fits == "nothing" and recipe.mitigated:
        yield (
            ConfigError(
                "nothing is trained, so no mitigation can act on training",
                found=[name_of(m) for m in recipe.mitigations if m.trains],  # type: ignore[attr-defined]
                allowed="post-processing: group_temperature, threshold_optimizer",
            ),
            ("mitigations",),
        )
    if not recipe.usage.pairs:
        yield from _unpaired(recipe)
        return
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
            yield (
                ConfigError(
                    f"the usage '{usage}' has no head that '{name_of(member)}' could take the "
                    "place of"
                ),
                ("mitigations",),
            )
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
