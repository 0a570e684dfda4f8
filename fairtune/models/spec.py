"""What a YAML under `configs/models/` declares. Nothing here needs torch."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fairtune.config import Config, Source, parse, shipped, yaml12
from fairtune.config.model import carried
from fairtune.errors import ConfigError, FairtuneError, ModelError
from fairtune.models.registries import LOADERS, SOURCES, Maker
from fairtune.models.tokenizer_rule import TokenizerRule

if TYPE_CHECKING:
    from torch import nn

# Words with a meaning of their own in mask rules, so no unit type may be called so.
RESERVED = ("head", "all", "none", "singles")
_WORD = re.compile(r"[a-z][a-z0-9_]*\Z")
_TENSOR = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z")


class ImageSize(Config):
    """Side of the square input in pixels: the default, and what every side is a multiple of."""

    default: Annotated[int, Field(ge=1)]
    multiple_of: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _default_fits(self) -> ImageSize:
        if self.default % self.multiple_of:
            raise carried(
                ConfigError(
                    "the default image size is no multiple of 'multiple_of'",
                    found=self.default,
                    allowed=f"multiples of {self.multiple_of}",
                )
            )
        return self


class UnitNames(Config):
    """How a model's tensors are named as units.

    Attributes:
        blocks: Module path before the depth number, e.g. `blocks` for `blocks.7.attn.qkv.weight`;
            `layer*` for blocks called `layer1` to `layer4`.
        types: Unit types. Each entry is an earlier type, or a run of name parts that must occur
            in the tensor's name below its block (`norm1`, `attn.qkv.weight`, `bias`), `^` with
            such a run where it must begin with it, or `*`.
        singles: Units without depth, each a list of module or tensor names outside the blocks.
        towers: For a network of several, such as `image` and `text`, the same of each, in place
            of `blocks` and `types`: names are those below the tower's module, and units, types
            and singles are called by it, `image.blocks.7.attn.qkv.weight`, `text.attn`. Of
            singles `stem` and `pos` stand before the blocks and `projection` behind; of any other
            the order of the network says so.
    """

    blocks: str = "blocks"
    types: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    singles: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    towers: dict[str, UnitNames] = Field(default_factory=dict)

    @field_validator("blocks")
    @classmethod
    def _is_path(cls, value: str) -> str:
        _check(value.removesuffix("*"), _TENSOR, "a module path such as 'blocks', or 'layer*'")
        return value

    @field_validator("towers")
    @classmethod
    def _are_towers(cls, value: dict[str, UnitNames]) -> dict[str, UnitNames]:
        for name, tower in value.items():
            _check(name, _WORD, "a lower-case word", loc=name)
            if name in RESERVED:
                raise carried(ConfigError(f"'{name}' is a reserved word", found=name), name)
            if tower.towers:
                raise carried(ConfigError("a tower has no towers of its own", found=name), name)
        return value

    @field_validator("types", "singles")
    @classmethod
    def _are_names(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, entries in value.items():
            _check(name, _WORD, "a lower-case word", loc=name)
            if name in RESERVED:
                raise carried(ConfigError(f"'{name}' is a reserved word", found=name), name)
            for entry in entries:
                if entry != "*":
                    _check(
                        entry.removeprefix("^"),
                        _TENSOR,
                        "a run of tensor name parts, the same behind '^', or '*'",
                        loc=name,
                    )
        return value

    @model_validator(mode="after")
    def _are_disjoint(self) -> UnitNames:
        both = sorted(set(self.types) & set(self.singles))
        if both:
            raise carried(ConfigError("a name is both a unit type and a single unit", found=both))
        named = sorted(set(self.towers) & set(self.singles))
        if named:
            raise carried(ConfigError("a name is both a tower and a single unit", found=named))
        if self.towers and self.types:
            raise carried(
                ConfigError("the unit types of towers stand below them", found=list(self.types)),
                "types",
            )
        return self


class ModelSpec(Config):
    """A pretrained backbone: its architecture, input, weights and units.

    Attributes:
        name: Stem of the YAML file.
        title: For tables and reports.
        licence: Licence of the weights.
        citation: Reference of the weights.
        loader: How the network is built; `timm`, `checkpoint` with the user's own file, or `http`,
            an endpoint that is asked in its place.
        architecture: The loader's name of the network; of an endpoint a title.
        image_size: Default side and the multiple it must be (patch size, total stride).
        channels: Input channels.
        mean: Subtracted from an image in [0, 1], one per channel; may be left out for an endpoint,
            which then gets images in [0, 1].
        std: Divided by after that, one per channel; likewise.
        rounding: `fp16` rounds every weight to half precision before it is hashed and used, so
            that a half-precision copy and its single-precision original are one and the same.
        weights: Sources of pretrained weights, tried in this order.
        units: The finest pieces a mask can switch, and their types; left out for an endpoint,
            which has none.
        tokenizer: How the text tower reads texts; None for a model of images alone.
    """

    name: str
    title: str
    licence: str
    citation: str
    loader: Annotated[Any, LOADERS.field()] = "timm"
    architecture: str
    image_size: ImageSize
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    rounding: Literal["none", "fp16"] = "none"
    weights: tuple[Annotated[Any, SOURCES.field()], ...] = ()
    units: UnitNames
    tokenizer: TokenizerRule | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_endpoint(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not _asks(data.get("loader")):
            return data
        channels = data.get("channels", 3)
        count = channels if isinstance(channels, int) and 1 <= channels <= 4 else 3
        given = {"mean": [0.0] * count, "std": [1.0] * count, "units": {"types": {}}}
        return {**given, **data}

    @model_validator(mode="after")
    def _one_per_channel(self) -> ModelSpec:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise carried(
                    ConfigError(
                        f"'{field}' needs one number per channel",
                        found=list(values),
                        allowed=f"{self.channels} numbers",
                    ),
                    field,
                )
        return self

    @property
    def endpoint(self) -> str | None:
        """SHA-256 (hex) of the endpoint that answers in place of tensors, None for a network.

        It stands where the digest of weights stands; the network that is made holds its 32 bytes
        as a tensor.
        """
        found: str | None = getattr(self.loader, "identity", None)
        return found

    @property
    def own_file(self) -> Path | None:
        """The user's own weights file, or None when weights come from the sources."""
        found: Path | None = getattr(self.loader, "checkpoint", None)
        return found

    def outline(self, side: int) -> nn.Module:
        """Return the headless network without values, on the meta device where possible."""
        if not isinstance(self.loader, Maker):
            network: nn.Module = self.loader.outline(self, side)
            return network
        from fairtune.models import made

        return made.outline(self.loader.make(self, side))

    def seeded(self, side: int, seed: int) -> nn.Module:
        """Return the headless network with random values that depend on `seed` alone."""
        if not isinstance(self.loader, Maker):
            network: nn.Module = self.loader.seeded(self, side, seed)
            return network
        from fairtune.models import made

        return made.seeded(self.loader.make(self, side), seed)

    def filled(self, side: int | None, file: Path) -> nn.Module:
        """Return the headless network with the tensors of `file`; see `Loader.filled`."""
        if not isinstance(self.loader, Maker):
            network: nn.Module = self.loader.filled(self, side, file)
            return network
        from fairtune.models import made

        loader, make = self.loader, self.loader.make(self, self.side(side))
        named = partial(loader.renamed, where=file.name)
        return made.filled(make, self, file, named, loader.positions)

    def side(self, image_size: int | None = None) -> int:
        """Return `image_size`, or the default when it is None.

        Raises:
            ModelError: The size is no positive multiple of `image_size.multiple_of`.
        """
        size = self.image_size.default if image_size is None else image_size
        step = self.image_size.multiple_of
        if size < 1 or size % step:
            below = max(step, size // step * step)
            raise ModelError(
                f"image size does not fit model '{self.name}'",
                found=size,
                allowed=f"multiples of {step}",
                todo=f"use {below} or {below + step}",
            )
        return size


def load(name: str) -> ModelSpec:
    """Read the model spec `name`: a shipped one, or a path to a YAML file.

    Raises:
        ConfigError: No such spec, or the file cannot be read.
        Problems: Several faults of the file.
    """
    path = shipped.find("models", name)
    located = yaml12.read(path, str(path) if name.endswith((".yaml", ".yml")) else path.name)
    source = Source(located)
    if not isinstance(located.data, dict):
        raise ConfigError("expected a mapping of fields", where=located.name, found=located.data)
    if "name" in located.data:
        raise ConfigError(
            "a model is called as its file is",
            where=source.where("name"),
            found=located.data["name"],
            todo="remove the field 'name', or rename the file",
        )
    spec = parse(ModelSpec, {**located.data, "name": path.stem}, source)
    tokenizer = None if spec.tokenizer is None else spec.tokenizer.beside(path.parent)
    beside = getattr(spec.loader, "beside", None)
    loader = spec.loader if beside is None else beside(path.parent)
    return spec.model_copy(update={"loader": loader, "tokenizer": tokenizer})


def names() -> list[str]:
    """Return the names of all shipped model specs, in alphabetical order."""
    return shipped.names("models")


def _asks(loader: Any) -> bool:
    """Tell whether what is written as a loader asks an endpoint; its faults are told elsewhere."""
    try:
        return loader is not None and hasattr(LOADERS.parse(loader), "identity")
    except FairtuneError:
        return False


def _check(value: str, pattern: re.Pattern[str], allowed: str, loc: str | None = None) -> str:
    if not pattern.match(value):
        error = ConfigError("not a valid name", found=value, allowed=allowed)
        raise carried(error) if loc is None else carried(error, loc)
    return value
