"""Label, attribute and split rules; what a spec says survives writing and reading."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_data import spec_of

from fairtune.config import parse
from fairtune.data import DatasetSpec
from fairtune.data.groups import AttributeRule, Bins
from fairtune.data.labels import Target
from fairtune.data.raw import Origin, Raw
from fairtune.data.split import PARTS, Fractions, SplitRule, hash_split
from fairtune.data.values import text_of
from fairtune.errors import ConfigError, DataError


def raw(**columns: list[str]) -> Raw:
    frame = pd.DataFrame(columns, dtype=object)
    lines = np.arange(2, 2 + len(frame))
    return Raw(frame, Origin(("t.csv",), np.zeros(len(frame), dtype=np.int64), lines))


@pytest.mark.parametrize(
    ("rule", "cells", "expected", "classes"),
    [
        ({"column": "y", "positive": 1, "negative": [0, None], "unknown": -1},
         ["1.0", "0", "", "-1.0", "1"], [1, 0, 0, -1, 1], ("not t", "t")),
        ({"column": "y", "positive": "a", "negative": "rest", "names": ["n", "p"]},
         ["a", "b", "", "A"], [1, 0, 0, 0], ("n", "p")),
        ({"column": "y", "positive": ["a"], "negative": ["b"], "separator": "|"},
         ["a|b", "b", "b|a", "b|b"], [1, 0, 1, 0], ("not t", "t")),
        ({"column": "y", "classes": ["b", "a"]}, ["a", "b", "a"], [1, 0, 1], ("b", "a")),
        ({"column": "y", "classes": {"low": [1, 2], "high": 3}, "other": "odd"},
         ["1", "3", "x", "2"], [0, 1, 2, 0], ("low", "high", "odd")),
        ({"column": "y", "separator": "|", "labels": ["a", "b"], "negative": "none"},
         ["a|b", "none", "b"], [[1, 1], [0, 0], [0, 1]], ("a", "b")),
    ],
)  # fmt: skip
def test_label_rules(
    rule: dict[str, Any], cells: list[str], expected: list[Any], classes: tuple[str, ...]
) -> None:
    target = parse(Target, rule)
    codes, faults = target.encode(raw(y=cells), "t")
    assert codes.tolist() == expected
    assert faults == []
    assert target.class_names("t") == classes


def test_labels_over_several_columns() -> None:
    rule = parse(Target, {"columns": ["a", "b"], "positive": 1, "negative": [0, None]})
    codes, faults = rule.encode(raw(a=["1", "", "2"], b=["0", "1", "x"]), "t")
    assert codes[:2].tolist() == [[1, 0], [0, 1]]
    assert [str(f.where) for f in faults] == ["t.csv:4", "t.csv:4"]
    assert rule.task == "multilabel"


def test_one_column_of_several_may_read_values_differently() -> None:
    columns = {"a": {}, "b": {"positive": -1}, "c": {"unknown": -1, "negative": "no"}}
    rule = parse(Target, {"columns": columns, "positive": 1, "negative": [0, None, -1]})
    cells = {"a": ["1", "-1", "", "no"], "b": ["-1.0", "1", "0", ""], "c": ["-1", "", "no", "1"]}
    codes, faults = rule.encode(raw(**cells), "t")
    assert codes[:3].tolist() == [[1, 1, -1], [0, 1, 0], [0, 0, 0]]
    assert [(str(f.where), f.found) for f in faults] == [("t.csv:5", "no")]
    assert rule.class_names("t") == rule.reads() == ("a", "b", "c")
    assert rule.task == "multilabel"


def test_the_class_may_be_the_one_column_of_several_that_holds() -> None:
    cells = {"a": ["1", "1", "0", "", "-1", "1"], "b": ["0", "1", "0", "1", "1", "-1"]}
    given = {"columns": ["a", "b"], "exclusive": True, "positive": 1, "negative": [0, None]}
    rule = parse(Target, {**given, "unknown": -1})
    codes, faults = rule.encode(raw(**cells), "t")
    # None of them, both, and what may be a second one: no label.
    assert (codes.tolist(), faults) == ([0, -1, -1, 1, -1, -1], [])
    assert (rule.task, rule.class_names("t")) == ("binary", ("a", "b"))
    rule = parse(Target, {**given, "columns": ["a", "b", "c"], "unknown": -1})
    codes, _ = rule.encode(raw(**cells, c=["", "", "1", "", "", ""]), "t")
    assert codes.tolist() == [0, -1, 2, 1, -1, -1]
    assert rule.task == "multiclass"


def test_one_odd_cell_of_several_labels_is_said_once() -> None:
    rule = {"column": "y", "separator": "|", "labels": ["a", "b"], "negative": "none"}
    _, faults = parse(Target, rule).encode(raw(y=["a", "a|zzz"]), "t")
    assert [f.found for f in faults] == ["a|zzz"]


@pytest.mark.parametrize(
    "rule",
    [
        {"column": "y"},
        {"column": "y", "positive": 1},
        {"column": "y", "positive": 1, "negative": 1},
        {"column": "y", "columns": ["a"], "positive": 1, "negative": 0},
        {"column": "y", "classes": ["a"], "positive": 1},
        {"column": "y", "labels": ["a"], "negative": "none"},
        {"columns": ["a"], "positive": 1, "negative": 0, "separator": "|"},
        {"columns": ["a"], "positive": 1, "negative": 0, "exclusive": True},
        {"column": "y", "positive": 1, "negative": 0, "exclusive": True},
        {"columns": {"a": {"positive": 2}}, "negative": 0},
        {"columns": {"a": {"positive": 2, "unknown": 2}}, "positive": 1, "negative": 0},
        {"columns": {"a": {"negative": "rest"}}, "positive": 1, "negative": 0},
        {"columns": {"a": {"rest": 1}}, "positive": 1, "negative": 0},
        {"column": "y", "classes": {"a": 1, "b": 1.0}},
    ],
)
def test_label_rules_that_are_no_form_are_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(Target, rule)


@pytest.mark.parametrize(
    ("edge", "ages", "expected"),
    [
        ("upper", ["59.9", "60", "60.0", "61", "", "?"], [0, 1, 1, 1, -1, -1]),
        ("lower", ["59.9", "60", "60.0", "61", "", "?"], [0, 0, 0, 1, -1, -1]),
    ],
)
def test_an_edge_belongs_to_the_stated_side(
    edge: str, ages: list[str], expected: list[int]
) -> None:
    bins = {"edges": [60], "names": ["young", "old"], "edge": edge}
    rule = parse(AttributeRule, {"column": "age", "bins": bins, "unknown": "?"})
    groups, faults = rule.encode(raw(age=ages), "age")
    assert groups.codes.tolist() == expected
    assert faults == []


def test_impossible_numbers_are_faults_or_unknown() -> None:
    bins = {"edges": [60], "names": ["young", "old"], "range": [0, 120]}
    ages = raw(age=["-1", "0", "120", "155"])
    _, faults = parse(AttributeRule, {"column": "age", "bins": bins}).encode(ages, "age")
    assert "lines 2, 5 (2 rows)" in str(faults[0])
    assert "-1, 155" in str(faults[0])
    lenient = parse(AttributeRule, {"column": "age", "bins": bins | {"outside": "unknown"}})
    assert lenient.encode(ages, "age")[0].codes.tolist() == [-1, 0, 1, -1]


def test_other_takes_what_the_map_does_not_name() -> None:
    rule = {"column": "race", "map": {"Black": ["B", "b"]}, "other": "other", "unknown": "U"}
    groups, _ = parse(AttributeRule, rule).encode(raw(race=["b", "W", "U", ""]), "race")
    assert list(groups) == ["Black", "other", np.nan, np.nan]


@pytest.mark.parametrize(
    "rule",
    [
        {"column": "a"},
        {"column": "a", "map": {"x": 1}, "bins": {"edges": [1], "names": ["l", "h"]}},
        {"column": "a", "map": {"x": 1}, "unknown": "1.0"},
        {"column": "a", "bins": {"edges": [2, 1], "names": ["a", "b", "c"]}},
        {"column": "a", "bins": {"edges": [1], "names": ["a"]}},
        {"column": "a", "bins": {"edges": [1], "names": ["a", "b"]}, "other": "x"},
    ],
)
def test_attribute_rules_that_are_no_form_are_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(AttributeRule, rule)


@given(
    edges=st.lists(st.integers(-50, 150), min_size=1, max_size=4, unique=True).map(sorted),
    value=st.integers(-60, 160),
    edge=st.sampled_from(["upper", "lower"]),
)
def test_bins_are_a_partition_in_order(edges: list[int], value: int, edge: str) -> None:
    names = tuple(f"g{i}" for i in range(len(edges) + 1))
    code = Bins(edges=tuple(edges), names=names, edge=edge).code(value)  # type: ignore[arg-type]
    below = [e for e in edges if (e <= value if edge == "upper" else e < value)]
    assert code == len(below)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=60),
    seed=st.integers(0, 5),
    shares=st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.0, 0.0, 1.0)]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_hash_split_is_patient_disjoint_and_a_function_of_ids(
    sizes: list[int], seed: int, shares: tuple[float, float, float], data: Any
) -> None:
    patients = pd.Series([f"p{i}" for i, n in enumerate(sizes) for _ in range(n)], dtype=object)
    strata = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(patients),
                                         max_size=len(patients))))  # fmt: skip
    fractions = Fractions(**dict(zip(PARTS, shares, strict=True)))
    codes = hash_split(patients, strata, fractions, seed)
    assert pd.DataFrame({"p": patients, "c": codes}).groupby("p")["c"].nunique().max() == 1
    assert all(shares[c] > 0 for c in set(codes.tolist()))
    order = np.random.default_rng(0).permutation(len(patients))
    again = hash_split(patients.iloc[order].reset_index(drop=True), strata[order], fractions, seed)
    assert (again == codes[order]).all()


def test_a_hash_split_keeps_shares_and_strata() -> None:
    patients = pd.Series([f"p{i // 2}" for i in range(4000)], dtype=object)
    strata = np.repeat(np.random.default_rng(1).random(2000) < 0.1, 2).astype(np.int64)
    codes = hash_split(patients, strata, Fractions(train=0.6, val=0.2, test=0.2), 0)
    for code, share in enumerate((0.6, 0.2, 0.2)):
        assert (codes == code).mean() == pytest.approx(share, abs=0.002)
        assert strata[codes == code].mean() == pytest.approx(strata.mean(), abs=0.005)
    other = hash_split(patients, strata, Fractions(train=0.6, val=0.2, test=0.2), 1)
    assert (codes != other).mean() > 0.3


def test_the_hash_split_of_a_patient_follows_the_published_rule() -> None:
    patients = pd.Series(["a", "b", "c", "d", "e"], dtype=object)
    order = sorted("abcde", key=lambda p: hashlib.sha256(f"7:{p}".encode()).hexdigest())
    codes = hash_split(
        patients, np.zeros(5, dtype=np.int64), Fractions(train=0.6, val=0.2, test=0.2), 7
    )
    expected = {p: [0, 0, 0, 1, 2][i] for i, p in enumerate(order)}
    assert codes.tolist() == [expected[p] for p in patients]


def test_a_split_column_with_its_own_words() -> None:
    rule = {"column": "s", "map": {"train": [1, 2], "test": 3}, "unknown": None}
    codes, faults = parse(SplitRule, rule).from_column(raw(s=["2", "3", "", "1"]))
    assert (codes.tolist(), faults) == ([0, 2, -1, 0], [])
    assert parse(SplitRule, rule).declared() == ("train", "test")


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"column": "s", "all": "test"},
        {"column": "s", "seed": 1},
        {"all": "test", "stratify": "y"},
        {"fractions": {"train": 0.5, "val": 0.2, "test": 0.2}},
        {"column": "s", "map": {"dev": 1}},
    ],
)
def test_split_rules_that_are_no_form_are_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(SplitRule, rule)


def test_stratify_names_a_target() -> None:
    split = {"fractions": {"train": 0.6, "val": 0.2, "test": 0.2}, "stratify": "il"}
    with pytest.raises(ConfigError, match="did you mean 'ill'"):
        parse(DatasetSpec, spec_of(split=split))


@given(
    number=st.integers(-(10**9), 10**9),
    word=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
)
def test_cells_compare_by_value(number: int, word: str) -> None:
    assert text_of(number) == text_of(f" {number}.0 ") == text_of(float(number))
    assert text_of(text_of(word)) == text_of(word)
    assert text_of(True) == text_of("TRUE") == "true"
    assert text_of(None) == text_of("") == ""


_VALUES = st.lists(st.one_of(st.integers(0, 9), st.sampled_from("abcd")), min_size=1, max_size=3)


@st.composite
def specs(draw: Any) -> dict[str, Any]:
    positive = draw(_VALUES.filter(lambda v: len(set(map(str, v))) == len(v)))
    changes: dict[str, Any] = {
        "reader": draw(st.sampled_from(["pil", {"npz": {"key": "img"}}, {"dicom": {}}])),
        "resize": draw(st.sampled_from(["squash", "crop", "pad"])),
        "flip": draw(st.sampled_from(["none", "horizontal", "both"])),
        "targets": {
            "ill": {"column": "ill", "positive": positive, "negative": "rest"},
            "signs": draw(st.sampled_from([
                {"columns": ["a", "b"], "exclusive": True, "positive": 1, "negative": [0, None]},
                {"columns": {"a": {}, "b": {"positive": -1}}, "positive": 1, "negative": [0, -1]},
            ])),
        },
        "subsample": draw(st.sampled_from([None, {
            "target": "ill", "attribute": "sex", "agree": {"F": "ill", "M": "not ill"},
            "share": {"train": 0.9, "test": "balanced"}, "size": {"test": 8}, "seed": 1,
        }])),
        "filter": draw(st.lists(st.sampled_from([
            {"column": "age", "known": True}, {"column": "sex", "equals": "F"},
            {"column": "age", "between": [1, 2.5]}, {"column": "x", "none_of": [None, 1]},
        ]), max_size=2)),
        "derive": draw(st.sampled_from([{}, {"n": {"template": "{a}-{b}"}},
                                        {"n": {"column": "a", "pattern": "(x+)", "default": 0}}])),
        "split": draw(st.sampled_from([
            {"column": "s", "map": {"train": 0, "test": ["1", None]}}, {"all": "val"},
            {"fractions": {"train": 0.5, "val": 0.25, "test": 0.25}, "seed": 3, "stratify": "ill"},
        ])),
    }  # fmt: skip
    return spec_of(**changes)


@given(specs())
@settings(max_examples=60, deadline=None)
def test_a_spec_survives_writing_and_reading(data: dict[str, Any]) -> None:
    spec = parse(DatasetSpec, data)
    again = parse(DatasetSpec, json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.digest() == spec.digest()
    assert hash(again) == hash(spec)


def test_a_missing_column_of_a_rule_names_the_rule() -> None:
    rule = parse(AttributeRule, {"column": "race", "map": {"A": 1}})
    with pytest.raises(DataError, match=r"attributes\.origin"):
        rule.encode(raw(sex=["F"]), "origin")
