"""Images decoded once; test rows behind the gate; nothing half-written."""

from __future__ import annotations

import hashlib
import io
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_data import ROWS, png, table_of
from PIL import Image

from fairtune.data import Pack, TestPass, load_spec, load_table, open_pack
from fairtune.data import pack as pack_module
from fairtune.data.gatekeep import issue
from fairtune.data.patients import hashed, patient_key
from fairtune.errors import ConfigError, DataError, Problems, StorageError, StudyError


@pytest.fixture
def pack(make: Any, tmp_path: Path) -> Pack:
    return open_pack(table_of(make()), image_size=8, cache=tmp_path / "cache")


def test_pixels_are_the_resized_images(pack: Pack) -> None:
    with Image.open(io.BytesIO(png(2))) as image:
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC, reducing_gap=3.0))
    assert (pack.images(np.array([2]))[0] == expected).all()
    assert pack.images(pack.rows("train")).shape == (4, 8, 8, 3)


def test_a_second_look_decodes_nothing(pack: Pack, make: Any, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    again = open_pack(
        table_of(make(), attributes=[]),
        image_size=8,
        cache=tmp_path / "cache",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert (again.key, calls) == (pack.key, [])
    open_pack(
        table_of(make()),
        image_size=9,
        cache=tmp_path / "cache",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(i, 8) for i in range(1, 9)]


def test_the_key_follows_images_and_decoding(make: Any) -> None:
    keys = {
        pack_module.pack_key(table_of(make()), 8, 3),
        pack_module.pack_key(table_of(make()), 8, 1),
        pack_module.pack_key(table_of(make(resize="pad")), 8, 3),
        pack_module.pack_key(table_of(make(ROWS[1:])), 8, 3),
    }
    assert len(keys) == 4
    relabelled = [row.replace(",1,train", ",0,train") for row in ROWS]
    assert pack_module.pack_key(table_of(make(relabelled)), 8, 3) in keys


def test_test_rows_are_locked(pack: Pack) -> None:
    test = np.array([6, 7])
    mixed = np.array([0, 6])
    looks = (
        lambda: pack.rows("test"),
        lambda: pack.images(test),
        lambda: pack.images(np.array([-1])),
        lambda: pack.labels(mixed),
        lambda: pack.groups(mixed, "sex"),
        lambda: pack.texts(mixed),
        lambda: pack.predictions(mixed, np.zeros(2)),
        lambda: pack.labels(np.ones(8, dtype=bool)),
    )
    for look in looks:
        with pytest.raises(StudyError, match="locked"):
            look()
    assert set(pack.frame["split"]) == {"train", "val"}
    assert "label" not in pack.index


def test_a_pass_opens_its_own_split_only(pack: Pack) -> None:
    given = issue(pack.table.split_hash, "opening 1")
    rows = pack.rows("test", test_pass=given)
    assert rows.tolist() == [6, 7]
    assert pack.labels(rows, test_pass=given).tolist() == [1, 0]
    with pytest.raises(StudyError, match="another split"):
        pack.rows("test", test_pass=issue("0" * 32, "opening 2"))


def test_a_pass_cannot_be_made_by_hand() -> None:
    with pytest.raises(StudyError, match="issued by the test gate"):
        TestPass("0" * 32, "mine")


def test_predictions_carry_labels_groups_and_patient_codes(pack: Pack) -> None:
    rows = pack.rows("val")
    found = pack.predictions(rows, np.array([0.2, 0.7]))
    assert found.label.tolist() == [1, 0]
    assert found.attribute("sex").names == ("F", "M")
    assert found.attribute("age*sex").codes.tolist() == [2, 2]
    assert found.patient.tolist() == [3, 3]
    assert found.row.tolist() == [4, 5]
    mask = np.isin(np.arange(8), rows)
    assert pack.predictions(mask, np.array([0.2, 0.7])).row.tolist() == [4, 5]


def test_no_raw_id_is_in_what_may_be_exported(pack: Pack) -> None:
    for frame in (pack.frame, pack.index):
        text = frame.to_csv()
        assert not any(f"p{i}" in text or f"a{i}" in frame.columns for i in range(6))
    assert pack.image_hashes[3] == hashlib.sha256(png(3)).hexdigest()


def test_patient_hashes_are_keyed_and_scoped(pack: Pack, tmp_path: Path) -> None:
    hashes = pack.patient_hashes()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 6
    key_file = tmp_path / "cache" / "packs" / ".patient-key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = patient_key(tmp_path / "cache")
    assert hashed(["p0"], "tiny", key) == [hashes[0]]
    assert hashed(["p0"], "other", key) != [hashes[0]]
    assert hashed(["p0"], "tiny", bytes(32)) != [hashes[0]]
    key_file.write_bytes(b"short")
    with pytest.raises(StorageError, match="damaged"):
        pack.patient_hashes()


def test_of_two_makers_of_a_key_one_wins(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: patient_key(tmp_path), range(32)))
    assert len(keys) == 1
    assert [p.name for p in (tmp_path / "packs").iterdir()] == [".patient-key"]


def test_an_archive_gives_the_same_pixels(make: Any, tmp_path: Path) -> None:
    a = open_pack(table_of(make()), image_size=8, cache=tmp_path / "c1")
    (tmp_path / "images").rename(tmp_path / "gone")
    b = open_pack(table_of(make(archive=True)), image_size=8, cache=tmp_path / "c2")
    assert (a.images(a.rows("train")) == b.images(b.rows("train"))).all()


def test_unreadable_images_are_all_listed_and_nothing_is_left(make: Any, tmp_path: Path) -> None:
    spec = make()
    whole = (tmp_path / "images" / "a1.png").read_bytes()
    (tmp_path / "images" / "a1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images" / "a6.png").write_bytes(b"no image at all")
    (tmp_path / "images" / "a7.png").write_bytes(b"")
    with pytest.raises(Problems) as caught:
        open_pack(table_of(spec), image_size=8, cache=tmp_path / "cache")
    assert len(caught.value.problems) == 3
    for part in ("rows.csv:3 (image a1.png)", "rows.csv:8 (image a6.png)", "truncated"):
        assert part in str(caught.value)
    left = [p.name for p in (tmp_path / "cache" / "packs").iterdir() if p.suffix != ".lock"]
    assert left == []


def test_a_damaged_member_of_an_archive_is_named(make: Any, tmp_path: Path) -> None:
    spec = make(archive=True)
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("a4.png").header_offset + 200
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"rows.csv:6 \(image a4.png\)"):
        open_pack(table_of(spec), image_size=8, cache=tmp_path / "cache")


@pytest.mark.parametrize("asked", [{"image_size": 0}, {"image_size": 8, "channels": 2}])
def test_sizes_are_checked(make: Any, tmp_path: Path, asked: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        open_pack(table_of(make()), cache=tmp_path, **asked)


def test_a_pack_that_cannot_fit_is_refused_before_decoding(make: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="MiB"):
        open_pack(table_of(make()), image_size=10**7, cache=tmp_path / "cache")


_FULL = """
import subprocess, sys
from pathlib import Path
from fairtune.data import load_spec, load_table, open_pack, pack
from fairtune.errors import StorageError

disk = Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
# The space is there when it is looked up and gone when it is written.
pack._RESERVE = -(2**40)
table = load_table(load_spec(sys.argv[1]), target="ill", attributes=[], roots=[])
try:
    open_pack(table, image_size=500, cache=disk)
except StorageError as error:
    assert "full" in str(error), error
    left = [p for p in (disk / "packs").iterdir() if p.suffix != ".lock"]
    assert not left, left
    print("refused")
"""


@pytest.mark.needs("small-disk")
def test_a_disk_that_fills_up_leaves_nothing(make: Any, tmp_path: Path) -> None:
    make()
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        [
            "unshare",
            "-Urm",
            sys.executable,
            "-c",
            _FULL,
            tmp_path / "tiny.yaml",
            tmp_path / "disk",
        ],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "refused\n", done.stderr


def test_the_shipped_data_set_packs(tmp_path: Path) -> None:
    table = load_table(
        load_spec("nih-cxr-64"), target="abnormal", attributes=["sex", "age", "view"], roots=[]
    )
    pack = open_pack(table, image_size=64, channels=1, cache=tmp_path)
    assert [len(pack.rows(part)) for part in ("train", "val")] == [726, 141]
    assert pack.images(pack.rows("val")).shape == (141, 64, 64, 1)
    sex = pack.groups(pack.rows("train"), "sex")
    assert np.bincount(sex).tolist() == [370, 356]
    assert not set(pack.patient_codes[pack.rows("train")]) & set(
        pack.patient_codes[pack.rows("val")]
    )
    with zipfile.ZipFile(table.folder / "nih_cxr_64.zip") as file:
        content = file.read(table.frame["image"].iloc[2])
    with Image.open(io.BytesIO(content)) as image:
        assert (pack.images(np.array([2]))[0, :, :, 0] == np.asarray(image.convert("L"))).all()
