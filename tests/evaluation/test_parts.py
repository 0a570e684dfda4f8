"""The part of validation that a search does not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import table

from fairtune.evaluation.parts import confirm_rows


@given(st.integers(0, 50), st.floats(0.05, 0.8), st.integers(1, 3))
def test_patients_are_whole_and_every_stratum_gives_its_share(
    seed: int, share: float, per_patient: int
) -> None:
    p = table(240, 3, seed=seed, per_patient=per_patient)
    kept = confirm_rows(p, share, seed)
    patients = np.unique(p.patient)
    inside = {int(one): set(kept[p.patient == one].tolist()) for one in patients}
    assert all(len(sides) == 1 for sides in inside.values())
    assert abs(sum(True in s for s in inside.values()) - share * len(patients)) < 1
    strata: dict[tuple[int, ...], list[bool]] = {}
    for one in patients:
        rows = np.flatnonzero(p.patient == one)
        groups = tuple(int(a.codes[rows[0]]) for _, a in sorted(p.attributes.items()))
        key = (int(p.label[rows].max()), *groups)
        strata.setdefault(key, []).append(bool(kept[rows[0]]))
    for members in strata.values():
        assert abs(sum(members) - share * len(members)) < 2


def test_the_part_depends_on_neither_order_nor_coding() -> None:
    p = table(300, 3, seed=1, per_patient=2)
    kept = dict(zip(p.row.tolist(), confirm_rows(p, 0.4, 7).tolist()))
    shuffled = p.take(np.random.default_rng(0).permutation(len(p)))
    again = confirm_rows(shuffled, 0.4, 7)
    assert dict(zip(shuffled.row.tolist(), again.tolist())) == kept
    named = replace(p, patient=(p.patient * 7919) % 100_003)
    assert dict(zip(named.row.tolist(), confirm_rows(named, 0.4, 7).tolist())) == kept


def test_another_seed_is_another_part_of_the_same_size() -> None:
    p = table(300, 2, seed=1)
    one, other = confirm_rows(p, 0.3, 0), confirm_rows(p, 0.3, 1)
    assert (one != other).any()
    assert one.sum() == pytest.approx(90, abs=1)
    assert (one == confirm_rows(p, 0.3, 0)).all()
