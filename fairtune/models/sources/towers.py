"""Weights of two towers that were trained apart: those of the image model, and of a text model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from fairtune.config import Config, Settings
from fairtune.errors import FairtuneError, ModelError
from fairtune.models.registries import SOURCES

if TYPE_CHECKING:
    import torch

    from fairtune.models.spec import ModelSpec


@SOURCES.register("towers")
class TowerWeights(Config):
    """The image model's own weights, from its own sources, and a text model's.

    Projections and scale, which neither has, are those of the loader: random of seed 0.

    Attributes:
        text: Where the text tower's weights come from, tried in this order.
    """

    text: tuple[Annotated[Any, SOURCES.field()], ...] = Field(min_length=1)

    def label(self) -> str:
        """Return the name used in messages and provenance."""
        return "two towers, text of " + " or ".join(source.label() for source in self.text)

    def remedy(self) -> str:
        """Return what a user can do where neither can be had."""
        return " or ".join(source.remedy() for source in self.text)

    def fetch(self, spec: ModelSpec, settings: Settings) -> dict[str, torch.Tensor]:
        """Return the tensors of both towers by name.

        Raises:
            ModelError: One of them cannot be had.
        """
        from fairtune.models import bert, tensors, weights

        image = spec.loader.image_spec(spec)
        held = weights.resolve(image, weights.AUTO, settings)
        assert held is not None
        state = dict(spec.seeded(spec.side(), 0).state_dict())
        found = {
            **{f"image.{name}": tensor for name, tensor in tensors.read(held.path).items()},
            **{f"text.{name}": t for name, t in bert.plain(self._text(spec, settings)).items()},
        }
        return {**{n: t for n, t in state.items() if _ours(n)}, **found}

    def content(self, spec: ModelSpec, settings: Settings) -> bytes:
        """Refuse: two towers are no file.

        Raises:
            ModelError: Always.
        """
        raise ModelError("two towers are not one file", todo="name a wheel or a hub")

    def reachable(self, spec: ModelSpec, settings: Settings) -> str | None:
        """Return None when `fetch` can be expected to work, else the reason."""
        reasons = [source.reachable(spec, settings) for source in self.text]
        return None if None in reasons else reasons[0]

    def _text(self, spec: ModelSpec, settings: Settings) -> dict[str, torch.Tensor]:
        tried: list[str] = []
        for source in self.text:
            try:
                found: dict[str, torch.Tensor] = source.fetch(spec, settings)
                return found
            except FairtuneError as error:
                tried.append(f"{source.label()}: {error.what}")
        raise ModelError("the text tower's weights cannot be had: " + "; ".join(tried))


def _ours(name: str) -> bool:
    return name == "logit_scale" or ".projection." in name
