"""Visual prompt tuning: learned tokens beside the image's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import pydantic

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.fields import Dropout
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config


@METHODS.register("vpt")
class Vpt(Config):
    """Insert learned tokens after the class token; the network itself stays frozen.

    The masked units say where: `shallow` inserts tokens at the first block that has one, and they
    pass through the later blocks; `deep` gives every further block that has one fresh tokens in
    their place. They are taken out after the last block, so that pooling sees what it saw before.

    Attributes:
        tokens: Tokens of every insertion.
        mode: `shallow` or `deep`.
        dropout: Of the tokens.
    """

    paper: ClassVar[str] = "Jia et al., Visual Prompt Tuning, ECCV 2022"
    formula: ClassVar[str] = "block([x_cls, P, x_1..x_n])"
    layers: ClassVar[str] = "blocks of a network of tokens (ViT, DeiT, DINOv2, MAE, EVA, CLIP)"
    merges: ClassVar[bool] = False
    starts_unchanged: ClassVar[bool] = False

    tokens: Annotated[int, pydantic.Field(ge=1, le=1000), Choice((1, 5, 10, 50))] = 10
    mode: Annotated[Literal["shallow", "deep"], Choice(("shallow", "deep"))] = "deep"
    dropout: Dropout = 0.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Insert tokens at the blocks of `units`.

        Raises:
            ModelError: The network has no sequence of tokens, or no unit is in a block.
        """
        from fairtune.adaptation import prompts

        return prompts.attach("vpt", units, context, self.tokens, self.mode, self.dropout)
