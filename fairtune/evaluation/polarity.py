"""Scores that rank the wrong way round: where nothing was fitted, a sign of wrong words."""

from __future__ import annotations

import numpy as np

from fairtune.evaluation.estimates import estimate_set
from fairtune.evaluation.intervals import TAIL
from fairtune.evaluation.metrics import METRICS
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.values import BARE, Question

REPLICATES = 400


def backwards(p: Predictions, *, seed: int = 0) -> list[str]:
    """Return a sentence for every target whose AUC is below 0.5 beyond chance.

    That is where the 95 % interval of the overall AUC lies below 0.5 (macro over classes; of
    several models the mean, by bootstrap). A target without rows of both classes says nothing.

    Args:
        p: The predictions.
        seed: Of the bootstrap.
    """
    metric, found = METRICS["auc"], []
    for one in p.per_target():
        if len(np.unique(one.label)) < 2:
            continue
        question, rows = Question(one, None, BARE), np.arange(len(one))
        estimate = estimate_set(question, metric, rows, replicates=REPLICATES, seed=seed)
        low, high = estimate.bound(TAIL)
        if high < 0.5:
            of = f" of '{one.targets[0]}'" if p.task == "multilabel" else ""
            found.append(
                f"the AUC{of} is {estimate.value:.3f} ({low:.3f} to {high:.3f}), below 0.5 beyond "
                "chance: scores rank the wrong way round"
            )
    return found
