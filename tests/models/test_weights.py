from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairtune.config import Settings, settings
from fairtune.errors import FairtuneError, ModelError, Problems
from fairtune.models import ModelSpec, load
from fairtune.models.backbone import build
from fairtune.models.tensors import tensor_sha
from fairtune.models.weights import Weights, cached, from_file, pull, resolve, sized, verify

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings({"FAIRTUNE_CACHE": str(tmp_path / "cache"), "FAIRTUNE_OFFLINE": "1"})


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load("test_vit")


@pytest.fixture(scope="module")
def state(spec: ModelSpec) -> Tensors:
    return dict(spec.seeded(160, 3).state_dict())


def kept(state: Tensors, folder: Path, name: str = "w.safetensors") -> Path:
    save_file({k: v.clone() for k, v in state.items()}, folder / name)
    return folder / name


def test_none_is_only_ever_asked_for(spec: ModelSpec, here: Settings) -> None:
    assert resolve(spec, "none", here) is None
    with pytest.raises(ModelError) as caught:
        resolve(spec, "auto", here)
    assert "names none" in str(caught.value)
    assert "fairtune models pull test_vit --from FILE" in str(caught.value)
    assert "PIP_INDEX_URL" not in str(caught.value)


def test_a_file_is_stored_once_and_canonical(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    file = kept(state, tmp_path)
    weights = resolve(spec, str(file), here)
    assert weights is not None
    assert weights.source == "file w.safetensors"
    assert str(tmp_path) not in weights.source
    held = load_file(weights.path)
    assert weights.sha == tensor_sha(held) == tensor_sha(state)
    before = weights.path.stat().st_mtime_ns
    assert resolve(spec, str(file), here) == weights
    assert weights.path.stat().st_mtime_ns == before


def test_the_hash_does_not_depend_on_the_file_format(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    expected = from_file(spec, kept(state, tmp_path), here).sha
    backwards = dict(reversed(list(state.items())))
    wrapped: list[Any] = [
        backwards,
        {"state_dict": state, "epoch": 3},
        {"model": {f"module.{k}": v for k, v in state.items()}},
        {f"module.backbone.{k}": v for k, v in state.items()},
        {**state, "head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)},
        {k: v.double() for k, v in state.items()},
        {f"visual.trunk.{k}": v for k, v in state.items()},
    ]
    for i, content in enumerate(wrapped):
        torch.save(content, tmp_path / f"{i}.pt")
        assert from_file(spec, tmp_path / f"{i}.pt", here).sha == expected


def test_rgb_weights_are_adapted_to_one_channel(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    grey = spec.model_copy(update={"channels": 1, "mean": (0.5,), "std": (0.5,)})
    weights = from_file(grey, kept(state, tmp_path), here)
    net = build(grey, 64, weights)
    first = "patch_embed.proj.weight"
    assert torch.allclose(net.tensors()[first], state[first].sum(1, keepdim=True), atol=1e-6)
    assert net.embed(torch.zeros(1, 1, 64, 64)).shape == (1, 64)


def test_one_changed_value_changes_the_hash(state: Tensors) -> None:
    other = {k: v.clone() for k, v in state.items()}
    other["norm.bias"][0] += 1e-6
    renamed = {("x" if k == "norm.bias" else k): v for k, v in state.items()}
    reshaped = {k: v.reshape(-1, 1) if k == "norm.bias" else v for k, v in state.items()}
    assert len({tensor_sha(s) for s in (state, other, renamed, reshaped)}) == 4


def test_rounding_makes_a_half_precision_copy_the_same_weights(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    full = kept(state, tmp_path)
    half = kept({k: v.half() for k, v in state.items()}, tmp_path, "half.safetensors")
    assert from_file(spec, full, here).sha != from_file(spec, half, here).sha
    rounded = spec.model_copy(update={"rounding": "fp16"})
    one, other = from_file(rounded, full, here), from_file(rounded, half, here)
    assert one.sha == other.sha
    large = {k: v + 1e6 if k == "norm.bias" else v for k, v in state.items()}
    with pytest.raises(ModelError, match="not finite"):
        from_file(rounded, kept(large, tmp_path, "large.safetensors"), here)


def test_positions_of_another_size_are_resampled(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    weights = from_file(spec, kept(state, tmp_path), here)
    assert load_file(weights.path)["pos_embed"].shape == (1, 101, 64)
    for side in (64, 32):
        positions = load_file(sized(spec, side, weights))["pos_embed"]
        assert positions.shape == (1, 1 + (side // 16) ** 2, 64)
        assert dict(build(spec, side, weights).net.state_dict())["pos_embed"].equal(positions)


def test_pull_makes_auto_find_the_file(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    assert cached(spec, here) is None
    weights = pull(spec, here, kept(state, tmp_path))
    assert cached(spec, here) == weights == resolve(spec, "auto", here)
    other = {**state, "norm.bias": torch.ones(64)}
    again = pull(spec, here, kept(other, tmp_path, "other.safetensors"))
    assert resolve(spec, "auto", here) == again != weights


def test_a_damaged_store_is_not_used(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    file = kept(state, tmp_path)
    weights = pull(spec, here, file)
    weights.path.write_bytes(weights.path.read_bytes()[:-1])
    assert cached(spec, here) is None
    assert resolve(spec, str(file), here) == weights
    assert cached(spec, here) == weights


def test_the_checkpoint_loader_uses_its_own_file(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    from fairtune.models.loaders.checkpoint import Checkpoint

    own = spec.model_copy(update={"loader": Checkpoint(file=kept(state, tmp_path))})
    weights = resolve(own, "auto", here)
    assert weights is not None
    assert weights.sha == tensor_sha(state)
    with pytest.raises(ModelError, match="not the weights that were pinned"):
        resolve(own, "auto", here, expected="0" * 64)
    gone = spec.model_copy(update={"loader": Checkpoint(file=tmp_path / "gone.pt")})
    with pytest.raises(ModelError, match="no such weights file"):
        resolve(gone, "auto", here)


def test_verify_refuses_other_weights() -> None:
    weights = Weights(Path("x"), "a" * 64, "file x", Path("c"), 1.0)
    verify(weights, "a" * 64)
    verify(None, None)
    for found, expected in ((weights, "b" * 64), (None, "a" * 64), (weights, None)):
        with pytest.raises(ModelError, match="pinned"):
            verify(found, expected)


class Unsafe:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of a weights file was run')",))


def damaged(state: Tensors, folder: Path) -> dict[str, tuple[Path, str]]:
    files = {name: folder / name for name in ("unsafe.pt", "text.pt", "cut.safetensors", "no.pt")}
    torch.save({"state_dict": state, "extra": Unsafe()}, files["unsafe.pt"])
    files["text.pt"].write_text("not a checkpoint")
    files["cut.safetensors"].write_bytes(kept(state, folder).read_bytes()[:1000])
    torch.save({"epoch": 3}, files["no.pt"])
    says = {
        "unsafe.pt": "holds more than tensors",
        "text.pt": "more than tensors, or is damaged",
        "cut.safetensors": "is damaged",
        "no.pt": "holds no tensors by name",
    }
    return {name: (path, says[name]) for name, path in files.items()}


def test_damaged_and_unsafe_files_are_refused(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    for name, (path, message) in damaged(state, tmp_path).items():
        with pytest.raises(ModelError) as caught:
            from_file(spec, path, here)
        assert message in str(caught.value), name
        assert name in str(caught.value)
    with pytest.raises(ModelError, match="no such weights file"):
        from_file(spec, tmp_path / "absent.pt", here)
    assert not list((here.cache / "weights").glob("[!.]*"))


def test_weights_of_another_model_are_refused(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    def refused(content: Tensors) -> str:
        with pytest.raises((ModelError, Problems)) as caught:
            from_file(spec, kept(content, tmp_path), here)
        return str(caught.value)

    renamed = {k.replace("norm1", "ln_1"): v for k, v in state.items()}
    assert "12 of the 78 tensors" in refused(renamed)
    assert "blocks.0.norm1.weight" in refused(renamed)
    longer = {**state, "norm.bias": torch.zeros(65), "norm.weight": torch.zeros(65)}
    assert "2 problems" in refused(longer)
    assert "'norm.bias' has another shape" in refused(longer)
    extra = {**state, "blocks.0.attn.qkv.lora_A": torch.zeros(4, 64)}
    assert "merge adapters" in refused(extra)
    spoilt = {**state, "norm.bias": torch.full((64,), float("nan"))}
    assert "NaN" in refused(spoilt)


def test_only_matching_sources_are_taken_for_a_pinned_hash(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    weights = pull(spec, here, kept(state, tmp_path))
    assert resolve(spec, "auto", here, expected=weights.sha) == weights
    with pytest.raises(FairtuneError, match="no weights for model"):
        resolve(spec, "auto", here, expected="0" * 64)


def test_the_record_names_no_path_of_this_machine(
    spec: ModelSpec, state: Tensors, here: Settings, tmp_path: Path
) -> None:
    pull(spec, here, kept(state, tmp_path))
    for record in (here.cache / "weights").rglob("*.json"):
        assert str(tmp_path) not in record.read_text()
        json.loads(record.read_text())
