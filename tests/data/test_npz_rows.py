"""Metadata that lies in thousands of `.npz` files, one row in each."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairtune.data import npz_rows
from fairtune.data.layout import NpzFiles
from fairtune.errors import ConfigError, DataError, FairtuneError, Problems

RULE = NpzFiles(npz="part/*.npz", keys=("age", "name"))


def write(folder: Path, file: str, **arrays: Any) -> Path:
    path = folder / "part" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"age": np.array(60.0), "name": np.array("é"), "image": np.zeros((4, 4))}
    np.savez(path, **(given | arrays))
    return path


def test_a_file_is_a_row_in_the_order_of_the_paths(tmp_path: Path) -> None:
    write(tmp_path, "b.npz", age=np.array([True]), name=np.array(b"x y"))
    write(tmp_path, "a.npz", age=np.array([[-1]], dtype=np.int8), image=np.array([None]))
    write(tmp_path, "c.npz", age=np.array(np.nan))
    (tmp_path / "part" / "d.txt").write_text("no file of these")
    raw = npz_rows.read(RULE, tmp_path, None)
    assert raw.frame.to_dict("list") == {
        "age": ["-1", "True", ""],
        "name": ["é", "x y", "é"],
        "file": ["part/a.npz", "part/b.npz", "part/c.npz"],
        "filename": ["a.npz", "b.npz", "c.npz"],
    }
    assert raw.origin.row(1) == str(tmp_path / "part" / "b.npz")
    assert raw.where(np.array([False, False, True])) == str(tmp_path / "part" / "c.npz")
    two = raw.where(np.array([True, False, True]))
    assert two == f"{tmp_path / 'part' / '*.npz'}: a.npz, c.npz (2 rows)"


def objects(path: Path) -> None:
    np.savez(path, age=np.array([{"run": "this"}], dtype=object), name=np.array("x"))


def whole_and_half(path: Path) -> None:
    write(path.parent.parent, path.name, name=np.array("x" * 4000))
    path.write_bytes(path.read_bytes()[:1500])


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def flipped(path: Path) -> None:
    write(path.parent.parent, path.name)
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("age.npy").header_offset + 40
    content = bytearray(path.read_bytes())
    content[place + 60] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (objects, ["'age' holds Python objects", "is not read", "fixed width"]),
        (whole_and_half, ["not a readable .npz file"]),
        (flipped, ["not a readable .npz file", "CRC"]),
        (lambda p: p.write_bytes(b""), ["not a readable .npz file"]),
        (lambda p: p.write_bytes(b"no archive"), ["not a readable .npz file"]),
        (one_array, ["one array, not an archive"]),
        (lambda p: np.savez(p, age=np.array(1)), ["no array 'name'", "found:   'age'"]),
        (lambda p: np.savez(p, age=np.arange(2), name=np.array("x")),
         ["'age' is not one number", "(2,)"]),
        (lambda p: np.savez(p, age=np.zeros(0), name=np.array("x")), ["'age' is not one number"]),
        (lambda p: np.savez(p, age=np.array(1j), name=np.array("x")), ["complex128"]),
    ],
)  # fmt: skip
def test_what_cannot_be_a_row_is_a_fault_with_its_file(
    tmp_path: Path, damage: Any, says: list[str]
) -> None:
    write(tmp_path, "a.npz")
    damage(tmp_path / "part" / "b.npz")
    with pytest.raises(DataError) as caught:
        npz_rows.read(RULE, tmp_path, tmp_path / "cache")
    for part in (str(tmp_path), "part/b.npz", *says):
        assert part in str(caught.value)
    left = (tmp_path / "cache" / "tables").iterdir()
    assert [path for path in left if path.suffix != ".lock"] == []


def test_alike_faults_of_many_files_are_one(tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path, f"{i:02d}.npz", age=np.zeros(2))
    objects(tmp_path / "part" / "99.npz")
    with pytest.raises(Problems) as caught:
        npz_rows.read(RULE, tmp_path, None)
    text = str(caught.value)
    for part in ("2 problems", "part/00.npz", "and 20 more (30 files)", "part/99.npz"):
        assert part in text


def test_cells_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path, "a.npz")
    write(tmp_path, "b.npz", age=np.array(""))
    opened: list[str] = []
    load = np.load

    def counted(file: Any, **more: Any) -> Any:
        opened.append(Path(file.name).name)
        return load(file, **more)

    monkeypatch.setattr(npz_rows.np, "load", counted)
    first = npz_rows.read(RULE, tmp_path, cache)
    again = npz_rows.read(RULE, tmp_path, cache)
    assert sorted(opened) == ["a.npz", "b.npz"]
    assert again.frame.to_dict() == first.frame.to_dict()
    assert again.frame["age"].tolist() == ["60.0", ""]
    assert again.origin.row(0) == str(path)
    # Equal in size and date, as copies out of an archive are.
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        time.sleep(0.01)
        write(tmp_path, "a.npz", age=np.array(61.0))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert npz_rows.read(RULE, tmp_path, cache).frame["age"].tolist() == ["61.0", ""]
    write(tmp_path, "c.npz")
    assert len(npz_rows.read(RULE, tmp_path, cache)) == 3


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"npz": "../*.npz", "keys": ["a"]}, ["tables.0.npz", "below its folder"]),
        ({"npz": "/x/*.npz", "keys": ["a"]}, ["tables.0.npz", "below its folder"]),
        ({"npz": "*.npz", "keys": ["a", "a"]}, ["tables.0.keys", "stands twice"]),
        ({"npz": "*.npz", "keys": ["file"]}, ["tables.0.keys", "made of the path"]),
        ({"npz": "*.npz", "keys": []}, ["tables.0.keys", "at least 1"]),
        ({"npz": "*.npz"}, ["'keys' is missing"]),
        ({"npz": "*.npz", "keys": ["a"], "sett": {}}, ["'sett'", "did you mean 'set'"]),
        ({"files": "x.csv"}, ["'files'", "did you mean 'file'"]),
    ],
)
def test_a_table_of_files_is_checked(make: Any, table: Any, says: list[str]) -> None:
    images = {"name": "{image_id}.png"}
    with pytest.raises(FairtuneError) as caught:
        make(layouts=[{"folders": ".", "tables": [table], "images": images}])
    for part in ("tiny.yaml:", *says):
        assert part in str(caught.value)
    assert isinstance(caught.value, ConfigError | Problems)


def test_a_layout_without_such_files_is_not_there(make: Any, tmp_path: Path) -> None:
    from kit_data import table_of

    layout = {
        "folders": ".",
        "tables": [{"npz": "part/*.npz", "keys": ["age"]}],
        "images": {"name": "{file}"},
    }
    with pytest.raises(DataError, match=r"no part/\*\.npz"):
        table_of(make(layouts=[layout]))
