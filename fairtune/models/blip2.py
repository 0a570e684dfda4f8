"""BLIP-2's first stage: an image tower, and a Q-Former that reads images and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtune.models import made
from fairtune.models.blip import (
    PADDING,
    PARTS,
    STD,
    ours,
    places,
    read_by,
    seen_by,
    undecayed,
    unplaced,
)
from fairtune.models.clip import Tower
from fairtune.models.language import attended
from fairtune.models.loaders.blip2 import Embedding

if TYPE_CHECKING:
    from fairtune.models.blip_sizes import QFormerSizes
    from fairtune.models.loaders.blip2 import Blip2Model
    from fairtune.models.spec import ModelSpec

EMBEDDINGS = get_args(Embedding)
HUB = {
    "vision_model.": "image.vision_model.",
    "vision_projection.": "image_projection.",
    "embeddings.": "qformer.embeddings.",
    "query_tokens": "qformer.query_tokens",
}
"""What the hub calls a tensor begins with; what it begins with here."""
_SIDES = {
    "query_tokens": "image",
    "crossattention": "image",
    "intermediate_query": "image",
    "output_query": "image",
    "embeddings": "text",
    "intermediate": "text",
    "output": "text",
}
"""Parts of the Q-Former that only one side of a comparison goes through."""


class WordHead(nn.Module):
    """Turns hidden states into logits of words, by the word embeddings themselves (as BERT's).

    Args:
        dim: Length of a hidden state.
        words: Token numbers.
        act: Activation.
        eps: Added to the variance.
    """

    def __init__(self, dim: int, words: int, act: nn.Module, eps: float) -> None:
        super().__init__()
        self.dense, self.act = nn.Linear(dim, dim), act
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return `(..., words)` logits of `(..., dim)`, with `(words, dim)` embeddings."""
        made = self.norm(self.act(self.dense(hidden)))
        return functional.linear(made, embeddings, self.bias)


class Blip2(nn.Module):
    """BLIP-2 before its language model (Li et al., BLIP-2, ICML 2023), as a timm network.

    The Q-Former reads an image by queries that look at the image tower's tokens, and a text as a
    BERT does; both go through the same self-attention. Of an image every query is compared.
    Computes what transformers' `Blip2ForImageTextRetrieval` does, which has no factor of cosines:
    checkpoints of that class leave out BLIP-2's `temp`. `logit_scale` starts at 1 / 0.07, where
    BLIP-2's training started it.

    Args:
        image: The image tower.
        qformer: transformers' `Blip2QFormerModel`.
        embeddings: transformers' `Blip2TextEmbeddings`.
        head: Of words.
        loader: Sizes of the Q-Former and the joint space, factor of cosines before training, and
            what of the queries is an image's embedding.
    """

    def __init__(
        self,
        image: Tower,
        qformer: nn.Module,
        embeddings: nn.Module,
        head: WordHead,
        loader: Blip2Model,
    ) -> None:
        super().__init__()
        dim, self.queries = loader.qformer.hidden_size, loader.qformer.num_query_tokens
        self.image, self.qformer = image, qformer
        self.qformer.embeddings = embeddings
        self.qformer.query_tokens = nn.Parameter(STD * torch.randn(1, self.queries, dim))
        self.image_projection = nn.Linear(dim, loader.dim)
        self.text_projection = nn.Linear(dim, loader.dim)
        self.itm_head, self.lm_head = nn.Linear(dim, 2), head
        self.logit_scale = nn.Parameter(torch.tensor(math.log(loader.scale)))
        # A tensor, as what is kept of an image's embeddings goes by the tensors that make them.
        self.register_buffer("embedding", _number(loader.embedding))
        self.joint_dim = loader.dim
        self.num_features = dim * (self.queries if loader.embedding == "flatten" else 1)
        self._embedding, self._bos = loader.embedding, loader.qformer.bos_token_id

    @property
    def text(self) -> nn.Module:
        """The Q-Former, which images go through as well, and the projection of texts."""
        return nn.ModuleList([self.qformer, self.text_projection])

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the image tower's tokens `(batch, 1 + patches, dim)`."""
        return self.image.forward_features(image)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the embedding `(batch, num_features)` of the queries; there is no head."""
        found = self.queried(features)
        if self._embedding == "first":
            return found[:, 0]
        if self._embedding == "flatten":
            return found.flatten(1)
        return found.mean(dim=1) if self._embedding == "mean" else found.amax(dim=1)

    def queried(self, features: Tensor) -> Tensor:
        """Return what the queries find, `(batch, queries, dim)`, before the projection."""
        queries = self._queries(len(features))
        return self._passed(queries, queries.shape[1], features=features)

    def joint(self, features: Tensor) -> Tensor:
        """See `LanguageNet.joint`."""
        found: Tensor = self.image_projection(self.queried(features))
        return found

    def words(self, tokens: Tensor) -> Tensor:
        """See `LanguageNet.words`: the first token, without a look at any image."""
        numbers, mask = attended(tokens, PADDING)
        hidden = self._passed(self._embedded(numbers), 0, mask)
        found: Tensor = self.text_projection(hidden[:, 0])
        return found

    def match(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Return `(pairs, 2)` logits of not matching and of matching, the mean over the queries.

        Queries and text attend to one another.

        Args:
            features: `(pairs, 1 + patches, dim)` of `forward_features`.
            tokens: `(pairs, length)` numbers of the tokens of as many texts.
        """
        numbers, mask = attended(tokens, PADDING)
        queries = self._queries(len(numbers))
        hidden = torch.cat([queries, self._embedded(numbers)], dim=1)
        seen = torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1)
        found = self._passed(hidden, self.queries, seen, features)
        logits: Tensor = self.itm_head(found[:, : self.queries]).mean(dim=1)
        return logits

    def caption(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Return `(pairs, length, words)` logits: those at a place are of the token behind it.

        Queries attend to queries, a token to the queries and to the tokens up to itself; the first
        token is `[DEC]` in place of the text's own. What stands where a text has no token means
        nothing. The loss of stage 1 is the cross-entropy of `logits[:, :-1]` and `tokens[:, 1:]`
        over the tokens that are there.

        Args:
            features: `(pairs, 1 + patches, dim)` of `forward_features`.
            tokens: `(pairs, length)` numbers of the tokens of as many texts.
        """
        numbers, mask = attended(tokens, PADDING)
        numbers = torch.cat([torch.full_like(numbers[:, :1], self._bos), numbers[:, 1:]], dim=1)
        hidden = torch.cat([self._queries(len(numbers)), self._embedded(numbers)], dim=1)
        qformer: Any = self.qformer
        # The encoder takes a mask of pairs of places as it is; the model round it does not.
        found = qformer.encoder(
            qformer.dropout(qformer.layernorm(hidden)),
            attention_mask=_causal(mask, self.queries, hidden.dtype),
            encoder_hidden_states=features,
            query_length=self.queries,
        ).last_hidden_state[:, self.queries :]
        logits: Tensor = self.lm_head(found, qformer.embeddings.word_embeddings.weight)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Return the image's embedding."""
        return self.forward_head(self.forward_features(image))

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed."""
        return undecayed(self.image)

    def sides(self, name: str) -> frozenset[str]:
        """See `language.sides`: what matches pairs or captions is on neither side."""
        first, *rest = name.split(".")
        if first in ("image", "image_projection", "embedding"):
            return frozenset({"image"})
        if first == "text_projection":
            return frozenset({"text"})
        if first != "qformer":
            return frozenset()
        part = rest[3] if rest[:2] == ["encoder", "layer"] else rest[0]
        return frozenset({_SIDES[part]}) if part in _SIDES else frozenset({"image", "text"})

    def _queries(self, count: int) -> Tensor:
        queries = self.qformer.query_tokens
        assert isinstance(queries, Tensor)
        return queries.expand(count, -1, -1)

    def _embedded(self, numbers: Tensor) -> Tensor:
        qformer: Any = self.qformer
        found: Tensor = qformer.embeddings(input_ids=numbers, position_ids=places(numbers))
        return found

    def _passed(
        self,
        hidden: Tensor,
        queries: int,
        mask: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        found: Tensor = self.qformer(
            query_embeds=hidden,
            query_length=queries,
            attention_mask=mask,
            encoder_hidden_states=features,
        ).last_hidden_state
        return found


def network(loader: Blip2Model, spec: ModelSpec, image_size: int) -> nn.Module:
    """Return the network, in the current device and random state.

    Raises:
        ModelError: transformers is missing, or the sizes do not fit together.
    """

    def build(transformers: Any) -> nn.Module:
        from transformers.activations import ACT2FN
        from transformers.models.blip_2 import modeling_blip_2

        theirs: Any = modeling_blip_2
        sizes, image = loader.qformer, loader.image
        vision = transformers.Blip2VisionConfig(**seen_by(image, image_size))
        own = ("num_query_tokens", "bos_token_id")
        config = transformers.Blip2QFormerConfig(
            **{n: v for n, v in read_by(sizes).items() if n not in own},
            encoder_hidden_size=image.hidden_size,
            use_qformer_text_input=True,
        )
        act = ACT2FN[config.hidden_act]
        return Blip2(
            Tower(theirs.Blip2VisionModel(vision), image.hidden_size, PARTS),
            theirs.Blip2QFormerModel(config),
            unplaced(theirs.Blip2TextEmbeddings(config)),
            WordHead(sizes.hidden_size, sizes.vocab_size, act, config.layer_norm_eps),
            loader,
        )

    return made.transformers_model(spec, build)


def renamed(tensors: Mapping[str, Tensor], loader: Blip2Model) -> dict[str, Tensor]:
    """Return the tensors of `Blip2ForImageTextRetrieval` under the names that they have here.

    Names that are here already stay. What that class does not have, a factor of cosines and a
    head of words, is added where it is missing.

    Args:
        tensors: They.
        loader: Its factor, its Q-Former's sizes and what is an embedding.
    """
    begun = {"logit_scale": torch.tensor(math.log(loader.scale)), **_word_head(loader.qformer)}
    return {**begun, **ours(tensors, HUB), "embedding": _number(loader.embedding)}


def _number(embedding: Embedding) -> Tensor:
    return torch.tensor(EMBEDDINGS.index(embedding), dtype=torch.uint8)


def _word_head(sizes: QFormerSizes) -> dict[str, Tensor]:
    """Return where the head of words starts, the same on every machine.

    Uniform values, as those of a normal distribution are rounded otherwise by other processors.
    """
    dim = sizes.hidden_size
    drawn = torch.rand(dim, dim, generator=torch.Generator().manual_seed(0))
    return {
        "lm_head.dense.weight": (2 * drawn - 1) * (STD * math.sqrt(3)),
        "lm_head.dense.bias": torch.zeros(dim),
        "lm_head.norm.weight": torch.ones(dim),
        "lm_head.norm.bias": torch.zeros(dim),
        "lm_head.bias": torch.zeros(sizes.vocab_size),
    }


def _causal(mask: Tensor, queries: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where a place attends to another, else -inf: `(texts, 1, places, places)`.

    Args:
        mask: `(texts, length)` 0/1 of the tokens that are there.
        queries: Places before those of the text.
        dtype: Of the result.
    """
    count, length = mask.shape
    whole = queries + length
    seen = torch.ones(whole, whole, dtype=torch.bool, device=mask.device).tril()
    seen[:queries, :queries] = True
    there = torch.cat([mask.new_ones(count, queries), mask], dim=1).bool()
    both = seen & there[:, None, :]
    out = torch.zeros(count, 1, whole, whole, dtype=dtype, device=mask.device)
    return out.masked_fill(~both[:, None], float("-inf"))
