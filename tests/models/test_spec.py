from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fairtune.config import shipped
from fairtune.errors import ConfigError, FairtuneError, ModelError, Problems
from fairtune.models import load, names
from fairtune.models.loaders.timm_model import TimmModel

TEXT = """
title: A model
licence: MIT
citation: nobody
architecture: test_vit
image_size: {default: 64, multiple_of: 16}
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
units:
  types: {norm: [norm1, norm2], block: ["*"]}
  singles: {stem: [patch_embed, cls_token], pos: [pos_embed], final_norm: [norm]}
"""


def written(folder: Path, *changes: tuple[str, str]) -> str:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", names())
def test_shipped_specs_load_and_carry_their_file_name(name: str) -> None:
    spec = load(name)
    assert spec.name == name == shipped.find("models", name).stem
    assert spec.side() == spec.image_size.default
    assert len(spec.mean) == len(spec.std) == spec.channels


@pytest.mark.parametrize("name", [n for n in names() if isinstance(load(n).loader, TimmModel)])
def test_normalisation_is_what_timm_trained_with(name: str) -> None:
    from fairtune.models.network import pretrained_cfg

    spec = load(name)
    cfg = pretrained_cfg(spec.architecture)
    assert (cfg.mean, cfg.std) == (spec.mean, spec.std)


def test_a_spec_of_ones_own_is_read_from_a_path(tmp_path: Path) -> None:
    spec = load(written(tmp_path))
    assert (spec.name, spec.architecture, spec.weights) == ("mine", "test_vit", ())


def test_the_checkpoint_file_is_looked_up_beside_the_spec(tmp_path: Path) -> None:
    loader = "loader: {checkpoint: {file: w.safetensors}}\narchitecture"
    spec = load(written(tmp_path, ("architecture", loader)))
    assert spec.own_file == tmp_path / "w.safetensors"


def test_a_name_inside_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="called as its file"):
        load(written(tmp_path, ("title:", "name: other\ntitle:")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: A model", "titel: A model"), "did you mean 'title'"),
        (("architecture:", "loader: tim\narchitecture:"), "did you mean 'timm'"),
        (("default: 64", "default: 65"), "no multiple of"),
        (("mean: [0.5, 0.5, 0.5]", "mean: [0.5]"), "one number per channel"),
        (("std: [0.5, 0.5, 0.5]", "std: [0.5, 0, 0.5]"), "greater than 0"),
        (("norm: [norm1", "head: [norm1"), "reserved word"),
        (("norm: [norm1", "stem: [norm1"), "both a unit type and a single unit"),
        (("norm: [norm1", "Norm: [norm1"), "not a valid name"),
        (("[norm1, norm2]", "[]"), "at least 1 item"),
        (("units:", "weights: [hubb]\nunits:"), "did you mean 'hub'"),
        (("units:", "weights: [{wheel: {package: -r/etc}}]\nunits:"), "should match pattern"),
    ],
)
def test_faults_are_named_with_their_place(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with pytest.raises((ConfigError, Problems)) as caught:
        load(written(tmp_path, change))
    assert message in str(caught.value)
    assert "mine.yaml:" in str(caught.value)


def test_an_image_size_that_does_not_fit_names_its_neighbours() -> None:
    with pytest.raises(ModelError) as caught:
        load("vit_small_dinov2").side(100)
    assert "use 98 or 112" in str(caught.value)
    with pytest.raises(ModelError):
        load("vit_small_dinov2").side(0)


def test_an_unknown_model_suggests_the_closest() -> None:
    with pytest.raises(FairtuneError, match="did you mean 'vit_small_dinov2'"):
        load("vit_small_dino2")


def test_reading_specs_imports_nothing_heavy() -> None:
    code = (
        "import sys, fairtune.models, fairtune.models.weights, fairtune.models.units\n"
        "[fairtune.models.load(n) for n in fairtune.models.names()]\n"
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'onnx', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
