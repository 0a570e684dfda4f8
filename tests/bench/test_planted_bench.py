"""The planted bias is there at the stated rates, and nothing else differs."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted
import planted_erm
import pytest
from PIL import Image

from fairtune.data.spec import load_spec
from fairtune.data.table import load_table
from fairtune.evaluation.predictions import Attribute, Predictions

SIZES = {"train": (20, 40), "val": (12, 12), "test": (16, 12)}
CELL = ["split", "group", "label"]


def made(out: Path, **changes: Any) -> pd.DataFrame:
    """Plant into the chest X-rays that come with fairtune."""
    fields: dict[str, Any] = {"strength": 0.9, "arm": "biased", "seed": 0, "side": 32}
    fields |= {"dataset": "nih-cxr-64", "target": "abnormal", "sizes": SIZES, **changes}
    return planted.plant(out.parent, out, **fields)


def part(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    return rows[rows["split"] == split].reset_index(drop=True)


def images(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(folder / "images.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_equal_arguments_give_equal_bytes_and_another_seed_another_set(tmp_path: Path) -> None:
    first, other = made(tmp_path / "a"), made(tmp_path / "b", seed=1)
    made(tmp_path / "c")
    for name in ("images.zip", "planted.csv", "planted.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes(), name
    assert not first.equals(other)


def test_every_cell_has_the_stated_share_of_markers() -> None:
    spec = load_spec("nih-cxr-64")
    frame = load_table(spec, target="abnormal", attributes=(), roots=()).frame
    for arm, strength in itertools.product(planted.ARMS, (0.0, 0.6, 0.9, 1.0)):
        rows = planted.assigned(frame, planted.Plan(strength, arm, 3, sizes=SIZES))
        for key, cell in rows.groupby(CELL):
            split, group, label = key
            biased = split == "train" or (split, arm) == ("val", "biased")
            tilt = (2 * label - 1) * strength * biased
            share = (1 + tilt) / 2 if group == "marked" else 0.0
            assert abs(cell["marker"].sum() - len(cell) * share) <= 0.5, key
            assert len(cell) == SIZES[split][1 - label] / 2, key
        plan = planted.Plan(strength, arm, 3, sizes=SIZES, elsewhere="half")
        half = planted.assigned(frame, plan)
        plain = half[half["group"] == "plain"].groupby(CELL)["marker"].mean()
        assert (plain == 0.5).all()


def test_arms_differ_in_validation_alone_and_strengths_leave_the_test(tmp_path: Path) -> None:
    biased, unbiased = (made(tmp_path / arm, arm=arm) for arm in planted.ARMS)
    weak = made(tmp_path / "weak", strength=0.5)
    held = {name: images(tmp_path / name) for name in (*planted.ARMS, "weak")}
    assert set(held["biased"]) == set(held["unbiased"])
    for split in ("train", "test"):
        assert part(biased, split).equals(part(unbiased, split))
        names = [f"{name}.jpg" for name in part(biased, split)["image_id"]]
        assert all(held["biased"][name] == held["unbiased"][name] for name in names)
    assert part(biased, "test").equals(part(weak, "test"))
    assert not part(biased, "train").equals(part(weak, "train"))
    seen, other = part(biased, "val"), part(unbiased, "val")
    assert seen.drop(columns="marker").equals(other.drop(columns="marker"))
    for row, now in zip(seen.itertuples(), other["marker"]):
        name = f"{row.image_id}.jpg"
        assert (held["biased"][name] == held["unbiased"][name]) == (row.marker == now)


def test_a_patient_has_one_row_so_is_in_one_split_and_group(tmp_path: Path) -> None:
    rows = made(tmp_path / "x")
    assert rows["patient"].is_unique
    assert rows["image_id"].is_unique
    # The same patients' order whatever the strength: only the marker changes.
    weak = made(tmp_path / "y", strength=0.0)
    assert rows.drop(columns="marker").equals(weak.drop(columns="marker"))


def test_the_square_is_where_the_table_says(tmp_path: Path) -> None:
    rows, marker = made(tmp_path / "x"), planted.Marker()
    held = images(tmp_path / "x")
    side = round(marker.side * 32)
    for name, on in zip(rows["image_id"], rows["marker"]):
        pixels = np.asarray(Image.open(io.BytesIO(held[f"{name}.jpg"])), dtype=float)
        corner = pixels[-side + 1 :, : side - 1].reshape(-1, 3).mean(axis=0)
        near = np.abs(corner - marker.colour).max() < 20
        assert near == bool(on), name
    clean = np.zeros((10, 10, 3), dtype=np.uint8)
    drawn = planted.Marker(side=0.3, margin=0.1, colour=(1, 2, 3)).on(clean)
    assert not clean.any()
    assert (drawn[6:9, 1:4] == (1, 2, 3)).all()
    assert np.count_nonzero(drawn.any(axis=2)) == 9


def test_fairtune_reads_it(tmp_path: Path) -> None:
    rows = made(tmp_path / "x")
    spec = load_spec(str(tmp_path / "x" / "planted.yaml"))
    source = load_spec("nih-cxr-64")
    assert (spec.licence, spec.citation, spec.link) == (
        source.licence,
        source.citation,
        source.link,
    )
    assert (spec.acknowledgement, spec.id_space) == (source.acknowledgement, source.id_space)
    assert spec.ranges() == source.ranges()
    table = load_table(spec, target="abnormal", attributes=["group", "marker"], roots=())
    assert len(table.marks) == len(rows) == sum(map(sum, SIZES.values()))
    assert table.frame["label"].tolist() == rows["label"].tolist()
    assert table.frame["split"].tolist() == rows["split"].tolist()
    assert table.frame["group"].tolist() == rows["group"].tolist()
    assert (table.frame["marker"] == "with").tolist() == (rows["marker"] == 1).tolist()


def test_what_cannot_be_planted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few"):
        made(tmp_path / "x", sizes={**SIZES, "test": (400, 20)})
    with pytest.raises(ValueError, match="no such bias"):
        made(tmp_path / "x", strength=1.5)
    with pytest.raises(ValueError, match="even"):
        made(tmp_path / "x", sizes={**SIZES, "test": (3, 20)})


def test_the_figures_are_those_of_pairs_and_means_are_over_seeds() -> None:
    rng = np.random.default_rng(0)
    n = 400
    label, codes = rng.integers(0, 2, n), rng.integers(0, 2, n)
    marker = rng.integers(0, 2, n)
    score = 1 / (1 + np.exp(-(label + 2.0 * (codes == 0) * (marker == 0) + rng.normal(size=n))))
    attributes = {
        "group": Attribute("group", planted.GROUPS, codes),
        "marker": Attribute("marker", ("with", "without"), marker),
    }
    found = planted_erm.figures(Predictions(label, score, attributes, np.arange(n)))
    for code, name in enumerate(planted.GROUPS):
        mine = codes == code
        ups, downs = score[mine & (label == 1)], score[mine & (label == 0)]
        assert found[name] == pytest.approx((ups[:, None] > downs).mean())
    assert found["gap"] == pytest.approx(found["plain"] - found["marked"])
    assert found["shift"] == pytest.approx(2, abs=0.5)
    both = [{"strength": 1.0, "rows": "test", "seed": s, **found, "gap": s} for s in (0, 1)]
    (mean,) = planted_erm.means([*both, *both])
    assert (mean["seeds"], mean["gap"], mean["se gap"]) == (2, 0.5, 0.5)
    clean = {**both[0], "strength": 0.0, "marked": 0.875}
    weak = {**both[0], "marked": 0.75}
    assert [m.get("harm") for m in planted_erm.means([clean, weak])] == [0.0, 0.125]
    assert "harm" not in mean
