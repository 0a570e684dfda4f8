"""What a check says of a data set, and the near-duplicates it finds."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_data import ROWS
from PIL import Image

from fairtune.data import load_spec
from fairtune.data.checks import check
from fairtune.data.duplicates import across_splits, difference_hashes, near_pairs, shrunk
from fairtune.errors import DataError, Problems


def photograph(seed: int, size: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a smooth random picture, as photographs are and noise is not."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def jpeg(pixels: Any, size: int) -> Any:
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS).save(out, "JPEG")
    with Image.open(out) as image:
        return np.asarray(image.resize(pixels.shape[:2], Image.Resampling.BICUBIC))


def test_a_recompressed_copy_in_another_split_is_found() -> None:
    images = np.stack([photograph(i) for i in range(40)])
    images = np.concatenate([images, [jpeg(images[5], 48), jpeg(images[6], 48)]])
    split = np.array([0] * 40 + [2, 0])
    found = across_splits(lambda rows: images[rows], len(images), split)
    assert found[["a", "b"]].to_numpy().tolist() == [[5, 40]]
    assert found["correlation"].iloc[0] > 0.99


def test_the_hash_is_the_published_difference_hash() -> None:
    image = photograph(3)[None]
    cells = image[0].mean(axis=2)
    rows = [cells[i * 8 : (i + 1) * 8] for i in range(8)]
    edges = np.linspace(0, 64, 10).astype(int)
    value = 0
    for i, row in enumerate(rows):
        means = [row[:, a:b].mean() for a, b in itertools.pairwise(edges)]
        for j in range(8):
            value |= int(means[j + 1] > means[j]) << (i * 8 + j)
    assert int(difference_hashes(image)[0]) == value


@given(
    hashes=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=12),
    copies=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 63)), max_size=6),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_near_pairs_equal_the_double_loop(
    hashes: list[int], copies: list[tuple[int, int]], data: Any
) -> None:
    hashes = hashes + [hashes[i % len(hashes)] ^ (1 << bit) for i, bit in copies]
    split = data.draw(st.lists(st.integers(0, 2), min_size=len(hashes), max_size=len(hashes)))
    expected = [
        [a, b, (hashes[a] ^ hashes[b]).bit_count()]
        for a in range(len(hashes))
        for b in range(a + 1, len(hashes))
        if split[a] != split[b] and (hashes[a] ^ hashes[b]).bit_count() <= 4
    ]
    found = near_pairs(np.array(hashes, dtype=np.uint64), np.array(split))
    assert found.tolist() == expected


def test_images_smaller_than_the_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be averaged"):
        shrunk(np.zeros((1, 4, 4, 3), dtype=np.uint8), 8, 9)


def test_a_check_counts_and_finds_duplicates(make: Any, tmp_path: Path) -> None:
    spec = make()
    for i in range(8):
        Image.fromarray(photograph(i % 6)).save(tmp_path / "images" / f"a{i}.png")
    report = check(spec, cache=tmp_path / "cache")
    pairs = report.duplicates
    assert pairs is not None
    assert pairs[["a", "split_a", "b", "split_b", "distance"]].to_numpy().tolist() == [
        ["a0", "train", "a6", "test", 0],
        ["a1", "train", "a7", "test", 0],
    ]
    cells = report.targets["ill"].cells.set_index(["attribute", "group", "split"])
    train = cells.loc[("all", "all", "train")]
    assert (train["n"], train["patients"], train["rate ill"]) == (4, 3, 0.5)
    assert train["effective"] == pytest.approx(16 / 6)
    unknown = cells.loc[("sex", "unknown", "test")]
    assert (unknown["n"], unknown["share"]) == (1, 0.5)
    assert "cannot rank masks" in report.targets["ill"].outlooks["sex"].sentence


def test_faults_of_all_targets_and_attributes_come_together(make: Any) -> None:
    targets = {
        "ill": {"column": "ill", "positive": 1, "negative": 0},
        "bad": {"column": "sex", "positive": "F", "negative": "M"},
    }
    rows = [*ROWS[:2], "a2,p1,old,M,5,train", *ROWS[3:]]
    with pytest.raises(Problems) as caught:
        check(make(rows, targets=targets))
    text = str(caught.value)
    for part in ("3 problems", "'old'", "'5'", "targets.bad"):
        assert part in text


def test_images_are_checked_too(make: Any, tmp_path: Path) -> None:
    spec = make()
    (tmp_path / "images" / "a3.png").write_bytes(b"")
    assert check(spec).duplicates is None
    with pytest.raises(DataError, match=r"a3\.png"):
        check(spec, cache=tmp_path / "cache")


def test_the_shipped_data_set_passes(tmp_path: Path) -> None:
    report = check(load_spec("nih-cxr-64"), cache=tmp_path)
    assert report.duplicates is not None
    assert report.duplicates.empty
    cells = report.targets["abnormal"].cells
    every = cells[cells["group"] == "all"].set_index("split")
    assert every["n"].to_dict() == {"train": 726, "val": 141, "test": 133}
    assert every["effective"].round().loc[["val", "test"]].tolist() == [34, 36]
    assert set(report.targets["abnormal"].outlooks) == {"sex", "age", "view"}


def test_multiclass_and_multilabel_targets_are_described(make: Any) -> None:
    targets = {
        "kind": {"column": "ill", "classes": {"well": 0, "ill": 1}},
        "both": {"columns": ["ill"], "positive": 1, "negative": 0},
    }
    report = check(make(targets=targets))
    assert [c for c in report.targets["kind"].cells if c.startswith("rate")] == [
        "rate well",
        "rate ill",
    ]
    assert report.targets["both"].table.task == "multilabel"
