"""Groups of a table of predictions, by their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.arrays import IntArray
from fairtune.evaluation.predictions import Attribute, Predictions


def fitted_groups(predictions: Predictions, attribute: str | None, method: str) -> Attribute:
    """Return the groups that a post-processing is fitted by.

    Raises:
        DataError: Unknown attribute, or the rows are in fewer than two of its groups.
    """
    groups = predictions.attribute(str(attribute))
    counts = np.bincount(groups.codes[groups.codes >= 0], minlength=groups.size)
    if int((counts > 0).sum()) < 2:
        raise DataError(
            f"'{method}' needs validation rows of at least two groups",
            where=f"attribute '{attribute}'",
            found={name: int(n) for name, n in zip(groups.names, counts)}
            | {"unknown": int((groups.codes < 0).sum())},
            todo="name another attribute, or leave the mitigation out",
        )
    return groups


def places(predictions: Predictions, attribute: str, names: Sequence[str]) -> IntArray:
    """Return the `(n,)` position of every row's group in `names`.

    -1 where the group is unknown or is none of them, and for all rows of a table that does not
    have the attribute.
    """
    if not all(part in predictions.attributes for part in attribute.split("*")):
        return np.full(len(predictions), -1, dtype=np.int64)
    groups = predictions.attribute(attribute)
    position = {name: i for i, name in enumerate(names)}
    known = np.array([position.get(name, -1) for name in groups.names] + [-1], dtype=np.int64)
    return np.asarray(known[groups.codes])  # the code -1 reads the last entry
