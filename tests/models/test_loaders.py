"""Every model loader, and what the model file of an endpoint may say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kit_blip import LOADERS as BLIPS
from kit_endpoints import DIM, written
from kit_nets import CLIP_SIZES
from safetensors.torch import save_file

from fairtune.config import settings
from fairtune.config.registry import written as as_written
from fairtune.errors import ConfigError, FairtuneError, ModelError, Problems
from fairtune.models import load, weights
from fairtune.models.backbone import build, describe
from fairtune.models.registries import LOADERS
from fairtune.models.spec import ModelSpec

TEXT_SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 8,
}
HTTP = {"url": "https://example.org/embed", "version": "1", "dim": DIM}
FIELDS: dict[str, Any] = {
    "checkpoint": {"file": "w.safetensors", "rule": {"state_key": "model", "drop": ["^fc"]}},
    "clip": {"image": CLIP_SIZES, "text": TEXT_SIZES, "dim": 8},
    "http": HTTP,
    "open_clip": {
        "config": {
            "embed_dim": 8,
            "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
            "text_cfg": {"layers": 2, "width": 16, "heads": 2, "vocab_size": 20},
        }
    },
    "siglip": {"image": CLIP_SIZES, "text": TEXT_SIZES},
    "timm": {},
    "transformers": CLIP_SIZES,
    "two_towers": {"image": "test_vit", "text": TEXT_SIZES, "dim": 8},
    "blip": BLIPS["blip"],
    "blip2": BLIPS["blip2"],
}
URL = "https://example.org/embed"


def spec_of(name: str) -> ModelSpec:
    family = {"transformers": "clip_vit_base_patch16"}.get(name, "test_vit")
    return load(family).model_copy(update={"loader": LOADERS.parse({name: FIELDS[name]})})


@pytest.mark.parametrize("name", LOADERS.names())
def test_a_loader_is_read_as_it_is_written(name: str) -> None:
    made = LOADERS.parse({name: FIELDS[name]})
    assert LOADERS.parse(as_written(made)) == made
    if hasattr(made, "beside"):
        there = made.beside(Path("/there"))
        assert there.beside(Path("/there")) == there


@pytest.mark.parametrize("name", LOADERS.names())
def test_an_outline_has_the_tensors_of_what_is_made(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    outline = spec.outline(32)
    shapes = {key: value.shape for key, value in outline.state_dict().items()}
    if spec.endpoint is None:
        full = spec.seeded(32, 0)
        same = spec.seeded(32, 0)
        for key, value in full.state_dict().items():
            assert torch.equal(value, same.state_dict()[key])
    else:
        full = spec.filled(32, tmp_path / "answers.sqlite")
        assert re.fullmatch("[0-9a-f]{64}", spec.endpoint)
        assert bytes(full.state_dict()["identity"].tolist()).hex() == spec.endpoint
        with pytest.raises(ModelError, match="cannot be initialised at random"):
            spec.seeded(32, 0)
    assert {key: value.shape for key, value in full.state_dict().items()} == shapes
    assert isinstance(full.num_features, int)


def test_the_model_file_of_an_endpoint_needs_no_mean_and_no_units(tmp_path: Path) -> None:
    spec = load(str(written(tmp_path, URL)))
    assert (spec.mean, spec.std, spec.channels) == ((0.0,) * 3, (1.0,) * 3, 3)
    assert (spec.units.types, describe(spec).names) == ({}, ())
    grey = load(str(written(tmp_path, URL, more="channels: 1\n")))
    assert (grey.mean, grey.std) == ((0.0,), (1.0,))
    one_way = "mean: [0.5, 0.5, 0.5]\n"
    assert load(str(written(tmp_path, URL, more=one_way))).mean == (0.5,) * 3
    again = ModelSpec.model_validate(spec.to_json())
    assert again == spec


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("units: {types: {norm: [norm1]}}\n", "fits no tensor"),
        ("mean: [0.5]\n", "one number per channel"),
        ("channels: 9\n", "less than or equal to 4"),
    ],
)
def test_what_does_not_fit_an_endpoint_is_said(more: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(FairtuneError, match=said):
        describe(load(str(written(tmp_path, URL, more=more))))


def test_a_network_still_needs_mean_and_units(tmp_path: Path) -> None:
    path = written(tmp_path, URL)
    text = path.read_text()
    path.write_text(text[: text.index("loader:")])
    with pytest.raises(Problems) as caught:
        load(str(path))
    assert {"mean", "std", "units"} <= set(re.findall(r"\b(mean|std|units)\b", str(caught.value)))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("example.org/embed", "not a URL of an endpoint"),
        ("ftp://example.org/embed", "not a URL of an endpoint"),
        ("https:///embed", "not a URL of an endpoint"),
        ("https://example.org/embed#x", "not a URL of an endpoint"),
        ("https://example.org:port/embed", "not a URL"),
        ("https://me:hunter2@example.org/embed", "no user and password"),
        ("https://me@example.org/embed", "no user and password"),
        ("https://example.org/embed?api_key=hunter2", "no key or password"),
        ("https://example.org/embed?model=x&Token=hunter2", "no key or password"),
    ],
)
def test_a_url_with_a_secret_or_none_is_refused(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, Problems), match=said) as caught:
        load(str(written(tmp_path, url)))
    assert "hunter2" not in str(caught.value)
    assert "far.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://far.example.org/embed", False),
        ("http://10.1.2.3:80/embed", False),
        ("http://localhost:80/embed", True),
        ("http://127.0.0.2:80/embed", True),
        ("http://[::1]:80/embed", True),
        ("https://far.example.org/embed?api-version=3", True),
    ],
)
def test_a_token_goes_over_https_or_to_this_machine(
    url: str, allowed: bool, tmp_path: Path
) -> None:
    assert load(str(written(tmp_path, url))).loader.url == url
    if allowed:
        assert load(str(written(tmp_path, url, token_env="MY_TOKEN"))).loader.token_env
        return
    with pytest.raises((ConfigError, Problems), match="in the clear"):
        load(str(written(tmp_path, url, token_env="MY_TOKEN")))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dim": 0}, "greater than or equal to 1"),
        ({"version": ""}, "at least 1 character"),
        ({"version": 2026.1}, "string"),
        ({"send": "png"}, "'npy' or 'json'"),
        ({"pixels": "uint16"}, "'float32' or 'uint8'"),
        ({"retries": -1}, "greater than or equal to 0"),
        ({"timeout": 0}, "greater than 0"),
        ({"token_env": "no name"}, "match pattern"),
        ({"token": "hunter2"}, "token"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, Problems)) as caught:
        load(str(written(tmp_path, URL, **fields)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"url": "https://example.org/other"}, False),
        ({"version": "2"}, False),
        ({"dim": 65}, False),
        ({"pixels": "uint8"}, False),
        ({"field": "logits"}, False),
        ({"batch": 8}, True),
        ({"timeout": 1.0, "retries": 0, "backoff": 0.0, "per_second": 3.0}, True),
        ({"token_env": "MY_TOKEN"}, True),
    ],
)
def test_the_identity_is_of_what_answers_and_not_of_how_it_is_asked(
    change: dict[str, Any], same: bool
) -> None:
    one, other = (LOADERS.parse({"http": {**HTTP, **more}}) for more in ({}, change))
    assert (one.identity == other.identity) is same


def test_the_weights_of_an_endpoint_are_its_identity(tmp_path: Path) -> None:
    spec = load(str(written(tmp_path, URL)))
    env = settings({"FAIRTUNE_CACHE": str(tmp_path / "cache")})
    held = weights.resolve(spec, "auto", env)
    assert held is not None
    assert held.sha == spec.endpoint
    assert held == weights.pull(spec, env)
    assert held.path == tmp_path / "cache" / "answers" / held.sha / "answers.sqlite"
    assert not held.path.exists()
    build(spec, None, held)
    assert held.path.is_file()
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    for choice in ("none", str(file)):
        with pytest.raises(ModelError, match="behind an endpoint"):
            weights.resolve(spec, choice, env)
    with pytest.raises(ModelError, match="behind an endpoint"):
        weights.pull(spec, env, file)
    with pytest.raises(ModelError, match="pinned"):
        weights.resolve(spec, "auto", env, expected="0" * 64)
    with pytest.raises(ModelError, match="at random"):
        build(spec, None, None)


def test_reading_the_file_of_an_endpoint_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, fairtune.models\n"
        f"fairtune.models.load({str(written(tmp_path, URL))!r}).endpoint\n"
        "heavy = {'torch', 'timm', 'numpy', 'urllib3', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
