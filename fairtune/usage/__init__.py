"""What the model does with a batch: one file per usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.models.backbone import Backbone
    from fairtune.models.net import Net

Task = Literal["binary", "multiclass", "multilabel"]

USAGES: Registry[Config] = Registry("usage", "fairtune.usage", later=("segment",))


@dataclass(frozen=True)
class Output:
    """What a usage makes of a batch.

    Attributes:
        loss: `(batch,)` loss of every sample, unweighted, fp32.
        score: `(batch, outputs)` logits, fp32; one column for a binary task.
        embedding: `(batch, dim)` pooled features before the head.
        image: `(batch, d)` or `(batch, queries, d)` of a usage that compares images with texts:
            what is compared, of any length.
        text: `(batch, d)`, the same of each image's own text.
        across: `(batch, batch)` logits of every image with every text of a step, of a usage of
            pairs once it has seen all of them.
        chance: `(batch,)` loss of a guess, where it depends on how many others a step has.
    """

    loss: Tensor
    score: Tensor
    embedding: Tensor
    image: Tensor | None = None
    text: Tensor | None = None
    across: Tensor | None = None
    chance: Tensor | None = None

    @property
    def similarity(self) -> Tensor | None:
        """The `(batch,)` cosine of each image with its own text; None where none is read."""
        if self.image is None or self.text is None:
            return None
        from fairtune.models.language import own_similarity

        return own_similarity(self.image, self.text)


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of every image.

    Attributes:
        task: Kind of label.
        outputs: Columns of the score: 1 for binary, else classes or targets.
        prompts: `(k, length)` token numbers of sentences that say a class; None where a usage
            reads none.
        owner: `(k,)` whose each is: a class, for several targets twice the target's number, plus
            1 where it says that the target is there.
    """

    task: Task
    outputs: int
    prompts: Tensor | None = None
    owner: Tensor | None = None


@runtime_checkable
class Usage(Protocol):
    """Builds the net round a backbone and reads a batch with it.

    Attributes:
        fits: What is fitted: `all` (mask and head), `head` (with an empty mask alone), `mask`
            (there is no head that trains) or `nothing`.
        pairs: Whether the loss of a sample depends on the others of its batch.
    """

    fits: ClassVar[Literal["all", "head", "mask", "nothing"]]
    pairs: ClassVar[bool]

    @property
    def sees(self) -> tuple[str, ...]:
        """What a head sees: embeddings of `image`, `text` or both in this order; or `joint`.

        `joint` is what of images is compared with texts.
        """
        ...

    @property
    def reads_text(self) -> bool:
        """Whether the texts of the rows are read."""
        ...

    @property
    def reads_prompts(self) -> bool:
        """Whether sentences that say the classes are read."""
        ...

    def dim(self, backbone: Backbone) -> int:
        """Return the length of `Output.embedding`."""
        ...

    def build(self, backbone: Backbone, question: Question, generator: torch.Generator) -> Net:
        """Return backbone and head."""

    def forward(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return what a step is made of: loss, score and embedding of every sample of `batch`."""

    def score(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return what is scored: as `forward`, with the logits that are stored."""

    def paired(self, net: Net, out: Output, batch: Batch) -> Output:
        """Return `out`, of all samples of `batch`, with losses that depend on one another."""
