"""Predictions of a run as a table free of raw identifiers, and back.

Tables hold what the model said, before any post-processing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from fairtune.evaluation.predictions import Predictions

LABEL, SCORE = "label", "score"
FOLD = "fold:"
"""Column of the fold that a row was validated in, from 0; no attribute can be called so."""


def probabilities(logits: NDArray[np.float32], task: str) -> NDArray[np.float64]:
    """Return probabilities in float64, where distinct fp32 logits stay distinct.

    Args:
        logits: `(rows, outputs)`.
        task: `binary` gives `(rows,)`; `multiclass` softmax over outputs; `multilabel` each.
    """
    wide = np.asarray(logits, dtype=np.float64)
    if task == "multiclass":
        softmax: NDArray[np.float64] = special.softmax(wide, axis=1)
        return softmax
    chance: NDArray[np.float64] = special.expit(wide)
    return chance[:, 0] if task == "binary" else chance


def prediction_frame(
    predictions: Predictions, patient_hashes: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """Return predictions as a table free of raw identifiers.

    Args:
        predictions: What was predicted, with probabilities as scores.
        patient_hashes: Keyed hash of the patient of every row.
        targets: Names of the score columns when there are several.
    """
    columns: dict[str, Any] = {"row": predictions.row, "patient": list(patient_hashes)}
    for name, values in ((LABEL, predictions.label), (SCORE, predictions.score)):
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{name}:{t}": values[:, j] for j, t in enumerate(targets)}
    for attribute in predictions.attributes.values():
        columns[attribute.name] = pd.Categorical.from_codes(
            attribute.codes, categories=pd.Index(list(attribute.names))
        )
    return pd.DataFrame(columns)


def to_predictions(
    frame: pd.DataFrame, card: Mapping[str, Any], score: NDArray[np.float64] | None = None
) -> Predictions:
    """Return the predictions of a table that `prediction_frame` made.

    Args:
        frame: The table.
        card: recipe.json of the run: names the attributes.
        score: Takes the place of the table's scores.
    """
    labels = [c for c in frame.columns if c == LABEL or c.startswith(f"{LABEL}:")]
    scores = [c for c in frame.columns if c == SCORE or c.startswith(f"{SCORE}:")]
    if score is not None:
        frame = frame.copy()
        frame[scores] = score.reshape(len(frame), -1)
    made = Predictions.from_frame(
        frame,
        label=labels if len(labels) > 1 else labels[0],
        score=scores if len(scores) > 1 else scores[0],
        attributes=list(card["recipe"]["data"]["attributes"]),
        patient="patient",
        row="row",
    )
    return replace(made, model=frame[FOLD].to_numpy()) if FOLD in frame.columns else made
