"""Every augmentation against torchvision's function, image by image, with the same parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_data import table_of
from torch import Tensor
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from fairtune.config import parse
from fairtune.data import Pack, open_pack
from fairtune.data.augment import Augment, Light
from fairtune.data.augment_rule import AugmentRule
from fairtune.data.batch import Loader
from fairtune.data.colour import Brightness, Contrast, Hue, Saturation
from fairtune.data.detail import Blur, Erase
from fairtune.data.geometry import Geometry
from fairtune.data.medical import Chain, augmentation, medical
from fairtune.data.spec import load_spec
from fairtune.errors import ConfigError, FairtuneError

BATCH = 16
EVERYTHING = AugmentRule(
    crop=0.7,
    rotate=30,
    brightness=0.3,
    contrast=0.3,
    saturation=0.5,
    hue=0.2,
    blur=1.0,
    erase=0.5,
)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(channels: int = 3, height: int = 13, width: int = 17) -> Tensor:
    return torch.rand(BATCH, channels, height, width, generator=source())


def applied(step: Augment, given: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    parameters = step.draw(len(given), source(seed))
    return step.apply(given, parameters), parameters


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("step", "name"),
    [
        (Brightness(0.4), "adjust_brightness"),
        (Contrast(0.4), "adjust_contrast"),
        (Saturation(0.9), "adjust_saturation"),
        (Hue(0.5), "adjust_hue"),
    ],
)
def test_colours_are_torchvisions(step: Augment, name: str, channels: int) -> None:
    given = images(channels)
    found, factors = applied(step, given)
    adjust = getattr(functional, name)
    for image, factor, got in zip(given, factors[:, 0].tolist(), found):
        assert torch.allclose(got, adjust(image, factor), atol=1e-5)
    assert channels == 1 or not torch.equal(found, given)


def test_a_hue_of_greys_and_pure_colours_is_torchvisions() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3)
    image = corners.T.reshape(1, 3, 3, 9).contiguous()
    for turn in (-0.5, -0.2, 0.0, 1 / 6, 0.4):
        found = Hue(0.5).apply(image, torch.tensor([[turn]]))
        assert torch.allclose(found[0], functional.adjust_hue(image[0], turn), atol=1e-5)


def test_factors_fill_their_range() -> None:
    for step, low, high in ((Brightness(0.2), 0.8, 1.2), (Hue(0.1), -0.1, 0.1)):
        drawn = step.draw(4000, source())
        assert low <= drawn.min() < low + 0.01
        assert high - 0.01 < drawn.max() <= high


@pytest.mark.parametrize(("height", "width"), [(13, 17), (32, 32)])
def test_rotation_is_torchvisions_inside_the_image(height: int, width: int) -> None:
    given = images(3, height, width)
    found, parameters = applied(Geometry(degrees=180), given)
    angles = parameters[:, 6].rad2deg().tolist()
    assert max(angles) - min(angles) > 180
    for image, angle, got in zip(given, angles, found):

        def turned(x: Tensor, angle: float = angle) -> Tensor:
            return functional.rotate(x, angle, InterpolationMode.BILINEAR)

        # Beyond the image torchvision has black, and this the mirror image.
        inside = turned(torch.ones_like(image)) > 1 - 1e-4
        assert inside.float().mean() > 0.4
        assert torch.allclose(got[inside], turned(image)[inside], atol=2e-3)


@pytest.mark.parametrize("angle", [0.0, 25.0, -70.0])
def test_a_turned_crop_of_the_middle_is_torchvisions_affine_map(angle: float) -> None:
    given, side = images(3, 20, 20), 0.8
    start = (1 - side) / 2
    row = torch.tensor([[start, start, side, side, 1, 1, math.radians(angle)]])
    found = Geometry().apply(given, row.expand(BATCH, -1))
    for image, got in zip(given, found):

        def mapped(x: Tensor) -> Tensor:
            # torchvision turns clockwise here, and counter-clockwise in `rotate`.
            how = InterpolationMode.BILINEAR
            return functional.affine(x, -angle, [0, 0], 1 / side, [0.0], how)

        inside = mapped(torch.ones_like(image)) > 1 - 1e-4
        assert torch.allclose(got[inside], mapped(image)[inside], atol=2e-3)


def test_without_a_turn_it_is_the_light_crop() -> None:
    given = images()
    light = Light("both")
    crop = light.draw(BATCH, source())
    found = Geometry("both").apply(given, torch.cat([crop, torch.zeros(BATCH, 1)], dim=1))
    assert torch.allclose(found, light.apply(given, crop), atol=1e-5)


def test_beyond_the_border_lies_the_mirror_image() -> None:
    given = images(1, 16, 16)
    row = torch.tensor([[0.0, 0, 1, 1, 1, 1, math.radians(45)]]).expand(BATCH, -1)
    found = Geometry().apply(torch.ones_like(given), row)
    assert torch.allclose(found, torch.ones_like(given), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.7])
def test_blur_is_torchvisions(sigma: float) -> None:
    given, step = images(), Blur(sigma)
    found, drawn = applied(step, given)
    size = 2 * step.reach + 1
    for image, own, got in zip(given, drawn[:, 0].tolist(), found):
        assert torch.allclose(got, functional.gaussian_blur(image, size, own), atol=1e-5)
    assert torch.allclose(step.apply(given, torch.zeros(BATCH, 1)), given, atol=1e-6)


def test_erasing_is_torchvisions() -> None:
    given = images(3, 24, 24)
    found, drawn = applied(Erase(0.6), given)
    hit = 0
    for image, (left, top, width, height), got in zip(given, drawn.tolist(), found):
        i, j = round(top * 24), round(left * 24)
        h, w = round((top + height) * 24) - i, round((left + width) * 24) - j
        mean = image.mean(dim=(1, 2), keepdim=True)
        assert torch.allclose(got, functional.erase(image, i, j, h, w, mean), atol=1e-6)
        hit += w > 0
    assert 0 < hit < BATCH


def test_erased_rectangles_keep_their_bounds() -> None:
    left, top, width, height = Erase(0.3).draw(4000, source()).unbind(1)
    hit = width > 0
    assert 0.27 < hit.float().mean() < 0.33
    area = (width * height)[hit]
    assert 0.02 - 1e-6 <= area.min() < area.max() <= 0.1 + 1e-6
    assert (left + width).max() <= 1 + 1e-6
    assert (top + height).max() <= 1 + 1e-6


def test_a_chain_applies_its_steps_with_their_own_parameters() -> None:
    given = images(3, 16, 16)
    chain = medical(EVERYTHING, "both")
    assert len(chain.steps) == 7
    found, parameters = applied(chain, given)
    expected, start = given, 0
    for step in chain.steps:
        width = step.draw(1, source()).shape[1]
        expected = step.apply(expected, parameters[:, start : start + width])
        start += width
    assert start == parameters.shape[1]
    assert torch.equal(found, expected)
    assert torch.isfinite(found).all()
    assert 0 <= found.min() < found.max() <= 1 + 1e-5


@pytest.mark.parametrize(
    ("rule", "flip", "kinds"),
    [
        ({}, "none", []),
        ({}, "horizontal", [Geometry]),
        ({"rotate": 5.0}, "none", [Geometry]),
        ({"contrast": 0.1, "blur": 0.5}, "none", [Contrast, Blur]),
    ],
)
def test_steps_that_do_nothing_are_left_out(rule: Any, flip: Any, kinds: list[type]) -> None:
    chain = medical(parse(AugmentRule, rule), flip)
    assert [type(step) for step in chain.steps] == kinds
    given = images()
    assert chain.draw(BATCH, source()).shape[0] == BATCH
    if not kinds:
        assert applied(chain, given)[0] is given


@pytest.mark.parametrize("step", [medical(EVERYTHING, "both"), Chain(())])
def test_a_sample_is_changed_by_its_own_parameters_alone(step: Chain) -> None:
    given = images(3, 16, 16)
    found, parameters = applied(step, given)
    alone = step.apply(given[3:4], parameters[3:4])
    assert torch.allclose(alone[0], found[3], atol=1e-5)


@pytest.mark.parametrize(
    "rule", [{"rotate": 181}, {"crop": 0.0}, {"hue": 0.6}, {"brightness": -0.1}, {"shear": 1}]
)
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(FairtuneError, match=next(iter(rule))):
        parse(AugmentRule, rule)


def test_shipped_chest_images_are_not_mirrored_and_keep_their_grey() -> None:
    for name in ("chexpert", "nih-cxr14", "nih-cxr-64"):
        spec = load_spec(name)
        rule = spec.ranges()
        assert (spec.flip, rule.hue, rule.saturation, rule.erase) == ("none", 0, 0, 0)
        assert 0 < rule.rotate <= 15
    for name in ("ham10000", "ham10000_mini112"):
        spec = load_spec(name)
        assert (spec.flip, spec.ranges().rotate) == ("both", 180)


def test_kinds_of_augmentation(make: Any) -> None:
    plain, ruled = make(), make(augment={"rotate": 10})
    assert augmentation("none", ruled) is None
    assert augmentation("light", plain) == Light("none")
    assert augmentation("medical", ruled) == medical(ruled.ranges(), "none")
    with pytest.raises(ConfigError, match="declares no ranges"):
        augmentation("medical", plain)
    assert plain.augmentation != ruled.augmentation != make(augment={"rotate": 9}).augmentation
    assert ruled.augmentation == make(augment={"rotate": 10}).augmentation
    assert ruled.augmentation != make(augment={"rotate": 10}, flip="both").augmentation


@pytest.fixture
def pack(make: Any, tmp_path: Path) -> Pack:
    return open_pack(table_of(make()), image_size=8, cache=tmp_path / "cache")


def passes(pack: Pack, count: int, **changes: Any) -> list[dict[int, Tensor]]:
    """Return the image of every row in each of `count` passes."""
    given: dict[str, Any] = {
        "rows": pack.rows("train"),
        "batch_size": 3,
        "augment": medical(EVERYTHING, "both"),
        "copies": 2,
        "generator": source(changes.pop("seed", 0)),
    }
    given |= changes
    loader = Loader(pack, given.pop("rows"), mean=(0.0,) * 3, std=(1.0,) * 3, **given)
    return [
        {int(row): image for b in loader.epoch() for row, image in zip(b.row, b.image)}
        for _ in range(count)
    ]


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return all(torch.allclose(one[row], other[row], atol=1e-6) for row in one.keys() & other)


def test_fixed_copies_are_served_in_turn(pack: Pack) -> None:
    found = passes(pack, 5)
    assert same(found[0], found[2])
    assert same(found[0], found[4])
    assert same(found[1], found[3])
    assert not same(found[0], found[1])
    assert not any(
        torch.equal(a, b) for a, b in zip(found[0].values(), list(found[0].values())[1:])
    )


def test_a_copy_follows_from_its_row_alone(pack: Pack) -> None:
    rows = pack.rows("train")
    (plain,) = passes(pack, 1)
    for changes in ({"seed": 5}, {"batch_size": 1}, {"rows": rows[1:]}, {"copies": 4}):
        (other,) = passes(pack, 1, **changes)
        assert same(plain, other), changes
    assert set(other) == set(rows.tolist())


def test_a_batch_says_which_copy_it_is(pack: Pack) -> None:
    def said(**changes: Any) -> list[int | None]:
        loader = Loader(
            pack,
            pack.rows("train"),
            batch_size=10,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            generator=source(),
            **changes,
        )
        return [next(iter(loader.epoch())).copy for _ in range(4)]

    assert said(augment=Light(), copies=3) == [0, 1, 2, 0]
    assert said(augment=Light()) == said() == [None] * 4


def test_fixed_copies_leave_the_order_as_it_is(pack: Pack) -> None:
    def order(**changes: Any) -> list[int]:
        loader = Loader(
            pack,
            pack.rows("train"),
            batch_size=2,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            generator=source(),
            **changes,
        )
        return [r for _ in range(2) for b in loader.epoch() for r in b.row.tolist()]

    assert order() == order(augment=Light(), copies=2)


def test_augmentation_without_copies_is_drawn_anew(pack: Pack) -> None:
    found = passes(pack, 3, copies=0)
    assert not same(found[0], found[1])
    assert not same(found[0], found[2])
    assert not same(found[0], passes(pack, 1, copies=0, seed=1)[0])
    assert same(found[0], passes(pack, 1, copies=0)[0])
    assert np.isfinite(torch.stack(list(found[0].values())).numpy()).all()
