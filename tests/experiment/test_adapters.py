"""Runs that trained by adapters: restored exactly, merged for timm, loaded through peft alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from kit import session, tiny_recipe
from kit_nets import with_fields
from kit_tiny import MINIMUM
from peft import PeftModel

from fairtune.adaptation.methods import METHODS
from fairtune.errors import ModelError
from fairtune.experiment.checkpoint import Restored, export_peft, merged, restore
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job

JUDGE = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})
BY_PEFT = (
    "lora", "rslora", "dora", "adalora", "loha", "lokr", "oft", "boft", "ia3", "vera", "fourierft",
)  # fmt: skip
MIXED = {"attn": {"lora": {"rank": 2, "targets": "qv"}}, "mlp": "ssf", "final_norm": "ln_tuning"}


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def made(held: Session, folder: Path, method: Any, mask: str = "block:0+5") -> StoredRun:
    adaptation = {"mask": mask, "method": method}
    changes: dict[str, Any] = {"optim__epochs": 1, "optim__lr": 0.05}
    recipe = held.resolve(tiny_recipe(adaptation=adaptation, **changes))
    return run(Job(recipe, Seeds(data=1, init=2)), held, Runs(folder), JUDGE, keep_weights=True)


def batch(restored: Restored) -> tuple[torch.Tensor, np.ndarray]:
    rows = restored.ground.pack.rows("val")[:32]
    (only,) = restored.ground.loader(rows, 64, edit=None).epoch(shuffle=False)
    return only.image, restored.score(rows)


def plain(restored: Restored) -> torch.nn.Module:
    """The pretrained network as timm makes it, with a head that says nothing."""
    net = timm.create_model("test_vit", num_classes=1, img_size=32)
    state = restored.ground.backbone.net.state_dict()
    missing = net.load_state_dict(state, strict=False)
    assert set(missing.missing_keys) == {"head.weight", "head.bias"}
    assert not missing.unexpected_keys
    return net.eval()


@pytest.mark.parametrize("method", [MIXED, with_fields("vpt"), with_fields("adaptformer")])
def test_a_restored_run_scores_as_it_did(held: Session, tmp_path: Path, method: Any) -> None:
    one = made(held, tmp_path, method)
    restored = restore(one, held)
    stored = np.load(one.folder / "val_scores.npy")[-1]
    assert np.array_equal(restored.score(restored.ground.pack.rows("val")), stored)
    assert stored.std() > 0


def test_a_mixed_run_is_merged_into_a_plain_state_dict(held: Session, tmp_path: Path) -> None:
    restored = restore(made(held, tmp_path, MIXED, "block:0+5,final_norm"), held)
    before = {n: p.clone() for n, p in restored.ground.backbone.net.named_parameters()}
    state = merged(restored)
    net = timm.create_model("test_vit", num_classes=1, img_size=32)
    net.load_state_dict(state, strict=True)
    image, scores = batch(restored)
    with torch.inference_mode():
        assert np.abs(net.eval()(image).numpy() - scores).max() < 1e-5
    changed = {n for n in before if not torch.equal(state[n], before[n])}
    assert {"blocks.0.attn.qkv.weight", "blocks.5.mlp.fc2.bias", "norm.weight"} <= changed
    assert not any(n.startswith("blocks.1.") for n in changed)
    now = dict(restored.ground.backbone.net.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in before.items())
    assert set(merged(restored)) == set(state), "merging twice must be merging once"


@pytest.mark.parametrize("method", ["vpt", "adaptformer"])
def test_what_cannot_be_merged_says_so(held: Session, tmp_path: Path, method: str) -> None:
    restored = restore(made(held, tmp_path, with_fields(method), "block:5"), held)
    with pytest.raises(ModelError, match="cannot be merged into plain weights") as caught:
        merged(restored)
    assert "which no weight can hold" in str(caught.value.found)


def test_the_methods_tested_here_are_those_of_peft() -> None:
    assert set(BY_PEFT) < set(METHODS)
    own = {"direct", "bitfit", "ln_tuning", "ssf", "adaptformer", "vpt"}
    assert set(METHODS) - set(BY_PEFT) == own


@pytest.mark.parametrize("method", BY_PEFT)
def test_peft_alone_loads_the_folder(held: Session, tmp_path: Path, method: str) -> None:
    restored = restore(made(held, tmp_path, with_fields(method)), held)
    folder = tmp_path / "adapter"
    export_peft(restored, folder)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    net = plain(restored)
    image, scores = batch(restored)
    with torch.inference_mode():
        bare = net(image).numpy()
        loaded = PeftModel.from_pretrained(net, str(folder)).eval()
        assert np.abs(loaded(image).numpy() - scores).max() < 1e-5
    assert np.abs(bare - scores).max() > 1e-3
    said = json.loads((folder / "adapter_config.json").read_text())
    assert str(tmp_path) not in json.dumps(said)


def test_equal_methods_of_two_types_make_one_adapter(held: Session, tmp_path: Path) -> None:
    method = {"attn": {"lora": {"rank": 2}}, "mlp": {"lora": {"rank": 2}}}
    restored = restore(made(held, tmp_path, method, "attn:5,mlp:5"), held)
    export_peft(restored, tmp_path / "adapter")
    image, scores = batch(restored)
    loaded = PeftModel.from_pretrained(plain(restored), str(tmp_path / "adapter")).eval()
    with torch.inference_mode():
        assert np.abs(loaded(image).numpy() - scores).max() < 1e-5


@pytest.mark.parametrize(
    ("method", "mask", "words"),
    [
        ("direct", "attn:5", "direct"),
        ({"attn": "lora"}, "attn:5,norm:5", "direct on the mask"),
        ({"lora": {"rank": 2, "targets": "qv"}}, "attn:5", "lora"),
        ({"attn": "lora", "mlp": "ia3"}, "attn:5,mlp:5", "several peft methods"),
        ({"attn": "lora", "mlp": {"lora": {"rank": 2}}}, "attn:5,mlp:5", "several peft methods"),
    ],
)
def test_what_is_no_adapter_of_peft_says_so(
    held: Session, tmp_path: Path, method: Any, mask: str, words: str
) -> None:
    restored = restore(made(held, tmp_path, method, mask), held)
    with pytest.raises(ModelError) as caught:
        export_peft(restored, tmp_path / "adapter")
    assert words in str(caught.value)
    assert "--format safetensors" in str(caught.value)
    assert not (tmp_path / "adapter").exists()


def test_a_stored_adapter_that_does_not_fit_is_refused(held: Session, tmp_path: Path) -> None:
    one = made(held, tmp_path, {"lora": {"rank": 2}}, "attn:5")
    other = copy.deepcopy(one.recipe.to_json())
    other["adaptation"]["method"] = {"lora": {"rank": 4}}
    recipe = type(one.recipe).model_validate(other)
    with pytest.raises(ModelError, match="another shape"):
        restore(one, held, recipe)
