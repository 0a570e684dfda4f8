"""A recipe: what determines the numbers of one run, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.adaptation.placement import Methods, MethodsField
from fairtune.config import Choice, Config, Float, Int, digest
from fairtune.config.model import carried
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.combine import attributed, clash, excluded, idle, unknown_attribute
from fairtune.models.units import Units
from fairtune.usage import USAGES, Usage

PROTOCOL = 1
"""Raised whenever the same recipe and seed would give other numbers than before."""

LATER = ("edit",)
"""Recipe fields of later capabilities: refused by name until they work."""


def _brief(part: Config, names: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` without those of `names` that are at their default.

    Fields that are younger than the first stored recipes are written only where they act, so
    that an older recipe keeps its file, its identity and the keys of its runs.
    """
    fields = type(part).model_fields
    idle = {name for name in names if getattr(part, name) == fields[name].default}
    return {name: value for name, value in values.items() if name not in idle}


class FoldPart(Config):
    """Which rows are validated on, and which are trained on, in place of the official split.

    Train and val rows together are dealt out to folds, see `fairtune.data.subset`; the run is
    fitted on all folds but one.

    Attributes:
        index: The fold that is validated on, counted from 1.
        of: Number of folds.
        by: Attribute, or crossing, that folds are stratified by beside the label.
    """

    index: Annotated[int, pydantic.Field(ge=1)]
    of: Annotated[int, pydantic.Field(ge=2)]
    by: str | None = None

    @pydantic.model_validator(mode="after")
    def _one_of_them(self) -> FoldPart:
        if self.index > self.of:
            error = ConfigError("no such fold", found=self.index, allowed=f"1 to {self.of}")
            raise carried(error, "index")
        return self


class DataPart(Config):
    """Which images, which label, which attributes.

    Attributes:
        dataset: Name of a dataset spec, or a path to one.
        target: Name of one of its targets.
        attributes: Names of the attributes that groups are formed by.
        where: Rows to use, by column or attribute value, e.g. `{source: ham10000}`.
        fingerprint: Digest of table and images, pinned when the recipe is resolved.
        split: Digest of the assignment of rows to splits, pinned likewise.
        augmentation: Digest of the ranges that the dataset spec declares for the augmentation
            `medical`, pinned likewise; acts only where that is used.
        fold: The fold of a run that belongs to a trial of several; computed, not written.
        fraction: Share of the training patients that is fitted on, stratified by label and
            attributes; a smaller share is part of a larger one. Validation rows are all there.
        seed: Seed of folds and fraction.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("augmentation", "fold", "fraction", "seed")

    dataset: str
    target: str
    attributes: tuple[str, ...] = pydantic.Field(min_length=1)
    where: dict[str, Any] = pydantic.Field(default_factory=dict)
    fingerprint: str | None = None
    split: str | None = None
    augmentation: str | None = None
    fold: FoldPart | None = None
    fraction: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, pydantic.Field(ge=0)] = 0

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _brief(self, self.ADDED, fields(self))

    @property
    def drawn(self) -> bool:
        """Whether rows are drawn by `seed`, and are not those of the official split."""
        return self.fold is not None or self.fraction < 1


class ModelPart(Config):
    """Which pretrained model, at which image size.

    Attributes:
        name: Name of a model spec, or a path to one.
        image_size: Side of the square input in pixels; default: the spec's.
        weights: `auto`, `none` (random, only if asked for) or a file.
        weights_sha: Digest of the tensors, pinned when the recipe is resolved.
        units: Digest of the model's units, pinned likewise.
    """

    name: str
    image_size: Annotated[int, pydantic.Field(gt=0)] | None = None
    weights: str = "auto"
    weights_sha: str | None = None
    units: str | None = None


class AdaptationPart(Config):
    """Which units train, and how.

    Attributes:
        mask: A mask rule; resolved to the sorted tuple of unit names.
        method: How the units of the mask train: one method, or one per unit type.
    """

    mask: str | tuple[str, ...] = "none"
    method: Annotated[Methods, MethodsField()] = pydantic.Field(
        default="direct", validate_default=True
    )

    def on(self, mask: tuple[str, ...], units: Units) -> AdaptationPart:
        """Return the part with `mask`, and of the methods only those that act on it.

        Raises:
            FairtuneError: A type of the methods is not the model's, or two of them clash.
        """
        return self.model_copy(update={"mask": mask, "method": self.method.settled(mask, units)})


class OptimPart(Config):
    """The optimisation of head and mask.

    Attributes:
        lr: Peak learning rate of the mask. Never defaulted: a mask is worth nothing without it.
        head_lr: Peak learning rate of the head.
        optimizer: AdamW (decoupled weight decay) or SGD with momentum 0.9.
        weight_decay: Decay of matrices; vectors (norms, biases, scales), positions and class
            tokens never are decayed.
        epochs: Passes over the training rows.
        batch_size: Images a step.
        schedule: `cosine` to zero, or `constant`.
        warmup: Share of all steps that rises linearly from zero.
        clip_norm: Largest gradient norm of a step; 0 switches clipping off.
        l2: Penalty of the linear readout (an empty mask), which is solved, not trained.
        class_weights: `balanced` weighs the loss of a sample by n / (classes * n of its class),
            counted in the rows this run is fitted on; for several labels, by target.
        label_smoothing: Share of every label that is spread evenly over the classes.
        mixup: Parameter a of the share ~ Beta(a, a) of two samples that are mixed, drawn by
            batch; 0 switches it off. With `cutmix` too, each batch has one of them by chance.
        cutmix: The same for a rectangle of one image put into the other.
        ema: Decay by step of the average of weights that is scored and stored in place of the
            last ones; it rises to this value from 0. 0 switches averaging off.
        layer_decay: Factor of the learning rate for every block further from the head, whose
            own rate it leaves as it is; 1 for one rate.
        accumulate: Batches whose gradients are added up for one step: up to rounding that is a
            step of so many times the images, in the memory of one batch.
    """

    ADDED: ClassVar[tuple[str, ...]] = (
        "class_weights",
        "label_smoothing",
        "mixup",
        "cutmix",
        "ema",
        "layer_decay",
        "accumulate",
    )

    lr: Annotated[Annotated[float, pydantic.Field(gt=0)] | None, Float(1e-5, 1e-3, log=True)] = (
        None
    )
    head_lr: Annotated[float, pydantic.Field(gt=0), Float(1e-4, 1e-2, log=True)] = 1e-3
    optimizer: Annotated[Literal["adamw", "sgd"], Choice(("adamw", "sgd"))] = "adamw"
    weight_decay: Annotated[float, pydantic.Field(ge=0), Float(1e-4, 1e-1, log=True)] = 0.01
    epochs: Annotated[int, pydantic.Field(ge=1), Int(1, 50, log=True)] = 10
    batch_size: Annotated[int, pydantic.Field(ge=1), Choice((16, 32, 64))] = 32
    schedule: Annotated[Literal["cosine", "constant"], Choice(("cosine", "constant"))] = "cosine"
    warmup: Annotated[float, pydantic.Field(ge=0, lt=1), Float(0.0, 0.2)] = 0.1
    clip_norm: Annotated[float, pydantic.Field(ge=0), Float(0.5, 5.0, log=True)] = 1.0
    l2: Annotated[float, pydantic.Field(gt=0), Float(1e-4, 1.0, log=True)] = 1e-2
    class_weights: Annotated[Literal["none", "balanced"], Choice(("none", "balanced"))] = "none"
    label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1), Float(0.0, 0.2)] = 0.0
    mixup: Annotated[float, pydantic.Field(ge=0), Float(0.0, 1.0)] = 0.0
    cutmix: Annotated[float, pydantic.Field(ge=0), Float(0.0, 1.0)] = 0.0
    ema: Annotated[float, pydantic.Field(ge=0, lt=1), Choice((0.0, 0.9, 0.99, 0.999))] = 0.0
    layer_decay: Annotated[float, pydantic.Field(gt=0, le=1), Float(0.5, 1.0)] = 1.0
    accumulate: Annotated[int, pydantic.Field(ge=1), Choice((1, 2, 4))] = 1

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _brief(self, self.ADDED, fields(self))


class FitPart(Config):
    """How the fit is computed.

    Attributes:
        precision: `fp32`, `bf16` (autocast with fp32 master weights), `tf32` (products of fp32
            numbers rounded to 10 bits, on NVIDIA processors that have it), or `auto`, which
            measures fp32 and bf16 once and is pinned when the recipe is resolved.
        rows: Rows that are fitted: `train`, or `train+val` when nothing is chosen any more.
        augment: `none`; `light`: random crops of 70 to 100 % of the area, and flips where the
            dataset spec allows them; `medical`: the ranges that the dataset spec declares.
        copies: Fixed augmented copies of every image, served in turn by epoch, so that an input
            follows from image and copy alone, whatever the seed; 0 draws anew every time. Without
            augmentation there is nothing to copy, and it is no part of the identity.
        checkpointing: `blocks` keeps only what stands between blocks for the backward pass and
            computes the inside of each again: the same numbers in less memory.
        compile: `blocks` has torch compile each block from the first one that trains: the same
            numbers up to rounding, in another time.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("copies", "checkpointing", "compile")

    precision: Literal["auto", "fp32", "bf16", "tf32"] = "auto"
    rows: Literal["train", "train+val"] = "train"
    augment: Annotated[
        Literal["none", "light", "medical"], Choice(("none", "light", "medical"))
    ] = "none"
    copies: Annotated[int, pydantic.Field(ge=0), Choice((0, 4))] = 0
    checkpointing: Literal["none", "blocks"] = "none"
    compile: Literal["none", "blocks"] = "none"

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _brief(self, self.ADDED, fields(self))


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
    adaptation: AdaptationPart = AdaptationPart()
    mitigations: Annotated[tuple[Config, ...], MITIGATIONS.list_field()] = ()
    optim: OptimPart = OptimPart()
    fit: FitPart = FitPart()

    ADDED: ClassVar[tuple[str, ...]] = ("mitigations",)

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _brief(self, self.ADDED, fields(self))

    @pydantic.model_validator(mode="before")
    @classmethod
    def _refuse_later(cls, value: Any) -> Any:
        for name in LATER:
            if isinstance(value, dict) and name in value:
                raise carried(
                    ConfigError(
                        f"'{name}' is not available in this version",
                        found=value[name],
                        allowed=list(cls.model_fields),
                        todo="remove it",
                    ),
                    name,
                )
        return value

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
        return self

    def attributed(self, default: str | None) -> Recipe:
        """Return the recipe with `default` as the attribute of mitigations that name none.

        None stands for the attribute of the data, where there is one alone.
        """
        if default is None and len(self.data.attributes) == 1:
            default = self.data.attributes[0]
        return self.model_copy(update={"mitigations": attributed(self.mitigations, default)})

    def of_data(self, **changes: Any) -> Recipe:
        """Return the recipe with fields of its data part changed."""
        return self.model_copy(update={"data": self.data.model_copy(update=changes)})

    @property
    def head_only(self) -> bool:
        """Whether nothing but the head is fitted."""
        return self.adaptation.mask in ("none", "linear_readout", ())

    @property
    def mitigated(self) -> bool:
        """Whether a mitigation acts on training."""
        return any(member.trains for member in self.mitigations)  # type: ignore[attr-defined]

    @property
    def solved(self) -> bool:
        """Whether the fit is a convex problem, solved at once: a head, and nothing to mitigate.

        With a mitigation the head is trained by steps as everything else is.
        """
        return self.head_only and not self.mitigated

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
        for member, fields in zip(self.mitigations, out.get("mitigations", [])):
            for name in idle(member):
                fields[name_of(member)].pop(name)
        if self.model.weights_sha is not None:
            del out["model"]["weights"]
        if self.fit.augment != "medical" or self.solved:
            out["data"].pop("augmentation", None)
        if not self.data.drawn:
            out["data"].pop("seed", None)
        if self.fit.augment == "none" or self.solved:
            out["fit"].pop("copies", None)
        if self.solved:
            out["adaptation"] = {"mask": []}
            acts = ("l2", "class_weights", "label_smoothing")
            out["optim"] = {name: out["optim"][name] for name in acts if name in out["optim"]}
            del out["fit"]["augment"]
            out["fit"].pop("compile", None)
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
        return out

    def identity(self) -> str:
        """Return the digest of `canonical()`: equal for recipes that give the same numbers."""
        return digest(self.canonical())

    def key(self, seeds: Seeds) -> str:
        """Return the digest under which the run of this recipe with `seeds` is stored."""
        return digest([self.canonical(), seeds.to_json(), PROTOCOL])
