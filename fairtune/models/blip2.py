"""BLIP-2's first stage: an image tower, and a Q-Former that reads images and texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtune.models.blip import CLASS, POSITION, read_by
from fairtune.models.language import attended
from fairtune.models.ready_made import Layout, places, unplaced

if TYPE_CHECKING:
    from fairtune.models.blip_sizes import QFormerSizes, VisionSizes

Embedding = Literal["first", "mean", "max", "flatten"]

_PADDING = 0
_STD = 0.02


class WordHead(nn.Module):
    """Turns hidden states into logits of words, by the word embeddings themselves (as BERT's).

    Args:
        dim: Length of a hidden state.
        words: Token numbers.
        eps: Added to the variance.
    """

    def __init__(self, dim: int, words: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return `(..., words)` logits of `(..., dim)`, with `(words, dim)` embeddings."""
        made = self.norm(functional.gelu(self.dense(hidden)))
        return functional.linear(made, embeddings, self.bias)


class Blip2(nn.Module):
    """BLIP-2 before its language model (Li et al., BLIP-2, ICML 2023), as a timm network.

    The Q-Former reads an image by queries that look at the image tower's tokens, and a text as a
    BERT does; both go through the same self-attention. Of an image every query is compared.
    Computes what transformers' `Blip2ForImageTextRetrieval` does, which has no factor of cosines:
    checkpoints of that class leave out BLIP-2's `temp`. `logit_scale` starts at 1 / 0.07, where
    BLIP-2's training started it.

    Args:
        image: transformers' `Blip2VisionModel`.
        qformer: transformers' `Blip2QFormerModel`.
        embeddings: transformers' `Blip2TextEmbeddings`.
        sizes: Of the Q-Former.
        joint_dim: Length of what is compared.
        scale: Factor of cosines before training.
        embedding: What of the queries is an image's embedding.
    """

    def __init__(
        self,
        image: nn.Module,
        qformer: nn.Module,
        embeddings: nn.Module,
        sizes: QFormerSizes,
        joint_dim: int,
        scale: float,
        embedding: Embedding,
    ) -> None:
        super().__init__()
        dim, self.queries = sizes.hidden_size, sizes.num_query_tokens
        self.image, self.qformer = image, qformer
        self.qformer.embeddings = embeddings
        self.qformer.query_tokens = nn.Parameter(_STD * torch.randn(1, self.queries, dim))
        self.image_projection = nn.Linear(dim, joint_dim)
        self.text_projection = nn.Linear(dim, joint_dim)
        self.itm_head = nn.Linear(dim, 2)
        self.lm_head = WordHead(dim, sizes.vocab_size, sizes.layer_norm_eps)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.joint_dim = joint_dim
        self.num_features = dim * (self.queries if embedding == "flatten" else 1)
        self._embedding, self._bos = embedding, sizes.bos_token_id

    @property
    def text(self) -> nn.Module:
        """What `words` goes through: the Q-Former, which images do as well, and a projection."""
        return nn.ModuleList([self.qformer, self.text_projection])

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the image tower's tokens `(batch, 1 + patches, dim)`."""
        found: Tensor = self.image(pixel_values=image).last_hidden_state
        return found

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
        numbers, mask = attended(tokens, _PADDING)
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
        numbers, mask = attended(tokens, _PADDING)
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
        numbers, mask = attended(tokens, _PADDING)
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
        return {"logit_scale", POSITION, CLASS}

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


def network(
    vision: VisionSizes,
    qformer: QFormerSizes,
    image_size: int,
    joint_dim: int,
    scale: float,
    embedding: Embedding,
) -> Blip2:
    """Return the network with transformers' random values, or none on the meta device."""
    from transformers import Blip2QFormerConfig, Blip2VisionConfig
    from transformers.models.blip_2 import modeling_blip_2

    theirs: Any = modeling_blip_2
    fields = vision.to_json() | {"image_size": image_size, "initializer_range": _STD}
    ours = ("num_query_tokens", "bos_token_id")
    config = Blip2QFormerConfig(
        **{n: v for n, v in read_by(qformer).items() if n not in ours},
        encoder_hidden_size=vision.hidden_size,
        use_qformer_text_input=True,
    )
    return Blip2(
        theirs.Blip2VisionModel(Blip2VisionConfig(**fields)),
        theirs.Blip2QFormerModel(config),
        unplaced(theirs.Blip2TextEmbeddings(config)),
        qformer,
        joint_dim,
        scale,
        embedding,
    )


def layout(sizes: QFormerSizes, scale: float) -> Layout:
    """Return the layout of `Blip2ForImageTextRetrieval`, which has no language-modelling head.

    Args:
        sizes: Of the Q-Former.
        scale: Factor of cosines, which its files lack too.
    """
    names = {
        "vision_model.": "image.",
        "vision_projection.": "image_projection.",
        "embeddings.": "qformer.embeddings.",
        "query_tokens": "qformer.query_tokens",
    }
    begun = {"logit_scale": torch.tensor(math.log(scale)), **_word_head(sizes)}
    return Layout("Blip2ForImageTextRetrieval", names, POSITION, begun)


def _word_head(sizes: QFormerSizes) -> dict[str, Tensor]:
    """Return where the language-modelling head starts, the same on every machine.

    Uniform values, as those of a normal distribution are rounded otherwise by other processors.
    """
    dim = sizes.hidden_size
    drawn = torch.rand(dim, dim, generator=torch.Generator().manual_seed(0))
    return {
        "lm_head.dense.weight": (2 * drawn - 1) * (_STD * math.sqrt(3)),
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
