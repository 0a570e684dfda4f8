"""A BERT of transformers as a text tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fairtune.errors import ModelError
from fairtune.models.language import attended
from fairtune.models.made import numbered

if TYPE_CHECKING:
    from fairtune.models.loaders.two_towers import Bert


def tower(rule: Bert) -> nn.Module:
    """Return the encoder without a pooler, with transformers' random values.

    Raises:
        ModelError: transformers is missing.
    """
    try:
        from transformers import BertConfig, BertModel
    except ImportError:
        raise ModelError(
            "a BERT needs the package transformers",
            where="loader.two_towers.text",
            todo="pip install 'fairtune[clip]'",
        ) from None
    config = BertConfig(
        vocab_size=rule.vocab_size,
        hidden_size=rule.hidden_size,
        num_hidden_layers=rule.num_hidden_layers,
        num_attention_heads=rule.num_attention_heads,
        intermediate_size=rule.intermediate_size,
        max_position_embeddings=rule.max_position_embeddings,
        layer_norm_eps=rule.layer_norm_eps,
        hidden_dropout_prob=rule.dropout,
        attention_probs_dropout_prob=rule.dropout,
        output_hidden_states=rule.pool == "mean_1_2_last",
    )
    return numbered(BertModel(config, add_pooling_layer=False))


def read(text: nn.Module, tokens: Tensor, pool: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """Return `(texts, dim)` of token numbers, as `pool` makes it of the output and their 0/1."""
    numbers, mask = attended(tokens, 0)
    return pool(text(input_ids=numbers, attention_mask=mask), mask)


def mean(found: Any, mask: Tensor) -> Tensor:
    """Return the mean over the tokens of each text, `(texts, dim)`."""
    hidden: Tensor = found.last_hidden_state
    weight = mask[:, :, None].to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def first(found: Any, mask: Tensor) -> Tensor:
    """Return the first token of each text, `(texts, dim)`."""
    hidden: Tensor = found.last_hidden_state
    return hidden[:, 0]


def mean_of_three(found: Any, mask: Tensor) -> Tensor:
    """Return the mean over the tokens of the states behind block 1, block 2 and the last one.

    MedCLIP's (Wang et al., EMNLP 2022); there the mean goes over the padding of a batch as well,
    so that a text's embedding depends on the texts beside it. Here it does not.
    """
    states = [found.hidden_states[at] for at in (1, 2, -1)]
    weight = mask[:, :, None].to(states[0].dtype)
    hidden: Tensor = sum(states[1:], states[0]) / len(states)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


POOLS = {"mean": mean, "cls": first, "mean_1_2_last": mean_of_three}


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors of a checkpoint under the names that they have here."""
    own = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    kept = ("embeddings.", "encoder.")
    dropped = "embeddings.position_ids"
    return {n: t for n, t in own.items() if n.startswith(kept) and n != dropped}
