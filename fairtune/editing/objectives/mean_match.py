"""Mean match: within each class the groups' embeddings are to have one mean."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.editing import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.editing.seen import Seen


@OBJECTIVES.register("mean_match")
class MeanMatch(Config):
    """Sum over classes y of the mean over pairs of groups k, l of ||mu_yk - mu_yl||^2.

    mu_yk is the mean embedding of the batch's rows of class y in group k; with two groups this is
    sum_y ||mu_y1 - mu_y0||^2. A pair one side of which the batch lacks is left out, and a batch
    without any pair has the loss 0. Of several targets each is a task of two classes, and their
    sums are averaged. It asks no head, and is in the units of the embedding: `lambda_sa` is to be
    tuned for each model.
    """

    paper: ClassVar[str] = (
        "first moments alone of MMD: Gretton et al., A kernel two-sample test, JMLR 2012"
    )
    formula: ClassVar[str] = "Σ_y mean over k < l of ‖μ_yk - μ_yl‖²; minimum 0"
    head: ClassVar[bool] = False
    labels: ClassVar[bool] = True
    task: ClassVar[bool] = False

    def loss(self, seen: Seen) -> Tensor:
        """Return the loss, at least 0."""
        labels = seen.label.reshape(len(seen.label), -1)
        total = seen.embedding.sum() * 0.0
        for column in labels.T:
            for y in sorted(set(column.tolist())):
                total = total + _spread(seen.embedding, seen.group, column == y)
        return total / labels.shape[1]


def _spread(embedding: Tensor, group: Tensor, here: Tensor) -> Tensor:
    """Return the mean squared distance of the means of the groups among the rows `here`."""
    codes = sorted(set(group[here].tolist()))
    means = [embedding[here & (group == code)].mean(dim=0) for code in codes]
    pairs = [(a - b).square().sum() for a, b in itertools.combinations(means, 2)]
    return sum(pairs, start=embedding.new_zeros(())) / max(len(pairs), 1)
