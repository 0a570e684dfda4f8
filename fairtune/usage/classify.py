"""Classification: a linear head on the pooled features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config
from fairtune.usage import USAGES, Output, Question, Task
from fairtune.usage.at_once import Problem, Solved
from fairtune.usage.losses import sample_loss

if TYPE_CHECKING:
    import torch

    from fairtune.data.batch import Batch
    from fairtune.models.backbone import Backbone
    from fairtune.models.net import Net

HEAD_STD = 0.02


@USAGES.register("classify")
class Classify(Config):
    """Score = `head(features)`.

    Loss per sample: binary cross-entropy of the one logit (binary), cross-entropy (multiclass),
    or the mean binary cross-entropy over targets (multilabel).

    Attributes:
        features: What the head sees: the `image`, the row's `text`, or `both`, one behind the
            other. Texts need a model with a text tower and a data set with texts.
    """

    fits: ClassVar[Literal["all"]] = "all"
    pairs: ClassVar[bool] = False

    features: Annotated[Literal["image", "text", "both"], Choice(("image", "text", "both"))] = (
        "image"
    )

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes from before there were texts keep their files and identities.
        return {} if self.features == "image" else fields(self)

    @property
    def sees(self) -> tuple[str, ...]:
        """What the head sees."""
        return ("image", "text") if self.features == "both" else (self.features,)

    @property
    def reads_text(self) -> bool:
        """Whether the head sees texts."""
        return "text" in self.sees

    @property
    def reads_prompts(self) -> bool:
        """No sentences for classes."""
        return False

    def build(self, backbone: Backbone, question: Question, generator: torch.Generator) -> Net:
        """Return backbone and head; head weights ~ truncated N(0, 0.02) from `generator`.

        Args:
            backbone: Gives `(batch, dim)` features.
            question: Kind of label and columns of the score.
            generator: Source of the head's initial weights.
        """
        from torch import nn

        from fairtune.models.net import Net

        head = nn.Linear(self.dim(backbone), question.outputs)
        nn.init.trunc_normal_(head.weight, std=HEAD_STD, generator=generator)
        nn.init.zeros_(head.bias)
        return Net(backbone, head)

    def solve(self, problem: Problem) -> Solved:
        """Return the one head that fits best; nothing is drawn, so seeds do not matter."""
        import torch

        from fairtune.usage.readout import fit

        weight, bias, loss = fit(
            problem.fitted.x,
            problem.fitted.label,
            problem.task,
            problem.outputs,
            problem.l2,
            balance=problem.balance,
            smoothing=problem.smoothing,
            told=problem.told,
        )
        tensors = {"weight": torch.from_numpy(weight.astype("float32"))}
        tensors["bias"] = torch.from_numpy(bias.astype("float32"))
        return Solved(tensors, problem.held.x @ weight.T + bias, loss)

    @property
    def trains(self) -> bool:
        """The head trains."""
        return True

    @property
    def chooses(self) -> tuple[str, ...]:
        """Nothing is chosen on validation rows."""
        return ()

    def dim(self, backbone: Backbone) -> int:
        """Return the length of what the head sees."""
        texts = backbone.language.joint_dim if self.reads_text else 0
        return texts + (backbone.dim if "image" in self.sees else 0)

    def forward(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return the output of a batch; loss and score are fp32 whatever the autocast type."""
        import torch

        parts = []
        if "image" in self.sees:
            parts.append(net.backbone.embed(batch.image))
        if self.reads_text:
            assert batch.text is not None
            parts.append(net.backbone.words(batch.text))
        embedding = parts[0] if len(parts) == 1 else torch.cat([p.float() for p in parts], dim=1)
        score = net.head(embedding).float()
        return Output(sample_loss(score, batch.label, task), score, embedding)

    def score(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return the same as `forward`."""
        return self.forward(net, batch, task)

    def paired(self, net: Net, out: Output, batch: Batch) -> Output:
        """Return `out`: every sample is for itself."""
        return out
