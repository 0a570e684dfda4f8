"""The value of an edit, how it acts on images, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairtune.editing.edit import Edit, applied, shown
from fairtune.editing.stored import read_edit, to_bytes
from fairtune.errors import ModelError


def some(channels: int = 1, m: int = 4, size: int = 8, clamp: bool = True, seed: int = 0) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    value = 0.1 * torch.randn(channels, m, m, generator=generator)
    return Edit(value, size, clamp, {"attribute": "sex"})


@given(m=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_cell_fills_pixels_of_its_own(m: int, seed: int) -> None:
    value = torch.randn(2, m, m, generator=torch.Generator().manual_seed(seed))
    full = shown(value, 9)
    assert full.shape == (2, 9, 9)
    at = np.floor(np.arange(9) * m / 9).astype(int)
    assert torch.equal(full, value[:, at][:, :, at])


def test_a_grid_that_divides_the_side_keeps_norms() -> None:
    edit = some(m=4, size=8)
    flat = edit.value.double()
    assert edit.norms()["rms"] == pytest.approx(255 * float(flat.square().mean().sqrt()))
    assert edit.norms()["linf"] == pytest.approx(255 * float(flat.abs().max()))
    assert edit.norms()["l2"] == pytest.approx(2 * float(flat.norm()))


@given(clamp=st.booleans(), seed=st.integers(0, 20))
def test_an_edited_image_is_the_sum_and_with_clamp_an_image(clamp: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 3, 8, 8, generator=generator)
    edit = some(m=8, clamp=clamp, seed=seed)
    got = edit.on("cpu")(image)
    plain = image + edit.value
    assert torch.equal(got, plain.clamp(0, 1) if clamp else plain)
    assert torch.equal(applied(image, edit.full, clamp), got)
    if clamp:
        assert float(got.min()) >= 0
        assert float(got.max()) <= 1


def test_the_file_says_all_that_acts(tmp_path: Path) -> None:
    for edit in (some(), some(channels=3, clamp=False, size=9)):
        path = tmp_path / "edit.safetensors"
        path.write_bytes(to_bytes(edit))
        back = read_edit(path)
        assert torch.equal(back.value, edit.value)
        assert (back.image_size, back.clamp, dict(back.about)) == (
            edit.image_size,
            edit.clamp,
            dict(edit.about),
        )
        assert back.sha == edit.sha


def test_the_digest_follows_what_acts_and_nothing_else() -> None:
    edit = some()
    assert Edit(edit.value, edit.image_size, edit.clamp, {"other": 1}).sha == edit.sha
    others = {
        Edit(edit.value * 2, 8).sha,
        Edit(edit.value, 16).sha,
        Edit(edit.value, 8, clamp=False).sha,
        edit.sha,
    }
    assert len(others) == 4


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(4, 4), "not the shape of an edit"),
        (torch.zeros(1, 4, 3), "not the shape of an edit"),
        (torch.zeros(1, 9, 9), "not the shape of an edit"),
        (torch.full((1, 2, 2), float("nan")), "not finite"),
    ],
)
def test_what_is_no_edit_is_refused(value: torch.Tensor, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Edit(value, 8)


def test_images_it_was_not_made_for_are_refused() -> None:
    some().check(8, 3)
    with pytest.raises(ModelError, match="another image size"):
        some().check(16, 3)
    with pytest.raises(ModelError, match="another number of channels"):
        some(channels=3).check(8, 1)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 100])
def test_a_damaged_file_is_refused_in_one_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "edit.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="holds no edit"):
        read_edit(path)


def test_other_tensors_are_no_edit(tmp_path: Path) -> None:
    from safetensors.torch import save

    path = tmp_path / "edit.safetensors"
    path.write_bytes(save({"noise": torch.zeros(1, 2, 2)}))
    with pytest.raises(ModelError, match="holds no edit"):
        read_edit(path)


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such edit file"):
        read_edit(tmp_path / "none.safetensors")
    path = tmp_path / "edit.png"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="not a format of edits"):
        read_edit(path)
