"""Zero-shot: images are scored by sentences that say the classes; nothing is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fairtune.config import Config
from fairtune.data.prompts import Templates
from fairtune.usage import USAGES, Output, Question, Task
from fairtune.usage.losses import sample_loss

if TYPE_CHECKING:
    import torch

    from fairtune.data.batch import Batch
    from fairtune.models.backbone import Backbone
    from fairtune.models.net import Net


@USAGES.register("zero_shot")
class ZeroShot(Config):
    """Score = scale * (cosine with the class that it says - cosine with the other).

    Radford et al., CLIP, ICML 2021; see `PromptHead.forward` for several classes and targets. A
    run has no epoch: nothing trains. Sentences are those of the dataset spec, each class under its
    own name, so that their order cannot be wrong.

    Attributes:
        templates: Sentences with `{}` in place of the class, in place of the dataset spec's.
    """

    fits: ClassVar[Literal["nothing"]] = "nothing"
    pairs: ClassVar[bool] = False

    templates: Templates = ()

    @property
    def sees(self) -> tuple[str, ...]:
        """The image."""
        return ("image",)

    @property
    def reads_text(self) -> bool:
        """No texts of the rows."""
        return False

    @property
    def reads_prompts(self) -> bool:
        """Sentences that say the classes."""
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
        """Return the logits, the loss of the labels and the embedding that is compared."""
        return compared(net, batch, task)

    def score(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return the same as `forward`."""
        return compared(net, batch, task)

    def paired(self, net: Net, out: Output, batch: Batch) -> Output:
        """Return `out`: every sample is for itself."""
        return out


def compared(net: Net, batch: Batch, task: Task) -> Output:
    """Return a batch scored by the sentences of the net's head."""
    image = net.backbone.joint(batch.image)
    score = net.head(image, net.backbone)
    embedding = image if image.ndim == 2 else image.mean(dim=1)
    return Output(sample_loss(score, batch.label, task), score, embedding.float(), image)
