"""Images scored by how near they are to sentences that say the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairtune.models.language import similarity, unit
from fairtune.usage import Question, Task

if TYPE_CHECKING:
    from fairtune.models.backbone import Backbone

MOST_SCALE = 100.0
"""Cosines are multiplied by no more, as in CLIP."""


class PromptHead(nn.Module):
    """Sentences of each class, embedded by the text tower; nothing in it trains.

    The vector of a class is the mean of its sentences' unit vectors, a prompt ensemble (Radford et
    al., CLIP, ICML 2021, section 3.1.4). Sentences are embedded once for every pass over images:
    whoever begins one puts the net in evaluation mode, which forgets what was embedded before.

    Args:
        question: Its sentences, with whose each is.
    """

    def __init__(self, question: Question) -> None:
        super().__init__()
        self._question = question
        self._held: Tensor | None = None

    def train(self, mode: bool = True) -> PromptHead:
        """Change the mode; what was embedded before is embedded anew."""
        self._held = None
        super().train(mode)
        return self

    def classes(self, backbone: Backbone) -> Tensor:
        """Return the `(classes, d)` unit vectors of the classes, without gradient."""
        if self._held is None:
            self._held = vectors_of(self._question, backbone)
        return self._held

    def forward(self, image: Tensor, backbone: Backbone) -> Tensor:
        """Return the `(batch, outputs)` logits of what is compared of images.

        With s the scale and cos_c the cosine with class c: s (cos_1 - cos_0) for a binary task, s
        cos_c for several classes, s (cos_present - cos_absent) for each of several targets. A
        softmax over a pair of classes is the sigmoid of their difference, so probabilities are
        those of CLIP; a bias of the logits (SigLIP) cancels.

        Args:
            image: What `Backbone.joint` returned.
            backbone: Embeds the sentences.
        """
        cosine = similarity(image, self.classes(backbone))
        return logits(cosine, scale_of(backbone), self._question.task)


def vectors_of(question: Question, backbone: Backbone) -> Tensor:
    """Return the `(classes, d)` unit vectors of a question's classes, without gradient."""
    assert question.prompts is not None
    assert question.owner is not None
    device = backbone.language.logit_scale.device
    # Usable in a step too, which tensors of inference mode are not.
    with torch.inference_mode(False), torch.no_grad():
        words: Tensor = backbone.words(question.prompts.to(device))
        return means(unit(words), question.owner.to(device))


def means(vectors: Tensor, owner: Tensor) -> Tensor:
    """Return the unit vector of the mean of each owner's `vectors` `(k, d)`, by its number."""
    count = int(owner.max()) + 1
    total = vectors.new_zeros(count, vectors.shape[1]).index_add_(0, owner, vectors)
    return unit(total)


def logits(cosine: Tensor, scale: Tensor, task: Task) -> Tensor:
    """Return `(batch, outputs)` logits of the cosines `(batch, classes)` with the classes."""
    scaled = scale.float() * cosine
    if task == "multiclass":
        return scaled
    return scaled[:, 1::2] - scaled[:, 0::2]


def scale_of(backbone: Backbone) -> Tensor:
    """Return the factor of cosines, at most `MOST_SCALE`.

    At the cap the gradient that would raise it further is 0, the one that lowers it is not: as
    where CLIP cuts the tensor itself after each step, a model that begins there can leave it.
    """
    found: Tensor = _Capped.apply(backbone.language.logit_scale.exp())
    return found


class _Capped(torch.autograd.Function):
    """The identity up to `MOST_SCALE`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Return `value`, at most the cap."""
        ctx.save_for_backward(value)
        return value.clamp(max=MOST_SCALE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient, 0 where a step along it would leave the cap."""
        (value,) = ctx.saved_tensors
        down = (value < MOST_SCALE) | (gradients[0] > 0)
        kept: Tensor = gradients[0] * down
        return kept
