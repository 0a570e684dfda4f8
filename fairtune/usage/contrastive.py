"""Contrastive fine-tuning: images and their own texts are drawn together, others apart."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from fairtune.config import Choice, Config
from fairtune.data.prompts import Templates
from fairtune.usage import USAGES, Output, Question, Task
from fairtune.usage.classify import sample_loss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.models.backbone import Backbone
    from fairtune.models.net import Net


@USAGES.register("contrastive")
class Contrastive(Config):
    """Loss of pair i = (CE of image i over the texts + CE of text i over the images) / 2.

    CE is the cross-entropy of s cos(image, text), s the scale (at most 100), over the pairs of a
    step's batch: symmetric InfoNCE (Radford et al., CLIP, ICML 2021). A model with a bias of its
    logits is trained with the sigmoid loss (Zhai et al., SigLIP, ICCV 2023): -sum over j of
    log sigmoid(z_ij (s cos_ij + b)), z = 1 for the own text and -1 for another. What is masked
    trains, of either tower; labels take no part. Scored is zero-shot, so the epoch rule,
    objectives and thresholds are those of every other usage; an empty mask is zero-shot itself.

    Attributes:
        loss_by: `softmax`, `sigmoid`, or `auto`: sigmoid where the model has a bias.
        templates: As of `zero_shot`.
    """

    fits: ClassVar[Literal["mask"]] = "mask"
    pairs: ClassVar[bool] = True
    convex: ClassVar[bool] = False

    loss_by: Annotated[Literal["auto", "softmax", "sigmoid"], Choice(("softmax", "sigmoid"))] = (
        "auto"
    )
    templates: Templates = ()

    @property
    def sees(self) -> tuple[str, ...]:
        """The image."""
        return ("image",)

    @property
    def reads_text(self) -> bool:
        """The text of every row."""
        return True

    @property
    def reads_prompts(self) -> bool:
        """Sentences that say the classes, to score with."""
        return True

    def build(self, backbone: Backbone, question: Question, generator: torch.Generator) -> Net:
        """Return backbone and sentences."""
        from fairtune.models.net import Net
        from fairtune.usage.nets.prompts import PromptHead

        return Net(backbone, PromptHead(question))

    def forward(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return what is compared of images and texts; the score is the cosine of each pair.

        Losses are 0 until `paired` has seen all samples of the step.
        """
        assert batch.text is not None
        image, text = net.backbone.joint(batch.image), net.backbone.words(batch.text)
        out = Output(batch.weight * 0, batch.weight[:, None] * 0, embedded(image), image, text)
        assert out.similarity is not None
        return dataclasses.replace(out, score=out.similarity[:, None])

    def score(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return the zero-shot logits, with the loss of the labels."""
        from fairtune.usage.zero_shot import compared

        return compared(net, batch, task)

    def paired(self, net: Net, out: Output) -> Output:
        """Return `out` with the loss of every pair among all of them."""
        from fairtune.models.language import similarity
        from fairtune.usage.nets.prompts import scale_of

        assert out.image is not None
        assert out.text is not None
        bias = getattr(net.backbone.language, "logit_bias", None)
        logit = scale_of(net.backbone).float() * similarity(out.image, out.text)
        sigmoid = self.loss_by == "sigmoid" or (self.loss_by == "auto" and bias is not None)
        if sigmoid:
            return dataclasses.replace(
                out, loss=sigmoid_loss(logit if bias is None else logit + bias)
            )
        return dataclasses.replace(out, loss=info_nce(logit))

    def loss(
        self, score: Tensor, label: Tensor, task: Task, class_weight: Tensor | None = None
    ) -> Tensor:
        """See `Classify.loss`: the loss of scored rows, never of a step."""
        return sample_loss(score, label, task, class_weight)


def embedded(image: Tensor) -> Tensor:
    """Return `(batch, d)` unit vectors of what is compared, of several queries their mean."""
    from fairtune.models.language import unit

    found = unit(image)
    return found if found.ndim == 2 else found.mean(dim=1)


def info_nce(logit: Tensor) -> Tensor:
    """Return the `(n,)` mean of both cross-entropies of every pair on the diagonal of `(n, n)`."""
    own = logit.diagonal()
    return (logit.logsumexp(dim=1) + logit.logsumexp(dim=0)) / 2 - own


def sigmoid_loss(logit: Tensor) -> Tensor:
    """Return `(n,)` sums over rows of -log sigmoid(z logit), z = 1 for a row's own, else -1."""
    import torch
    from torch.nn import functional

    sign = 2 * torch.eye(len(logit), device=logit.device) - 1
    return functional.softplus(-sign * logit).sum(dim=1)
