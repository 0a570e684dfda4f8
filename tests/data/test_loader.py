"""Batches: order, pixels, labels and weights; augmentation against a per-image reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_data import HEADER, ROWS, table_of
from PIL import Image

from fairtune.data import Pack, open_pack
from fairtune.data.augment import Light
from fairtune.data.batch import Loader, normalise
from fairtune.data.gatekeep import issue
from fairtune.errors import StudyError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def pack(make: Any, tmp_path: Path) -> Pack:
    return open_pack(table_of(make()), image_size=8, cache=tmp_path / "cache")


def loader(pack: Pack, **changes: Any) -> Loader:
    given: dict[str, Any] = {"batch_size": 3, "mean": MEAN, "std": STD}
    given["generator"] = torch.Generator().manual_seed(0)
    return Loader(pack, changes.pop("rows", pack.rows("train")), **(given | changes))


def test_a_batch_is_what_the_pack_says(pack: Pack) -> None:
    batches = list(loader(pack, weights=np.array([1, 2, 3, 4])).epoch(shuffle=False))
    assert [b.row.tolist() for b in batches] == [[0, 1, 2], [3]]
    first = batches[0]
    pixels = pack.images(np.arange(3)).transpose(0, 3, 1, 2) / 255
    expected = (pixels - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    assert first.image.dtype == torch.float32
    np.testing.assert_allclose(first.image.numpy(), expected, atol=1e-5)
    assert (first.label.tolist(), first.label.dtype) == ([1, 0, 1], torch.int64)
    assert first.group.tolist() == [[0, 0], [0, 0], [1, 1]]
    assert first.weight.tolist() == [1, 2, 3]
    assert (first.text, first.target_mask, len(first)) == (None, None, 3)


def test_pixels_are_the_same_resident_or_not(pack: Pack) -> None:
    pair = [list(loader(pack, resident=held, augment=Light()).epoch()) for held in (True, False)]
    for a, b in zip(*pair, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.row, b.row)


def test_order_follows_from_the_generator_alone(pack: Pack) -> None:
    def order(size: int, epochs: int = 2) -> list[int]:
        served = loader(pack, batch_size=size)
        return [row for _ in range(epochs) for b in served.epoch() for row in b.row.tolist()]

    assert order(1) == order(3) == order(10)
    assert sorted(order(3)[:4]) == [0, 1, 2, 3]
    other = loader(pack, generator=torch.Generator().manual_seed(3))
    assert [row for b in other.epoch() for row in b.row.tolist()] != order(3)[:4]


def test_the_last_batch_may_be_left_out(pack: Pack) -> None:
    assert [len(b) for b in loader(pack).epoch(drop_last=True)] == [3]
    assert [len(b) for b in loader(pack, batch_size=2).epoch(drop_last=True)] == [2, 2]
    assert len(loader(pack)) == 2


def test_a_sampler_may_give_the_order(pack: Pack) -> None:
    batches = list(loader(pack).epoch(order=torch.tensor([3, 3, 0, 1, 1])))
    assert [b.row.tolist() for b in batches] == [[3, 3, 0], [1, 1]]


def test_shuffling_without_a_generator_is_refused(pack: Pack) -> None:
    with pytest.raises(ValueError, match="generator"):
        next(loader(pack, generator=None).epoch())


def test_test_rows_need_a_pass(pack: Pack) -> None:
    rows = np.array([6, 7])
    with pytest.raises(StudyError, match="locked"):
        loader(pack, rows=rows)
    given = issue(pack.table.split_hash, "1")
    served = loader(pack, rows=rows, test_pass=given, resident=False)
    assert next(served.epoch(shuffle=False)).group.tolist() == [[1, 1], [-1, -1]]


def test_one_channel_serves_three(make: Any, tmp_path: Path) -> None:
    pack = open_pack(table_of(make()), image_size=8, channels=1, cache=tmp_path / "cache")
    image = next(loader(pack).epoch(shuffle=False)).image
    assert image.shape == (3, 3, 8, 8)
    grey = image * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-6)


def test_texts_and_several_labels(make: Any, tmp_path: Path) -> None:
    targets = {"both": {"columns": ["ill", "bad"], "positive": 1, "negative": 0}}
    rows = [f"{row},{i % 2},note {i}" for i, row in enumerate(ROWS)]
    spec = make(rows, f"{HEADER},bad,note", targets=targets, text="note")
    pack = open_pack(table_of(spec, target="both"), image_size=8, cache=tmp_path / "cache")
    read: list[Any] = []

    def text(some: Any) -> torch.Tensor:
        read.append(pack.texts(some))
        return torch.from_numpy(some)

    batch = next(loader(pack, resident=False, text=text).epoch(order=torch.tensor([2, 1])))
    assert read == [["note 2", "note 1"]]
    assert batch.text is not None
    assert batch.text.tolist() == [2, 1]
    assert next(loader(pack).epoch(shuffle=False)).text is None
    assert (batch.label.tolist(), batch.label.dtype) == ([[1, 0], [0, 1]], torch.float32)


def test_a_view_sees_images_between_0_and_1(pack: Pack) -> None:
    seen: list[tuple[float, float]] = []

    def view(image: torch.Tensor) -> torch.Tensor:
        seen.append((float(image.min()), float(image.max())))
        return image * 0

    image = next(loader(pack, view=view).epoch(shuffle=False)).image
    assert 0 <= seen[0][0] < seen[0][1] <= 1
    assert torch.allclose(image, -torch.tensor(MEAN).div(torch.tensor(STD)).view(3, 1, 1))


def test_normalise_reads_bytes_and_shares() -> None:
    bytes_ = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    a, b = normalise(bytes_, MEAN, STD), normalise(bytes_ / 255, MEAN, STD)
    assert torch.allclose(a, b, atol=1e-5)
    assert normalise(bytes_, MEAN, STD, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("flip", ["none", "horizontal", "both"])
def test_light_equals_pillow_image_by_image(flip: Any) -> None:
    light = Light(flip=flip)
    images = torch.rand(24, 1, 13, 17, generator=torch.Generator().manual_seed(0))
    parameters = light.draw(24, torch.Generator().manual_seed(1))
    out = light.apply(images, parameters)
    for image, (left, top, width, height, x, y), got in zip(
        images[:, 0].numpy(), parameters.tolist(), out[:, 0].numpy(), strict=True
    ):
        # A border of one pixel stands for the edge that continues the image.
        padded = Image.fromarray(np.pad(image, 1, mode="edge"))
        box = [1 + left * 17, 1 + top * 13, 1 + (left + width) * 17, 1 + (top + height) * 13]
        size, extent = (17, 13), Image.Transform.EXTENT
        expected = np.asarray(padded.transform(size, extent, box, Image.Resampling.BILINEAR))
        expected = expected[:, ::-1] if x < 0 else expected
        expected = expected[::-1] if y < 0 else expected
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_light_draws_within_its_bounds() -> None:
    drawn = Light(flip="horizontal").draw(4000, torch.Generator().manual_seed(0))
    left, top, width, height, x, y = drawn.unbind(1)
    area = width * height
    assert (area > 0.7 - 1e-5).all()
    assert (area <= 1).all()
    assert torch.stack([left, top]).min() >= 0
    assert torch.stack([left + width, top + height]).max() <= 1 + 1e-6
    assert 0.45 < (x < 0).float().mean() < 0.55
    assert (y == 1).all()
    assert (Light().draw(100, torch.Generator())[:, 4:] == 1).all()


def test_the_whole_image_is_left_as_it_is() -> None:
    images = torch.rand(2, 3, 9, 9)
    whole = torch.tensor([[0.0, 0, 1, 1, 1, 1], [0, 0, 1, 1, -1, 1]])
    out = Light().apply(images, whole)
    assert torch.allclose(out[0], images[0], atol=1e-5)
    assert torch.allclose(out[1], images[1].flip(-1), atol=1e-5)


@pytest.mark.gpu
def test_a_loader_on_an_accelerator_serves_the_same(pack: Pack) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    here = list(loader(pack, augment=Light("both")).epoch())
    for held in (True, False):
        there = list(loader(pack, augment=Light("both"), device="cuda", resident=held).epoch())
        for a, b in zip(here, there, strict=True):
            assert b.image.is_cuda
            assert torch.equal(a.row, b.row.cpu())
            assert torch.allclose(a.image, b.image.cpu(), atol=1e-3)
