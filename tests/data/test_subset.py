"""Folds and fractions of patients: disjoint, even in classes and groups, nested, repeatable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtune.data.subset import Patients, chosen, deal
from fairtune.data.values import IntArray

SLACK = 4
"""Patients by which a part may differ from its share of any run of patients; see `chosen`."""


@dataclass(frozen=True, eq=False)
class Rows:
    ids: list[str]
    label: IntArray
    groups: IntArray

    def patients(self, seed: int = 0) -> Patients:
        return Patients.of(self.ids, self.label, self.groups, seed)

    def kinds(self) -> dict[str, tuple[int, int]]:
        """Highest label and highest code of the first attribute of every patient."""
        found: dict[str, tuple[int, int]] = {}
        for name, label, group in zip(self.ids, self.label, self.groups[:, 0]):
            old = found.get(name, (-1, -1))
            found[name] = max(old[0], int(label)), max(old[1], int(group))
        return found

    def shuffled(self, seed: int) -> tuple[Rows, IntArray]:
        order = np.random.default_rng(seed).permutation(len(self.ids))
        return Rows([self.ids[i] for i in order], self.label[order], self.groups[order]), order


@st.composite
def tables(draw: st.DrawFn) -> Rows:
    """Patients with several images each, who may differ in label; attributes may be unknown."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    patients = draw(st.integers(2, 120))
    images = rng.integers(1, draw(st.integers(2, 8)), patients)
    who = np.repeat(np.arange(patients), images)
    classes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    label = rng.integers(0, classes, len(who))
    codes = np.stack([rng.integers(-1, groups, patients), rng.integers(-1, 2, patients)], axis=1)
    return Rows([f"p{i}" for i in who], label, codes[who])


@settings(max_examples=25)
@given(tables(), st.integers(2, 7), st.integers(0, 3))
def test_folds_share_no_patient_and_are_even(rows: Rows, folds: int, seed: int) -> None:
    fold = deal(rows.patients(seed), folds)
    held: dict[str, set[int]] = {}
    for name, number in zip(rows.ids, fold.tolist()):
        held.setdefault(name, set()).add(number)
    assert all(len(numbers) == 1 for numbers in held.values())
    kinds = rows.kinds()
    for part, slack in ((lambda kind: kind[0], 1), (lambda kind: kind, 2)):
        counts: dict[object, list[int]] = {}
        for name, (number,) in held.items():
            counts.setdefault(part(kinds[name]), [0] * folds)[number] += 1
        assert all(max(count) - min(count) <= slack for count in counts.values())
    load = np.bincount(fold, minlength=folds)
    assert np.ptp(load) <= max(rows.ids.count(name) for name in held)


@settings(max_examples=25)
@given(tables(), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 3))
def test_a_fraction_takes_whole_patients_evenly_and_is_part_of_a_larger_one(
    rows: Rows, first: float, second: float, seed: int
) -> None:
    patients = rows.patients(seed)
    small, large = sorted((first, second))
    some, more = chosen(patients, small, seed), chosen(patients, large, seed)
    assert not (some & ~more).any()
    assert chosen(patients, 1.0, seed).all()
    taken: dict[str, bool] = {}
    for name, is_in in zip(rows.ids, more.tolist()):
        assert taken.setdefault(name, is_in) == is_in
    kinds = rows.kinds()
    for part in (lambda kind: 0, lambda kind: kind[0], lambda kind: kind):
        names: dict[object, list[str]] = {}
        for name in taken:
            names.setdefault(part(kinds[name]), []).append(name)
        for members in names.values():
            assert abs(sum(taken[n] for n in members) - large * len(members)) <= SLACK


@settings(max_examples=10)
@given(tables(), st.integers(0, 5))
def test_what_is_drawn_does_not_depend_on_the_order_of_rows(rows: Rows, seed: int) -> None:
    other, order = rows.shuffled(seed)
    assert (deal(rows.patients(), 3)[order] == deal(other.patients(), 3)).all()
    here, there = (chosen(r.patients(), 0.4, 0) for r in (rows, other))
    assert (here[order] == there).all()


def test_another_seed_draws_others() -> None:
    rows = Rows([f"p{i}" for i in range(60)], np.arange(60) % 2, np.zeros((60, 1), dtype=np.int64))
    assert (deal(rows.patients(0), 2) != deal(rows.patients(1), 2)).any()
    assert (chosen(rows.patients(0), 0.5, 0) != chosen(rows.patients(1), 0.5, 1)).any()


def test_of_several_targets_the_rarest_one_is_spread() -> None:
    label = np.zeros((40, 2), dtype=np.int64)
    label[:, 0] = 1
    label[[3, 17, 30, 31], 1] = 1
    rows = Rows([f"p{i}" for i in range(40)], label, np.zeros((40, 1), dtype=np.int64))
    fold = deal(rows.patients(), 4)
    assert sorted(fold[label[:, 1] == 1].tolist()) == [0, 1, 2, 3]
