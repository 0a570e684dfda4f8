"""The plain parts of a recipe: data, model, adaptation, optimisation and how it is computed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.adaptation.placement import Methods, MethodsField
from fairtune.config import Choice, Config, Float, Int
from fairtune.config.model import carried
from fairtune.errors import ConfigError
from fairtune.models.units import Units


def brief(part: Config, names: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
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
        prompts: Digest of the target's prompts, pinned likewise where the usage reads them.
        fold: The fold of a run that belongs to a trial of several; computed, not written.
        fraction: Share of the training patients that is fitted on, stratified by label and
            attributes; a smaller share is part of a larger one. Validation rows are all there.
        seed: Seed of folds and fraction.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("augmentation", "prompts", "fold", "fraction", "seed")

    dataset: str
    target: str
    attributes: tuple[str, ...] = pydantic.Field(min_length=1)
    where: dict[str, Any] = pydantic.Field(default_factory=dict)
    fingerprint: str | None = None
    split: str | None = None
    augmentation: str | None = None
    prompts: str | None = None
    fold: FoldPart | None = None
    fraction: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, pydantic.Field(ge=0)] = 0

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return brief(self, self.ADDED, fields(self))

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
        tokenizer: Digest of how texts are read, pinned likewise where the usage reads any.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("tokenizer",)

    name: str
    image_size: Annotated[int, pydantic.Field(gt=0)] | None = None
    weights: str = "auto"
    weights_sha: str | None = None
    units: str | None = None
    tokenizer: str | None = None

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        return brief(self, self.ADDED, fields(self))


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
        return brief(self, self.ADDED, fields(self))


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
        return brief(self, self.ADDED, fields(self))
