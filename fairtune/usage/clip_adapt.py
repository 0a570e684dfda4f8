"""Adapters of a frozen image-text model: a small head that starts from what sentences say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.config import Config
from fairtune.config.registry import Among
from fairtune.data.prompts import Templates
from fairtune.usage import USAGES, Output, Question, Task
from fairtune.usage.adapters import ADAPTERS, Adapter
from fairtune.usage.at_once import Problem, Seen, Solved
from fairtune.usage.losses import sample_loss

if TYPE_CHECKING:
    import torch

    from fairtune.data.batch import Batch
    from fairtune.models.backbone import Backbone
    from fairtune.models.net import Net


@USAGES.register("clip_adapt")
class ClipAdapt(Config):
    """Score = what an adapter makes of the embedding that is compared with sentences.

    Both towers are frozen. A binary score is the difference of its two classes' logits, that of a
    target the difference of present and absent, as of `zero_shot`. Without a mitigation the head
    is fitted at once on embeddings that are computed once; with one it is trained by
    steps, as every head is. Numbers that `validation` chooses are those of least validation loss:
    the scores of validation rows are cross-fitted on folds of patients, and what all of them
    choose is stored for other data.

    Attributes:
        by: `prototypes`, `clip_adapter` or `tip_adapter`.
        templates: As of `zero_shot`.
    """

    fits: ClassVar[Literal["head"]] = "head"
    pairs: ClassVar[bool] = False

    by: Annotated[
        Config, ADAPTERS.field(), Among(("prototypes", "clip_adapter", "tip_adapter"))
    ] = pydantic.Field("prototypes", validate_default=True)
    templates: Templates = ()

    @property
    def adapter(self) -> Adapter:
        """What is said of the head."""
        assert isinstance(self.by, Adapter)
        return self.by

    @property
    def sees(self) -> tuple[str, ...]:
        """What of the image is compared."""
        return ("joint",)

    @property
    def reads_text(self) -> bool:
        """No texts of the rows."""
        return False

    @property
    def reads_prompts(self) -> bool:
        """Sentences that say the classes."""
        return True

    @property
    def trains(self) -> bool:
        """Whether a loss is minimised."""
        return self.adapter.trains

    @property
    def chooses(self) -> tuple[str, ...]:
        """Numbers that are chosen on validation rows."""
        return self.adapter.chooses

    @property
    def draws(self) -> bool:
        """Whether the head begins with training rows."""
        return self.adapter.draws

    @property
    def attribute(self) -> str | None:
        """Whose groups rows are drawn by; None for nobody's, empty where none is named yet."""
        return (getattr(self.by, "attribute", None) or "") if self._grouped else None

    def attributed(self, default: str) -> ClipAdapt:
        """Return the usage with `default` as its attribute, where it needs one and names none."""
        if self.attribute != "":
            return self
        return self.model_copy(update={"by": self.by.model_copy(update={"attribute": default})})

    @property
    def _grouped(self) -> bool:
        return bool(getattr(self.by, "grouped", False))

    def dim(self, backbone: Backbone) -> int:
        """Return the length of the joint space."""
        return backbone.language.joint_dim

    def build(self, backbone: Backbone, question: Question, generator: torch.Generator) -> Net:
        """Return backbone and head, with the sentences as vectors."""
        from fairtune.models.net import Net
        from fairtune.usage.nets.adapters import mix
        from fairtune.usage.nets.prompts import scale_of, vectors_of

        text = vectors_of(question, backbone).cpu()
        head: Any = self.adapter.head(text, scale_of(backbone).cpu(), question, generator)
        mix(head, self.adapter.start)
        return Net(backbone, head)

    def begin(self, net: Net, rows: Seen, seed: int) -> None:
        """Put training rows into the head."""
        import torch

        from fairtune.usage.drawing import classes_of, drawn

        by: Any = self.by
        head: Any = net.head
        task: Task = "multilabel" if rows.label.ndim == 2 else "multiclass"
        held = classes_of(rows.label, task, head.values.shape[1])
        taken = drawn(held, by.shots, by.balance, rows.group, seed)
        head.hold(torch.from_numpy(rows.x[taken]), torch.from_numpy(held[taken]))

    def solve(self, problem: Problem) -> Solved:
        """Return the head fitted at once, with the numbers that validation chooses.

        Raises:
            DataError: Validation chooses, and has rows of fewer than two patients.
        """
        from fairtune.usage.choosing import chosen
        from fairtune.usage.nets.fitting import each

        net = problem.build()
        if self.draws:
            self.begin(net, problem.fitted, problem.seed)
        found = list(each(net.head, self.adapter, problem))
        score, best = chosen(
            [one.score for one in found],
            problem.held.label,
            problem.held.patient,
            problem.task,
        )
        return Solved(found[best].tensors, score, found[best].loss)

    def forward(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return logits, the loss of the labels and the embedding that is compared."""
        image = net.backbone.joint(batch.image)
        score = net.head(image).float()
        embedding = image if image.ndim == 2 else image.mean(dim=1)
        return Output(sample_loss(score, batch.label, task), score, embedding.float(), image)

    def score(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return the same as `forward`."""
        return self.forward(net, batch, task)

    def paired(self, net: Net, out: Output, batch: Batch) -> Output:
        """Return `out`: every sample is for itself."""
        return out
