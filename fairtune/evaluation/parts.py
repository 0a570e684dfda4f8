"""A part of the validation patients that a search never sees."""

from __future__ import annotations

import numpy as np

from fairtune.evaluation.arrays import BoolArray, IntArray
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.resampling import patient_codes


def confirm_rows(p: Predictions, share: float, seed: int) -> BoolArray:
    """Return which rows are kept for confirm and selection, `(n,)`.

    All rows of a patient lie on one side. Patients are put into strata (their highest label and,
    for every attribute, the group of their first row), shuffled within, and every 1/share-th of
    the list is taken, so each stratum gives its share to within one patient. The result depends
    on rows, labels, groups and seed alone, not on how patients are coded or rows are ordered.

    Args:
        p: The whole validation table.
        share: Share of the patients, in (0, 1).
        seed: Seed of the shuffle.
    """
    code, patients = patient_codes(p.patient)
    order = np.argsort(p.row, kind="stable")
    known, first = np.unique(code[order], return_index=True)
    earliest = np.empty(patients, dtype=np.int64)
    earliest[known] = order[first]
    rank = np.argsort(np.argsort(p.row[earliest]))
    shuffled = np.random.default_rng(seed).permutation(patients)[rank]
    dealt = np.lexsort((shuffled, _strata(p, code, earliest)))
    place = np.arange(patients)
    taken = np.zeros(patients, dtype=np.bool_)
    # One part in 10^9 forgives the last bit of a share such as 1/3.
    taken[dealt] = np.floor((place + 1) * share + 1e-9) > np.floor(place * share + 1e-9)
    return np.asarray(taken[code])


def _strata(p: Predictions, code: IntArray, earliest: IntArray) -> IntArray:
    labels = p.label.reshape(len(p), -1)
    highest = np.zeros((len(earliest), labels.shape[1]), dtype=np.int64)
    np.maximum.at(highest, code, labels)
    groups = [p.attributes[name].codes[earliest] for name in sorted(p.attributes)]
    columns = np.column_stack([highest, *groups])
    return np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
