"""A recipe: what determines the numbers of one run, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pydantic

from fairtune.config import Config, digest
from fairtune.config.model import carried
from fairtune.config.registry import name_of
from fairtune.editing import EDITS, EditRule
from fairtune.editing.attributes import foreign
from fairtune.errors import ConfigError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.combine import attributed, clash, excluded, idle, unknown_attribute
from fairtune.training.recipe_parts import (
    AdaptationPart,
    DataPart,
    FitPart,
    ModelPart,
    OptimPart,
    brief,
)
from fairtune.training.usages import grouped, misfits
from fairtune.usage import USAGES, Usage
from fairtune.usage.at_once import AtOnce

PROTOCOL = 1
"""Raised whenever the same recipe and seed would give other numbers than before."""


def _unfit(members: tuple[Config, ...], optim: OptimPart) -> ConfigError | None:
    """Return what of `optim` does not go together with `members`, or None."""
    plain = OptimPart.model_fields
    for member in members:
        for field in excluded(type(member)):
            if getattr(optim, field) != plain[field].default:
                return ConfigError(
                    "a mitigation and a field of optim do not go together",
                    found={"mitigation": name_of(member), f"optim.{field}": getattr(optim, field)},
                    todo="keep one of the two",
                )
    return None


class Seeds(Config):
    """Where the random numbers of a run come from: order and augmentation, and the head."""

    data: int = 0
    init: int = 0


class Recipe(Config):
    """What determines the numbers of one run; the fields stand in the order in which they act."""

    data: DataPart
    model: ModelPart
    usage: Annotated[Usage, USAGES.field()] = pydantic.Field(
        default="classify", validate_default=True
    )
    edit: Annotated[Config, EDITS.field()] = pydantic.Field(default="none", validate_default=True)
    adaptation: AdaptationPart = AdaptationPart()
    mitigations: Annotated[tuple[Config, ...], MITIGATIONS.list_field()] = ()
    optim: OptimPart = OptimPart()
    fit: FitPart = FitPart()

    ADDED: ClassVar[tuple[str, ...]] = ("mitigations",)

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = brief(self, self.ADDED, fields(self))
        if not self.edited:
            del written["edit"]
        return written

    @pydantic.model_validator(mode="after")
    def _one_validation(self) -> Recipe:
        if self.data.fold is not None and self.fit.rows != "train":
            error = ConfigError("a fold is validated on and cannot be fitted too")
            raise carried(error, "fit", "rows")
        return self

    @pydantic.model_validator(mode="after")
    def _together(self) -> Recipe:
        error = clash(self.mitigations) or unknown_attribute(
            self.mitigations, self.data.attributes
        )
        if error is None:
            error = _unfit(self.mitigations, self.optim)
        if error is not None:
            raise carried(error, "mitigations")
        if (error := foreign(self.rule, self.data.attributes)) is not None:
            raise carried(error, "edit")
        return self

    @pydantic.model_validator(mode="after")
    def _fits_usage(self) -> Recipe:
        for error, field in misfits(self):
            raise carried(error, *field)
        return self

    def attributed(self, default: str | None) -> Recipe:
        """Return the recipe with `default` as the attribute of what acts on one and names none.

        That is the edit, mitigations, and a usage that draws rows by groups.

        None stands for the attribute of the data, where there is one alone.
        """
        if default is None and len(self.data.attributes) == 1:
            default = self.data.attributes[0]
        return self.model_copy(
            update={
                "usage": grouped(self.usage, default),
                "mitigations": attributed(self.mitigations, default),
                "edit": self.rule.attributed(default),
            }
        )

    def of_data(self, **changes: Any) -> Recipe:
        """Return the recipe with fields of its data part changed."""
        return self.model_copy(update={"data": self.data.model_copy(update=changes)})

    @property
    def rule(self) -> EditRule:
        """What is said of the edit."""
        assert isinstance(self.edit, EditRule)
        return self.edit

    @property
    def edited(self) -> bool:
        """Whether images are changed by an edit."""
        return self.rule.acts

    def unedited(self) -> Recipe:
        """Return the recipe with images as they are."""
        return self.model_copy(update={"edit": EDITS.parse("none")})

    @property
    def head_only(self) -> bool:
        """Whether nothing but the head is fitted."""
        return self.adaptation.mask in ("none", "linear_readout", ())

    @property
    def mitigated(self) -> bool:
        """Whether a mitigation acts on training."""
        return any(member.trains for member in self.mitigations)  # type: ignore[attr-defined]

    @property
    def reads(self) -> bool:
        """Whether texts are read: those of the rows, or sentences for the classes."""
        return self.usage.reads_text or self.usage.reads_prompts

    @property
    def scored(self) -> bool:
        """Whether nothing is fitted at all: a run of no epoch, whose images are scored."""
        fits = self.usage.fits
        return fits == "nothing" or (fits == "mask" and self.head_only)

    @property
    def solved(self) -> bool:
        """Whether no step is made: images are scored, or a head is fitted at once.

        With a mitigation a head is trained by steps as everything else is.
        """
        return self.scored or (
            isinstance(self.usage, AtOnce) and self.head_only and not self.mitigated
        )

    @property
    def minimises(self) -> bool:
        """Whether a loss is minimised, by steps or at once."""
        return not self.scored and (not isinstance(self.usage, AtOnce) or self.usage.trains)

    def canonical(self) -> dict[str, Any]:
        """Return the fields that act, as JSON.

        Pinned hashes stand for names of files; a solved readout has no learning rate, epochs,
        batches, augmentation or compiled blocks, but the class weights and smoothed labels that
        its loss has too, and a trained one has no `l2`.

        Raises:
            ConfigError: A mask is trained without a learning rate.
        """
        out = self.to_json()
        out["fit"].pop("checkpointing", None)  # changes memory and time, not the numbers
        if self.edited:
            out["edit"] = {name_of(self.edit): self.rule.canonical()}
        for member, fields in zip(self.mitigations, out.get("mitigations", [])):
            for name in idle(member):
                fields[name_of(member)].pop(name)
        if self.model.weights_sha is not None:
            del out["model"]["weights"]
        if self.fit.augment != "medical" or self.solved:
            out["data"].pop("augmentation", None)
        if not self.usage.reads_prompts:
            out["data"].pop("prompts", None)
        if not self.reads:
            out["model"].pop("tokenizer", None)
        if not self.data.drawn:
            out["data"].pop("seed", None)
        if self.fit.augment == "none" or self.solved:
            out["fit"].pop("copies", None)
        if self.solved:
            out["adaptation"] = {"mask": []}
            acts = ("l2", "class_weights", "label_smoothing") if self.minimises else ()
            out["optim"] = {name: out["optim"][name] for name in acts if name in out["optim"]}
            del out["fit"]["augment"]
            out["fit"].pop("compile", None)
            self._without_idle(out)
            return out
        if self.head_only:
            out["adaptation"] = {"mask": []}
            for name in ("lr", "layer_decay"):
                out["optim"].pop(name, None)
        elif self.optim.lr is None:
            raise ConfigError(
                "a mask is trained without a learning rate",
                where="recipe.optim.lr",
                todo="give optim.lr, or search it",
            )
        del out["optim"]["l2"]
        if self.usage.fits == "mask":
            del out["optim"]["head_lr"]
        return out

    def _without_idle(self, out: dict[str, Any]) -> None:
        """Leave out mitigations of training where nothing is trained."""
        if not self.scored or "mitigations" not in out:
            return
        acting = zip(self.mitigations, out.pop("mitigations"), strict=True)
        if kept := [fields for member, fields in acting if not member.trains]:  # type: ignore[attr-defined]
            out["mitigations"] = kept

    def identity(self) -> str:
        """Return the digest of `canonical()`: equal for recipes that give the same numbers."""
        return digest(self.canonical())

    def key(self, seeds: Seeds) -> str:
        """Return the digest under which the run of this recipe with `seeds` is stored."""
        return digest([self.canonical(), seeds.to_json(), PROTOCOL])
