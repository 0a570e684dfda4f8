"""Contrastive fine-tuning: images and their own texts are drawn together, others apart."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from fairtune.config import Choice, Config
from fairtune.data.prompts import Templates
from fairtune.usage import USAGES, Output, Question, Task

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
    batch: symmetric InfoNCE (Radford et al., CLIP, ICML 2021). A model with a bias of its logits
    is trained with the sigmoid loss (Zhai et al., SigLIP, ICCV 2023): -sum over j of
    log sigmoid(z_ij (s cos_ij + b)), z = 1 for the own text and -1 for another. What is masked
    trains, of either tower; labels take no part. Scored is zero-shot, so the epoch rule,
    objectives and thresholds are those of every other usage; an empty mask is zero-shot itself.
    Batches that are accumulated are contrasted each for itself.

    Deviation: another row of the same text, be it a second image of the patient or the same row
    drawn again by a sampler, says nothing false of the image. Published losses push the two apart
    all the same; here, unless `same: negative`, no pair is made of them. Where all texts of a
    batch differ the loss is the published one.

    Attributes:
        loss_by: `softmax`, `sigmoid`, or `auto`: sigmoid where the model has a bias.
        same: What another row of the batch is whose text is the same for the model: `ignored`,
            or a `negative` as every other row.
        templates: As of `zero_shot`.
    """

    fits: ClassVar[Literal["mask"]] = "mask"
    pairs: ClassVar[bool] = True

    loss_by: Annotated[Literal["auto", "softmax", "sigmoid"], Choice(("softmax", "sigmoid"))] = (
        "auto"
    )
    same: Annotated[Literal["ignored", "negative"], Choice(("ignored", "negative"))] = "ignored"
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

    def dim(self, backbone: Backbone) -> int:
        """Return the length of the joint space."""
        return backbone.language.joint_dim

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

    def paired(self, net: Net, out: Output, batch: Batch) -> Output:
        """Return `out` with the loss of every pair among all of them."""
        import torch

        from fairtune.models.language import similarity
        from fairtune.usage.nets.prompts import scale_of

        assert out.image is not None
        assert out.text is not None
        logit = scale_of(net.backbone).float() * similarity(out.image, out.text)
        bias = getattr(net.backbone.language, "logit_bias", None)
        nothing = torch.zeros_like(logit)
        if bias is not None:
            logit, nothing = logit + bias, nothing + bias.detach()
        left_out = None
        if self.same == "ignored" and batch.text_id is not None:
            left_out = alike(batch.text_id)
        sigmoid = self.loss_by == "sigmoid" or (self.loss_by == "auto" and bias is not None)
        loss_of = sigmoid_loss if sigmoid else info_nce
        loss, guess = loss_of(logit, left_out), loss_of(nothing, left_out)
        return dataclasses.replace(out, loss=loss, across=logit, chance=guess)


def embedded(image: Tensor) -> Tensor:
    """Return `(batch, d)` unit vectors of what is compared, of several queries their mean."""
    from fairtune.models.language import unit

    found = unit(image)
    return found if found.ndim == 2 else found.mean(dim=1)


def alike(text_id: Tensor) -> Tensor:
    """Return `(n, n)` whether two different rows have the same text."""
    import torch

    same = text_id[:, None] == text_id[None, :]
    return same & ~torch.eye(len(text_id), dtype=torch.bool, device=text_id.device)


def info_nce(logit: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Return the `(n,)` mean of both cross-entropies of every pair on the diagonal.

    Args:
        logit: `(n, n)` of images with texts.
        left_out: `(n, n)` pairs that are not looked at; never one of the diagonal.
    """
    import torch

    own = logit.diagonal()
    if left_out is not None:
        logit = logit.masked_fill(left_out, -torch.inf)
    return (logit.logsumexp(dim=1) + logit.logsumexp(dim=0)) / 2 - own


def sigmoid_loss(logit: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Return `(n,)` sums over texts of -log sigmoid(z logit), z = 1 for an image's own, else -1.

    Args:
        logit: `(n, n)` of images with texts, the bias added.
        left_out: As of `info_nce`.
    """
    import torch
    from torch.nn import functional

    sign = 2 * torch.eye(len(logit), device=logit.device) - 1
    found = functional.softplus(-sign * logit)
    if left_out is not None:
        found = found.masked_fill(left_out, 0.0)
    return found.sum(dim=1)
