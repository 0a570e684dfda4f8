"""Metadata in, table out; every fault of a table in one message."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kit_data import HEADER, ROWS, table_of

from fairtune.data import load_spec
from fairtune.errors import ConfigError, DataError, FairtuneError, Problems


def changed(index: int, row: str) -> list[str]:
    return [*ROWS[:index], row, *ROWS[index + 1 :]]


def test_a_table_has_ids_labels_groups_and_split(make: Any) -> None:
    table = table_of(make())
    assert list(table.frame) == ["id", "patient", "image", "label", "sex", "age", "split"]
    assert table.frame["label"].tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert table.frame["sex"].cat.categories.tolist() == ["F", "M"]
    assert table.frame["sex"].cat.codes.tolist() == [0, 0, 1, 1, 0, 0, 1, -1]
    assert table.frame["age"].tolist()[:6] == ["<60", "<60", "60+", "<60", "60+", "60+"]
    assert pd.isna(table.frame["age"].iloc[7])
    assert table.frame["image"].iloc[3] == "a3.png"
    assert (table.task, table.classes) == ("binary", ("not ill", "ill"))
    assert table.dropped == {}


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        (
            None,
            HEADER.replace("person", "Person"),
            ["'person'", "rows.csv", "'Person'", "patient"],
        ),
        (None, HEADER.replace("sex", "gender"), ["'sex'", "attributes.sex", "'gender'"]),
        (changed(2, "a2,p1,70,X,1,train"), HEADER, ["rows.csv:4", "'X'", "F (F), M (M)"]),
        (changed(2, "a2,p1,old,M,1,train"), HEADER, ["rows.csv:4", "'old'", "a number"]),
        (changed(3, "a2,p2,59,M,0,train"), HEADER, ["lines 4, 5", "'a2'", "more than once"]),
        (changed(4, "a4,p0,60,F,1,val"), HEADER, ["lines 2, 3, 6", "'p0'", "more than one split"]),
        (changed(5, "a5,p3,61,F,2,val"), HEADER, ["rows.csv:7", "'2'", "targets.ill"]),
        (changed(5, "a5,p3,61,F,0,dev"), HEADER, ["rows.csv:7", "'dev'", "test, train, val"]),
        (changed(5, "a5,,61,F,0,val"), HEADER, ["rows.csv:7", "'person' (patient) is empty"]),
        (ROWS[:6], HEADER, ["the split 'test' is empty", "rows.csv"]),
        (changed(5, "a5,p3,61,F,0"), HEADER, ["rows.csv:7", "fields", "found:   5", "6"]),
        (changed(5, "../a5,p3,61,F,0,val"), HEADER, ["rows.csv:7", "'../a5.png'", "lead out"]),
        (None, HEADER.replace("sex", "age"), ["rows.csv:1", "stand twice", "'age'"]),
        ([], "", ["rows.csv", "no header"]),
    ],
)
def test_a_fault_names_file_line_value_and_what_is_allowed(
    make: Any, rows: list[str] | None, header: str, says: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        table_of(make(rows, header))
    for part in says:
        assert part in str(caught.value)


def test_all_faults_come_at_once(make: Any) -> None:
    rows = [
        "a0,p0,30,F,1,train",
        "a0,p0,31,X,0,train",
        "a2,p0,70,M,7,val",
        "a3,p2,999,M,0,somewhere",
    ]
    with pytest.raises(Problems) as caught:
        table_of(make(rows))
    text = str(caught.value)
    for part in ("more than once", "name no split", "more than one split", "'7'", "'X'"):
        assert part in text
    assert len(caught.value.problems) == 5


def test_a_misspelt_column_is_suggested(make: Any) -> None:
    with pytest.raises(DataError, match="did you mean 'Ill'"):
        table_of(make(None, HEADER.replace("ill", "Ill")))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"target": "il"}, "did you mean 'ill'"),
        ({"attributes": ["gender"]}, "unknown attribute"),
        ({"where": {"sexx": "F"}}, "did you mean 'sex'"),
        ({"where": {"sex": "f"}}, "keeps no row"),
        ({"where": {"sex": {"equal": "F"}}}, "unknown field 'equal'"),
    ],
)
def test_what_is_asked_for_must_exist(make: Any, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(FairtuneError, match=says):
        table_of(make(), **asked)


def test_where_keeps_the_split_hash_and_counts_what_it_drops(make: Any) -> None:
    spec = make()
    every, some = table_of(spec), table_of(spec, where={"image_id": ["a0", "a4", "a6"]})
    assert some.frame["id"].tolist() == ["a0", "a4", "a6"]
    assert some.split_hash == every.split_hash
    assert some.dropped == {"where": 5}
    assert some.fingerprint != every.fingerprint


def test_rows_without_a_label_are_left_out_and_counted(make: Any) -> None:
    rule = {"ill": {"column": "ill", "positive": 1, "negative": 0, "unknown": None}}
    table = table_of(make(changed(1, "a1,p0,31,F,,train"), targets=rule))
    assert table.dropped == {"no label": 1}
    assert "a1" not in set(table.frame["id"])


def test_the_fingerprint_follows_content_and_nothing_else(make: Any, tmp_path: Path) -> None:
    first = table_of(make())
    assert table_of(make(title="another title")).fingerprint == first.fingerprint
    assert table_of(make(reader={"pil": {}})).fingerprint == first.fingerprint
    assert table_of(make(), attributes=["sex"]).fingerprint != first.fingerprint
    assert table_of(make(resize="crop")).fingerprint != first.fingerprint
    assert table_of(make(changed(0, "a0,p0,30,F,0,train"))).fingerprint != first.fingerprint
    spec = make()
    (tmp_path / "images" / "a0.png").write_bytes((tmp_path / "images" / "a1.png").read_bytes())
    assert table_of(spec).fingerprint != first.fingerprint


def test_an_archive_and_a_folder_of_the_same_rows_have_one_split(
    make: Any, tmp_path: Path
) -> None:
    packed = table_of(make(archive=True))
    assert packed.marks[0].count("-") == 1
    with zipfile.ZipFile(tmp_path / "images.zip") as file:
        assert packed.files.read("a3.png") == file.read("a3.png")
    assert packed.split_hash == table_of(make()).split_hash


def test_missing_images_are_listed_with_their_lines(make: Any, tmp_path: Path) -> None:
    spec = make()
    (tmp_path / "images" / "a1.png").unlink()
    (tmp_path / "images" / "a6.png").unlink()
    with pytest.raises(DataError) as caught:
        _ = table_of(spec).marks
    for part in ("2 of 8 images", "lines 3, 8", "a1.png, a6.png", str(tmp_path / "images.zip")):
        assert part in str(caught.value)


def test_an_image_that_is_a_link_out_of_the_folder_is_refused(make: Any, tmp_path: Path) -> None:
    spec = make()
    outside = tmp_path.parent / f"{tmp_path.name}-secret.png"
    outside.write_bytes((tmp_path / "images" / "a1.png").read_bytes())
    (tmp_path / "images" / "a1.png").unlink()
    (tmp_path / "images" / "a1.png").symlink_to(outside)
    with pytest.raises(DataError, match="link that leads out"):
        _ = table_of(spec).marks


def test_a_folder_of_images_may_itself_be_a_link(make: Any, tmp_path: Path) -> None:
    spec = make()
    moved = tmp_path.parent / f"{tmp_path.name}-disk"
    (tmp_path / "images").rename(moved)
    (tmp_path / "images").symlink_to(moved)
    assert len(table_of(spec).marks) == 8


def test_every_folder_looked_at_is_named(make: Any, tmp_path: Path) -> None:
    spec = make()
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(DataError) as caught:
        table_of(spec, roots=[Path("/nowhere")])
    for part in ("/nowhere (no such folder)", f"{tmp_path} (no rows.csv)", "--data-root"):
        assert part in str(caught.value)


def test_tables_are_joined_stacked_and_filtered(make: Any, tmp_path: Path) -> None:
    layout = {
        "folders": ".",
        "tables": ["rows.csv", {"file": "more.tsv.gz", "set": {"split": "test"}}],
        "joins": [{"file": "sites.parquet", "on": "person", "columns": ["site"]}],
        "images": {"at": "images", "name": "{image_id}.png"},
    }
    rules = {"site": {"column": "site", "map": {"A": 1, "B": 2}}}
    spec = make(
        layouts=[layout], attributes=rules, filter=[{"column": "sex", "none_of": ["unknown"]}]
    )
    more = "image_id\tperson\tage\tsex\till\na8\tp6\t44\tF\t1\n"
    (tmp_path / "more.tsv.gz").write_bytes(gzip.compress(more.encode()))
    sites = pd.DataFrame({"person": [f"p{i}" for i in range(7)], "site": [1, 1, 1, 1, 2, 2, 2]})
    sites.to_parquet(tmp_path / "sites.parquet")
    table = table_of(spec, attributes=["site"])
    assert table.frame["site"].tolist() == ["A"] * 6 + ["B", "B"]
    assert table.frame["split"].tolist()[-1] == "test"
    assert table.dropped == {"filter": 1}
    assert table.origin.row(7).endswith("more.tsv.gz:2")
    sites.iloc[1:].to_parquet(tmp_path / "sites.parquet")
    with pytest.raises(DataError, match=r"lines 2, 3 \(2 rows\): rows without a partner"):
        table_of(spec, attributes=["site"])


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ({"column": "person", "pattern": "p([0-9]+)"}, ["0", "0", "1", "2"]),
        ({"column": "sex", "map": {"F": "x"}, "default": "y"}, ["x", "x", "y", "y"]),
        ({"template": "{person}-{sex}"}, ["p0-F", "p0-F", "p1-M", "p2-M"]),
    ],
)
def test_derived_columns(make: Any, rule: dict[str, Any], values: list[str]) -> None:
    table = table_of(make(patient="new", derive={"new": rule}, split={"all": "train"}))
    assert table.frame["patient"].tolist()[:4] == values


def test_a_value_that_a_derived_column_does_not_cover_is_a_fault(make: Any) -> None:
    rule = {"column": "sex", "map": {"F": "x", "M": "y"}}
    with pytest.raises(DataError, match=r"rows.csv:9: the rule of 'derive.new'"):
        table_of(make(patient="new", derive={"new": rule}, split={"all": "train"}))


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"equals": 30}, ["a0"]),
        ({"one_of": [30, "60.0"]}, ["a0", "a4"]),
        ({"between": [59, 61]}, ["a3", "a4", "a5"]),
        ({"known": False}, ["a7"]),
        ({"none_of": [30, 31, 70, 59, 60, 61]}, ["a6", "a7"]),
    ],
)
def test_conditions(make: Any, condition: dict[str, Any], kept: list[str]) -> None:
    spec = make(filter=[{"column": "age", **condition}], split={"all": "test"})
    assert table_of(spec).frame["id"].tolist() == kept


def test_damaged_files_are_faults(make: Any, tmp_path: Path) -> None:
    spec = make(archive=True)
    (tmp_path / "images.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="not a readable zip file"):
        _ = table_of(spec).marks
    (tmp_path / "rows.csv").write_bytes(b"image_id,person\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        table_of(spec)


def test_a_spec_is_refused_whole_with_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "title: t\nlicence: l\ncitation: c\nlink: l\nid: i\npatient: p\n"
        "layouts:\n  - {folders: ., tables: [t.csv], images: {name: '{i}.png'}}\n"
        "reader: pill\nresise: crop\n"
        "targets:\n  y: {column: y, positive: 1}\n"
        "attributes:\n  label: {column: s, map: {A: 1}}\n"
        "  s: {column: s, map: {A: 1, B: 1}}\n"
        "split: {fractions: {train: 0.5, val: 0.2, test: 0.2}}\n"
    )
    with pytest.raises(Problems) as caught:
        load_spec(str(path))
    text = str(caught.value)
    for part in ("bad.yaml:9", "'pil'", "bad.yaml:10", "resize", "bad.yaml:12", "bad.yaml:15",
                 "two meanings", "add up to 1"):  # fmt: skip
        assert part in text


def test_an_attribute_may_not_take_a_name_of_the_table(make: Any) -> None:
    with pytest.raises(ConfigError, match="taken by the table"):
        make(attributes={"label": {"column": "sex", "map": {"F": "F"}}})
