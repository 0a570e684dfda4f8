"""Rows drawn so that groups and classes go together as declared."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_data import spec_of, table_of

from fairtune.config import parse
from fairtune.data import DatasetSpec
from fairtune.data.split import PARTS
from fairtune.data.subsample import Rows, Subsample, agreeing, draw, quotas
from fairtune.errors import ConfigError, DataError, Problems

AGREE = {"F": "ill", "M": "not ill"}


def rule_of(**changes: Any) -> Subsample:
    given = {"target": "ill", "attribute": "sex", "agree": AGREE, "share": {"train": 0.9}}
    return parse(Subsample, given | changes)


def rows_of(count: int = 2000, patients: int = 700, seed: int = 0) -> Rows:
    """Return rows of patients of one group each; a fifth has no group, no label or no split."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, count)
    return Rows(
        ids=[f"i{i}" for i in range(count)],
        patients=[f"p{i}" for i in patient],
        part=rng.choice([-1, 0, 1, 2], patients, p=[0.05, 0.55, 0.2, 0.2])[patient],
        group=rng.choice([-1, 0, 1], patients, p=[0.1, 0.4, 0.5])[patient],
        label=rng.choice([-1, 0, 1], count, p=[0.1, 0.3, 0.6]),
        groups=("F", "M"),
        classes=("not ill", "ill"),
    )


def counts(rows: Rows, kept: Any, part: str) -> Counter[tuple[int, int]]:
    inside = kept & (rows.part == PARTS.index(part))  # type: ignore[arg-type]
    return Counter(zip(rows.group[inside].tolist(), rows.label[inside].tolist(), strict=True))


def test_cells_have_the_declared_shares() -> None:
    rows = rows_of()
    rule = rule_of(share={"train": 0.9, "val": "balanced"}, size={"train": 300, "val": 40})
    kept, cells, faults = draw(rule, rows)
    assert faults == []
    assert counts(rows, kept, "train") == {(0, 1): 135, (1, 0): 135, (0, 0): 15, (1, 1): 15}
    assert set(counts(rows, kept, "val").values()) == {10}
    assert kept[(rows.part == 2) | (rows.part == -1)].all()
    assert agreeing(cells) == {"train": (270, 300), "val": (20, 40)}
    for cell in cells:
        place = (rows.groups.index(cell.group), rows.classes.index(cell.label))
        every = np.ones(len(kept), dtype=bool)
        assert cell.rows == counts(rows, kept, cell.split)[place]
        assert cell.of == counts(rows, every, cell.split)[place]
        assert cell.agrees == (AGREE[cell.group] == cell.label)


def test_without_a_size_as_many_rows_are_drawn_as_there_can_be() -> None:
    rows = rows_of()
    kept, _, _ = draw(rule_of(share={"train": 0.8, "test": "balanced"}), rows)
    every = counts(rows, np.ones(len(kept), dtype=bool), "train")
    most = min(every[0, 1] / 0.4, every[1, 0] / 0.4, every[0, 0] / 0.1, every[1, 1] / 0.1)
    drawn = counts(rows, kept, "train")
    assert drawn[0, 1] == drawn[1, 0] == int(most * 0.4 + 1e-9)
    assert drawn[0, 0] == drawn[1, 1] == int(most * 0.1 + 1e-9)
    balanced = counts(rows, kept, "test")
    everyone = counts(rows, np.ones(len(kept), dtype=bool), "test")
    lowest = min(everyone[group, label] for group in (0, 1) for label in (0, 1))
    assert set(balanced.values()) == {lowest}


@pytest.mark.parametrize("share", [0, 1])
def test_groups_and_classes_may_go_together_always_or_never(share: float) -> None:
    rows = rows_of()
    kept, _, faults = draw(rule_of(share={"train": share}, size={"train": 101}), rows)
    assert faults == []
    drawn = counts(rows, kept, "train")
    assert set(drawn) == ({(0, 1), (1, 0)} if share else {(0, 0), (1, 1)})
    assert sorted(drawn.values()) == [50, 51]


@given(
    weights=st.lists(st.integers(0, 20), min_size=2, max_size=9).filter(any),
    room=st.lists(st.integers(1, 90), min_size=9, max_size=9),
    size=st.integers(1, 500),
)
def test_quotas_are_exact_to_a_row(weights: list[int], room: list[int], size: int) -> None:
    room = room[: len(weights)]
    shares = [Fraction(w, sum(weights)) for w in weights]
    sized = quotas(shares, room, size)
    assert sum(sized) == size
    assert all(abs(n - size * w) < 1 for n, w in zip(sized, shares, strict=True))
    assert all(n == 0 for n, w in zip(sized, shares, strict=True) if not w)
    # As many as there can be: every cell has them, and one cell would not have one part more.
    most = quotas(shares, room, None)
    assert all(n <= has for n, has in zip(most, room))
    full = [Fraction(has) / w for has, w in zip(room, shares) if w]
    assert most == [int(min(full) * w) for w in shares]
    assert any(n == has for n, has, w in zip(most, room, shares) if w)


@settings(max_examples=15)
@given(st.integers(0, 3), st.randoms(use_true_random=False))
def test_what_is_drawn_depends_on_ids_and_seed_alone(seed: int, random: Any) -> None:
    rows = rows_of(300, 120)
    order = random.sample(range(300), 300)
    other = replace(
        rows,
        ids=[rows.ids[i] for i in order],
        patients=[rows.patients[i] for i in order],
        **{name: getattr(rows, name)[order] for name in ("part", "group", "label")},
    )
    rule = rule_of(share={"train": 0.7, "test": "balanced"}, seed=seed)
    kept, cells, _ = draw(rule, rows)
    again, same, _ = draw(rule, other)
    assert again.tolist() == kept[order].tolist()
    assert same == cells


def test_a_larger_draw_has_the_rows_of_a_smaller_one_and_another_seed_others() -> None:
    rows = rows_of()
    small, large, other = (
        draw(rule_of(size={"train": n}, seed=seed), rows)[0]
        for n, seed in ((100, 0), (200, 0), (200, 1))
    )
    assert not (small & ~large).any()
    assert (large != other).any()


def test_patients_give_one_image_each_before_any_gives_a_second() -> None:
    count = 240
    rows = Rows(
        ids=[f"i{i}" for i in range(count)],
        patients=[f"p{i % 80}" for i in range(count)],
        part=np.zeros(count, dtype=np.int64),
        group=np.arange(count) % 2,
        label=np.arange(count) // 2 % 2,
        groups=("F", "M"),
        classes=("not ill", "ill"),
    )
    for size, each in ((80, 1), (160, 2), (240, 3)):
        kept, _, _ = draw(rule_of(share={"train": "balanced"}, size={"train": size}), rows)
        drawn = Counter(rows.patients[i] for i in np.flatnonzero(kept))
        assert set(drawn.values()) == {each}


def test_three_groups_and_three_classes() -> None:
    rng = np.random.default_rng(0)
    rows = replace(
        rows_of(),
        group=rng.integers(0, 3, 2000),
        label=rng.integers(0, 3, 2000),
        groups=("A", "B", "C"),
        classes=("x", "y", "z"),
    )
    agree = {"A": "x", "B": "y", "C": "y"}
    kept, _, faults = draw(rule_of(agree=agree, share={"train": 0.5}, size={"train": 120}), rows)
    assert faults == []
    drawn = counts(rows, kept, "train")
    assert {place for place, n in drawn.items() if n == 20} == {(0, 0), (1, 1), (2, 1)}
    assert sorted(drawn.values()) == [10] * 6 + [20] * 3


def test_too_few_rows_are_one_fault_with_the_counts() -> None:
    rows = rows_of()
    every = counts(rows, np.ones(2000, dtype=bool), "train")
    _, _, (fault,) = draw(rule_of(size={"train": 5000}), rows)
    said = str(fault)
    for part in ("split 'train'", f"F with ill: 2,250 wanted of {every[0, 1]:,}", "size.train"):
        assert part in said
    most = int(min(every[0, 1], every[1, 0]) / 0.45)
    assert f"at most {most:,} rows" in said
    fits, _, faults = draw(rule_of(size={"train": most}), rows)
    assert faults == []
    assert fits[rows.part == 0].sum() == most
    _, _, (fault,) = draw(rule_of(size={"train": most + 3}), rows)
    assert "too few rows" in str(fault)


def test_an_empty_cell_is_said_without_a_size_too() -> None:
    rows = rows_of()
    rows = replace(rows, label=np.where(rows.group == 0, 1, rows.label))
    _, _, (fault,) = draw(rule_of(), rows)
    assert "F with not ill: 0 wanted of 0" in str(fault)
    assert "at most 0 rows" in str(fault)
    assert draw(rule_of(share={"train": 1}, size={"train": 50}), rows)[2] == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": "il"}, ["subsample.target", "did you mean 'ill'"]),
        ({"target": "signs"}, ["subsample.target", "multilabel"]),
        ({"attribute": "race"}, ["subsample.attribute", "race", "sex"]),
        ({"agree": {"F": "ill"}}, ["subsample.agree", "F, M"]),
        ({"agree": {"F": "ill", "M": "well"}}, ["subsample.agree", "not ill, ill"]),
        ({"size": {"val": 5}}, ["subsample.size", "val"]),
        ({"size": {"train": 0}}, ["subsample.size"]),
        ({"share": {"train": 1.2}}, ["subsample.share"]),
        ({"share": {"train": "even"}}, ["subsample.share", "balanced"]),
        ({"share": {}}, ["subsample.share"]),
    ],
)
def test_a_rule_that_does_not_fit_the_spec_is_refused(
    changes: dict[str, Any], says: list[str]
) -> None:
    signs = {"columns": ["a", "b"], "positive": 1, "negative": 0}
    targets = {"ill": spec_of()["targets"]["ill"], "signs": signs}
    rule = {"target": "ill", "attribute": "sex", "agree": AGREE, "share": {"train": 0.9}}
    with pytest.raises((ConfigError, Problems)) as caught:
        parse(DatasetSpec, spec_of(targets=targets, subsample=rule | changes))
    for part in says:
        assert part in str(caught.value)


HEADER = "image_id,person,age,sex,ill,split"


def written(count: int = 120) -> list[str]:
    sexes, parts = ("F", "M", "unknown"), ("train", "train", "val", "test")
    return [
        f"a{i},p{i // 2},{50 + i % 20},{sexes[min(i // 2 % 5, 2) if i % 30 == 0 else i // 2 % 2]},"
        f"{i % 2},{parts[i // 2 // 2 % 4]}"
        for i in range(count)
    ]


SPEC = {
    "target": "ill",
    "attribute": "sex",
    "agree": AGREE,
    "share": {"train": 0.75, "test": "balanced"},
    "size": {"train": 16},
}


def test_a_table_has_the_drawn_rows_and_a_split_hash_of_its_own(make: Any, tmp_path: Path) -> None:
    lines = written()
    whole = table_of(make(lines, HEADER))
    for i in range(len(lines)):
        (tmp_path / "images" / f"a{i}.png").write_bytes(b"not looked at")
    table = table_of(make(lines, HEADER, subsample=SPEC))
    parts = table.frame["split"].value_counts()
    assert parts["train"] == 16
    assert parts["val"] == (whole.frame["split"] == "val").sum()
    assert table.dropped == {"subsample": len(whole) - len(table)}
    assert agreeing(table.cells)["train"] == (12, 16)
    test = table.frame[table.frame["split"] == "test"].groupby(["sex", "label"], observed=True)
    assert test.size().nunique() == 1
    assert len({whole.split_hash, table.split_hash}) == 2
    again = table_of(make(lines[::-1], HEADER, subsample=SPEC))
    assert again.split_hash == table.split_hash
    assert set(again.frame["id"]) == set(table.frame["id"])
    other = table_of(make(lines, HEADER, subsample=SPEC | {"seed": 1}))
    assert other.split_hash != table.split_hash
    assert other.fingerprint != table.fingerprint
    # One draw for whatever is asked of it: `where` and other targets do not change it.
    some = table_of(make(lines, HEADER, subsample=SPEC), where={"sex": "F"})
    assert some.split_hash == table.split_hash
    assert set(some.frame["id"]) == set(table.frame["id"][table.frame["sex"] == "F"])


def test_a_draw_that_cannot_be_is_said_with_the_other_faults(make: Any) -> None:
    lines = written()
    rule = SPEC | {"size": {"train": 4000}}
    with pytest.raises(DataError, match="too few rows") as caught:
        table_of(make(lines, HEADER, subsample=rule))
    assert "subsample" in str(caught.value)
    lines[3] = "a3,p1,53,X,1,train"
    with pytest.raises(Problems) as both:
        table_of(make(lines, HEADER, subsample=rule))
    assert "'X'" in str(both.value)
    assert "too few rows" in str(both.value)


def test_columns_that_only_the_draw_reads_are_asked_for(make: Any) -> None:
    spec = make(written(), HEADER.replace("sex", "gender"), subsample=SPEC)
    with pytest.raises(DataError, match=r"'sex'.*attributes\.sex"):
        table_of(spec, attributes=["age"])
