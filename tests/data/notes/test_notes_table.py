"""Tables of notes: named columns, rows told apart, and no word of a note in any message."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from kit_notes import MARK, rows_of, table, written

from fairtune.data.notes.output import check_output, make_folder, write_output
from fairtune.data.notes.table import Notes, read_notes
from fairtune.errors import ConfigError, DataError, FairtuneError


def test_columns_are_found_by_name_wherever_they_stand(tmp_path: Path) -> None:
    for header in (["eye", "note", "key"], ["key", "eye", "note"]):
        cells = {"eye": "e1", "note": "one, two\nthree", "key": "k"}
        path = written(tmp_path / "a.csv", [header, [cells[name] for name in header]])
        notes = read_notes(path, "note", "eye", ["key"])
        assert (notes.texts, notes.ids, notes.kept) == (
            ("one, two\nthree",),
            ("e1",),
            {"key": ("k",)},
        )


def test_all_kinds_of_tables_are_read_alike(tmp_path: Path) -> None:
    path = table(tmp_path, 4, empty=[2])
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.to_csv(tmp_path / "n.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "n.csv.gz", index=False)
    frame.to_parquet(tmp_path / "n.parquet")
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    first = read_notes(path, "note", "eye")
    assert first.empty == 1
    for name in ("n.tsv", "n.csv.gz", "n.parquet", "bom.csv"):
        other = read_notes(tmp_path / name, "note", "eye")
        assert (other.texts, other.ids) == (first.texts, first.ids)


def test_a_note_of_a_million_letters_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [["eye", "note"], ["e", "x " * 500_000]])
    assert len(read_notes(path, "note", "eye").texts[0]) == 1_000_000


def no_column(folder: Path) -> Path:
    return written(folder / "a.csv", [["eye", "notes"], ["e", MARK]])


def no_header(folder: Path) -> Path:
    return written(folder / "a.csv", [["17", f"{MARK} has pain"], ["18", MARK]])


def long_first(folder: Path) -> Path:
    return written(
        folder / "a.csv", [["eye", f"{MARK} has had pain in both eyes for a long time"]]
    )


def same_ids(folder: Path) -> Path:
    return written(folder / "a.csv", [["eye", "note"], *([MARK, MARK] for _ in range(2))])


def no_ids(folder: Path) -> Path:
    return written(folder / "a.csv", [["eye", "note"], [" ", MARK]])


def no_rows(folder: Path) -> Path:
    return written(folder / "a.csv", [["eye", "note"]])


def odd_row(folder: Path) -> Path:
    return written(folder / "a.csv", [["eye", "note"], ["e", MARK, MARK]])


def open_quote(folder: Path) -> Path:
    (folder / "a.csv").write_text(f'eye,note\ne,"{MARK}\n')
    return folder / "a.csv"


def latin(folder: Path) -> Path:
    (folder / "a.csv").write_bytes(f"eye,note\ne,{MARK} für\n".encode("latin-1"))
    return folder / "a.csv"


def absent(folder: Path) -> Path:
    return folder / "a.csv"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (no_column, "did you mean 'notes'"),
        (no_header, "write a first line with the columns' names"),
        (long_first, "write a first line with the columns' names"),
        (same_ids, "lines 2, 3"),
        (no_ids, "a.csv:2"),
        (no_rows, "has no rows"),
        (odd_row, "as many fields"),
        (open_quote, "not a readable table"),
        (latin, "is not UTF-8"),
        (absent, "cannot read the table"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_message(
    make: Callable[[Path], Path], what: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as raised:
        read_notes(make(tmp_path), "note", "eye")
    assert what in str(raised.value)
    assert MARK not in str(raised.value)


def test_a_column_is_asked_for_once(tmp_path: Path) -> None:
    for text, id_, keep in (("note", "note", []), ("note", "eye", ["note"])):
        with pytest.raises(ConfigError, match="asked for twice"):
            read_notes(table(tmp_path), text, id_, keep)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("notes.csv", "its own source"),
        ("link.csv", "its own source"),
        ("out.txt", "not the name of a table"),
        ("folder.csv", "this is a folder"),
        ("there.csv", "is there already"),
        ("recorded.csv", "is there already"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    name: str, what: str, tmp_path: Path
) -> None:
    source = table(tmp_path)
    before = source.read_bytes()
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "there.csv").touch()
    (tmp_path / "recorded.csv.json").touch()
    with pytest.raises(FairtuneError, match=what):
        check_output(tmp_path / name, source)
    assert source.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    with pytest.raises(ConfigError, match="cannot make the folder"):
        make_folder(tmp_path / "there.csv" / "below" / "out.csv")


def test_outputs_are_their_owners_alone_and_read_back(tmp_path: Path) -> None:
    notes = read_notes(table(tmp_path), "note", "eye", ["key"])
    texts = ['a "quoted", one', "two\nlines", "", "tab\t", "ü"]
    for name in ("o.csv", "o.tsv"):
        to = tmp_path / "new" / name
        check_output(to, notes.path)
        make_folder(to)
        write_output(to, *notes.table("note", texts), {})
        back = read_notes(to, "note", "eye", ["key"])
        assert (back.texts, back.ids, back.kept) == (tuple(texts), notes.ids, notes.kept)
        for path in (to, to.with_name(f"{name}.json")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(rows_of(tmp_path / "new" / "o.csv")[0]) == ["eye", "note", "key"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [["eye", "note", "summary"], ["e", "n", "s"]])
    notes: Notes = read_notes(path, "note", "eye", ["summary"])
    with pytest.raises(ConfigError, match="one name"):
        notes.table("summary", ["x"])
