"""The mix of FAAP: fool the head that reads the attribute, and keep the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Config
from fairtune.editing import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.editing.seen import Seen

Weight = Annotated[float, pydantic.Field(ge=0)]


@OBJECTIVES.register("faap_mix")
class FaapMix(Config):
    """Mean over rows of -w1 CE(p, a) - w2 H(p) + w3 CE_y.

    p is the softmax of the head over K groups, a the row's group and CE_y the unweighted loss of
    the task head. With `wrong` above 0 it has no lower bound, as `neg_ce`. FAAP minimises it over
    a generator of one perturbation for each image; here it is that of one edit for all. The
    weights are those of the re-implementation in junjie1003/DL-Fairness-Study.

    Attributes:
        wrong: w1, of the negative cross-entropy.
        unsure: w2, of the entropy.
        keep: w3, of the task.
    """

    paper: ClassVar[str] = (
        "Wang et al., Fairness-aware adversarial perturbation towards bias mitigation for "
        "deployed deep models, CVPR 2022"
    )
    formula: ClassVar[str] = "-w1 CE(p, a) - w2 H(p) + w3 CE_y; no lower bound"
    head: ClassVar[bool] = True
    labels: ClassVar[bool] = False
    task: ClassVar[bool] = True

    wrong: Weight = 0.4
    unsure: Weight = 0.1
    keep: Weight = 0.7

    def loss(self, seen: Seen) -> Tensor:
        """Return the loss."""
        assert seen.task_loss is not None
        log_p = seen.logits.log_softmax(dim=1)
        own = log_p.gather(1, seen.group.unsqueeze(1)).mean()
        certain = (log_p.exp() * log_p).sum(dim=1).mean()
        return self.wrong * own + self.unsure * certain + self.keep * seen.task_loss.mean()
