"""Foreign weight layouts, renamed and reshaped into timm's.

Only tensors are read: no code that comes with the files is run.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from fairtune.errors import ModelError
from fairtune.models import tensors as tensors_
from fairtune.models.tensors import Tensors

if TYPE_CHECKING:
    import onnx

    from fairtune.models.spec import ModelSpec

_BLOCK = "backbone.encoder.layer.{i}."
_NODE = "/backbone/encoder/layer.{i}/"
_EMBEDDINGS = "/backbone/embeddings/"
# timm's name below its block: name of the initialiser below its layer.
_SAME = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}
# Linear weights are anonymous constants, stored (in, out): only the MatMul node has a name.
_MATMUL = {
    "attn.proj.weight": "attention/output/dense",
    "mlp.fc1.weight": "mlp/fc1",
    "mlp.fc2.weight": "mlp/fc2",
}
_QKV = ("query", "key", "value")


def timm_layout(content: bytes, spec: ModelSpec) -> Tensors:
    """Read a pickled state dict with timm's own names, tensors only.

    Raises:
        ModelError: It is damaged or holds more than tensors.
    """
    return _state_dict(content)


def positional(content: bytes, spec: ModelSpec) -> Tensors:
    """Read a pickled state dict with timm's order and shapes but other names.

    Tensors after the last one of the headless network belong to the head and are left out.

    Raises:
        ModelError: Number or shapes do not fit the architecture of `spec`.
    """
    found = _state_dict(content)
    expected = spec.outline(spec.side()).state_dict()
    renamed = dict(zip(expected, found.values()))
    wrong = [name for name, tensor in renamed.items() if tensor.shape != expected[name].shape]
    if wrong or len(renamed) < len(expected):
        raise ModelError(
            f"the tensors are not those of '{spec.architecture}' in the same order",
            found=wrong[:5] or f"{len(renamed)} tensors",
            allowed=f"{len(expected)} tensors",
        )
    return renamed


def dinov2_onnx(content: bytes, spec: ModelSpec) -> Tensors:
    """Read the initialisers of an ONNX export of a Hugging Face DINOv2 model.

    The class token is stored apart from its position, and the patch positions apart from both:
    `pos_embed = [class position ; patch positions]`. Parts of the graph outside `backbone`
    are left out.

    Raises:
        ModelError: The graph is damaged or lacks one of the initialisers.
    """
    graph = _graph(content)
    held = {item.name: item for item in graph.initializer}
    by_node = {node.name: held[name] for node in graph.node for name in node.input if name in held}
    try:
        out = {
            "cls_token": _array(held["backbone.embeddings.cls_token"]),
            "pos_embed": _positions(graph, held),
            "norm.weight": _array(held["backbone.layernorm.weight"]),
            "norm.bias": _array(held["backbone.layernorm.bias"]),
        }
        for part in ("weight", "bias"):
            name = f"backbone.embeddings.patch_embeddings.projection.{part}"
            out[f"patch_embed.proj.{part}"] = _array(held[name])
        for i in range(_depth(held)):
            block = _block(held, by_node, i)
            out.update({f"blocks.{i}.{name}": tensor for name, tensor in block.items()})
    except KeyError as error:
        raise ModelError("the ONNX graph lacks an initialiser", found=error.args[0]) from None
    return out


def safetensors_layout(content: bytes, spec: ModelSpec) -> Tensors:
    """Read safetensors with names of their own.

    Raises:
        ModelError: The file is damaged.
    """
    try:
        held: Tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ModelError("the weights file is damaged", found=str(error)) from None
    return held


LAYOUTS: dict[str, Callable[[bytes, ModelSpec], Tensors]] = {
    "timm": timm_layout,
    "positional": positional,
    "dinov2_onnx": dinov2_onnx,
    "safetensors": safetensors_layout,
}


def _state_dict(content: bytes) -> Tensors:
    return tensors_.unwrapped(tensors_.unpickled(io.BytesIO(content), "<wheel>"), "<wheel>")


def _graph(content: bytes) -> onnx.GraphProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph: onnx.GraphProto = onnx.load_model_from_string(content).graph
    except DecodeError as error:
        raise ModelError("the ONNX file is damaged", found=str(error)) from None
    if any(item.data_location == onnx.TensorProto.EXTERNAL for item in graph.initializer):
        raise ModelError("the ONNX file names other files, which are not read")
    return graph


def _array(item: onnx.TensorProto) -> torch.Tensor:
    from onnx import numpy_helper

    return torch.from_numpy(numpy_helper.to_array(item).copy())


def _depth(held: Mapping[str, object]) -> int:
    pattern = re.compile(r"backbone\.encoder\.layer\.(\d+)\.norm1\.weight\Z")
    return sum(pattern.match(name) is not None for name in held)


def _block(
    held: Mapping[str, onnx.TensorProto], by_node: Mapping[str, onnx.TensorProto], i: int
) -> Tensors:
    initialiser, node = _BLOCK.format(i=i), _NODE.format(i=i)
    out = {name: _array(held[initialiser + theirs]) for name, theirs in _SAME.items()}
    for name, theirs in _MATMUL.items():
        out[name] = _array(by_node[f"{node}{theirs}/MatMul"]).T
    inner = "attention/attention/"
    weights = [_array(by_node[f"{node}{inner}{part}/MatMul"]).T for part in _QKV]
    biases = [_array(held[f"{initialiser}attention.attention.{part}.bias"]) for part in _QKV]
    out["attn.qkv.weight"], out["attn.qkv.bias"] = torch.cat(weights), torch.cat(biases)
    return out


def _positions(graph: onnx.GraphProto, held: Mapping[str, onnx.TensorProto]) -> torch.Tensor:
    # Told apart by the node that uses them: Concat takes the class position, Reshape the rest.
    found: dict[str, torch.Tensor] = {}
    for node in graph.node:
        for name in node.input:
            if node.name.startswith(_EMBEDDINGS) and name in held and len(held[name].dims) == 3:
                found.setdefault(node.op_type, _array(held[name]))
    return torch.cat([found["Concat"], found["Reshape"]], dim=1)
