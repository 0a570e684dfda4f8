"""Mask spaces: how a study writes a mask as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from fairtune.adaptation.extent import Extent
from fairtune.adaptation.mask import Mask
from fairtune.config import Config, Dimension, Registry
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError, did_you_mean
from fairtune.models.units import Units

SPACES: Registry[Config] = Registry("mask space", "fairtune.adaptation.spaces")


@runtime_checkable
class MaskSpace(Protocol):
    """A way to write masks as parameters; every point of the space is a mask."""

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return the parameters by name, in the order in which they act."""

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the mask of one point."""

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Return the point of `mask`, or None when this space cannot say it."""

    def extent(self, units: Units) -> Extent:
        """Return how many masks the space has, and how small and large they are."""


def read_space(written: Any) -> tuple[str, MaskSpace]:
    """Return the name and the space written as NAME, as one of `ALIASES`, or as `{NAME: {...}}`.

    Raises:
        ConfigError: An unknown name, or wrong fields.
    """
    if isinstance(written, str):
        known = [*SPACES.names(), *ALIASES]
        if written not in known:
            raise ConfigError(
                "unknown mask space",
                found=written,
                allowed=known,
                todo=did_you_mean(written, known),
            )
        written = ALIASES.get(written, written)
    space: Config = SPACES.parse(written)
    assert isinstance(space, MaskSpace)
    return name_of(space), space


ALIASES: dict[str, dict[str, Any]] = {
    "tune_full_block": {"bits": {"types": ["block"]}},
    "tune_attention_blocks_random": {"bits": {"types": ["attn"]}},
    "tune_layernorm_blocks_random": {"bits": {"types": ["norm"]}},
    "tune_mlp_blocks_random": {"bits": {"types": ["mlp"]}},
    "tune_attention_layernorm": {"bits": {"types": ["attn+norm"]}},
    "tune_attention_mlp": {"bits": {"types": ["attn+mlp"]}},
    "tune_layernorm_mlp": {"bits": {"types": ["norm+mlp"]}},
    "tune_attention_layernorm_mlp": {"bits": {"types": ["attn+norm+mlp"]}},
    "auto_peft1": {"bits": {"types": ["norm", "attn", "mlp"]}},
    "auto_peft2": {"bits": {"types": ["norm1", "attn", "norm2", "mlp"]}},
    "tune_attention_params_random": {
        "bits": {
            "types": ["attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"],
            "always": ["pos"],
        }
    },
}
"""The tuning methods of FairTune (Dutt et al., ICLR 2024), by the name they have there."""
