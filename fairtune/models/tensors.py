"""Weights files: read safely, brought to one canonical form, hashed.

Canonical form of a model's weights: timm's tensor names, no head, floating values as float32
(rounded to half precision first where the spec says so), in a safetensors file.
"""

from __future__ import annotations

import hashlib
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from fairtune.errors import FairtuneError, ModelError, raise_all
from fairtune.models.registries import Renames

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

Tensors = dict[str, torch.Tensor]

# What training scripts wrap a state dict in, and what they put before its names.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "net")
_PREFIXES = ("module.", "model.", "net.", "backbone.", "_orig_mod.")
# Resampled to the image size when the network is built, so any length is accepted here.
_POSITION = "pos_embed"
_HEADS = ("head", "head_dist", "classifier", "fc", "fc_norm")
# A DINOv2 checkpoint carries the token of its pretraining task, one of CLIP its other half.
_CLIP = ("text_model", "text_projection", "visual_projection", "logit_scale")
_DROPPED = (*_HEADS, "mask_token", *_CLIP)
_SHOWN = 5


def read(path: Path, inside: Callable[[Any, str], Any] | None = None) -> Tensors:
    """Read a weights file without running any code in it.

    Args:
        path: The file.
        inside: Takes what holds the tensors out of the content of a pickled file; None to look
            under the usual names.

    Raises:
        ModelError: No such file, a damaged one, or one that holds more than tensors.
    """
    if not path.is_file():
        raise ModelError("no such weights file", where=path)
    if path.suffix == ".safetensors":
        try:
            loaded: Tensors = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                "the weights file is damaged", where=path, found=_first_line(error)
            ) from None
        return loaded
    content = unpickled(path, str(path))
    return unwrapped(content if inside is None else inside(content, str(path)), str(path))


def unpickled(file: Path | BinaryIO, where: str) -> Any:
    """Read a file written by `torch.save`, refusing everything that could run code.

    Raises:
        ModelError: The file is damaged or holds more than tensors and plain values.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the weights file holds more than tensors, or is damaged, and was not opened",
            where=where,
            found=_first_line(error),
            allowed="safetensors, or a file that torch.load(weights_only=True) accepts",
            todo="if you trust it, load it yourself and save its state dict as safetensors",
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(
            "the weights file is damaged", where=where, found=_first_line(error)
        ) from None


def unwrapped(content: Any, where: str) -> Tensors:
    """Return the state dict that `content` is or holds under a usual name.

    Raises:
        ModelError: There is no mapping of names to tensors.
    """
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        if tensors:
            return tensors
    raise ModelError(
        "the file holds no tensors by name",
        where=where,
        found=type(content).__name__,
        allowed="a state dict, or a mapping that holds one under one of " + ", ".join(_WRAPPERS),
    )


def canonical(spec: ModelSpec, tensors: Tensors, where: str) -> Tensors:
    """Bring `tensors` to the canonical form for `spec`.

    Raises:
        ModelError: A tensor is missing, has another shape, is not finite, or is not the model's.
        Problems: Several of these.
    """
    outline = spec.outline(spec.side())
    expected: dict[str, torch.Tensor] = dict(outline.state_dict())
    if isinstance(spec.loader, Renames) and not set(expected) <= set(tensors):
        tensors = spec.loader.renamed(tensors, where)
    found = _without_prefix(tensors, expected)
    if not set(expected) <= set(found) or _other_channels(found, expected):
        found = _renamed(spec, found, expected, where)
    problems = list(_mismatches(found, expected, where))
    raise_all(f"the weights do not fit model '{spec.name}'", problems)
    return {
        name: _value(found[name], like, spec.rounding, f"{where} ({name})")
        for name, like in expected.items()
    }


def tensor_sha(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return SHA-256 (hex) over name, dtype, shape and little-endian values, by sorted name.

    Of canonical tensors this is the identity of a model's weights: it does not depend on the
    file format, the order of the tensors, or the source.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        sha.update(tensor.numpy().data if tensor.ndim else tensor.numpy().tobytes())
    return sha.hexdigest()


def write(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` as a safetensors file."""
    # Clones: safetensors refuses tensors that share memory or are views of a larger one.
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(own, path, metadata={"format": "pt", **(metadata or {})})


def _without_prefix(tensors: Tensors, expected: Mapping[str, Any]) -> Tensors:
    current = tensors
    for _ in _PREFIXES:
        if set(expected) <= set(current):
            return current
        for prefix in _PREFIXES:
            inner = {k[len(prefix) :]: v for k, v in current.items() if k.startswith(prefix)}
            if inner:
                current = inner
                break
    return current if set(expected) <= set(current) else tensors


def _other_channels(found: Tensors, expected: Mapping[str, torch.Tensor]) -> bool:
    pairs = [(found[name].shape, like.shape) for name, like in expected.items() if like.ndim == 4]
    return any(a != b and a[:1] == b[:1] and a[2:] == b[2:] and a[1] == 3 for a, b in pairs)


def _renamed(
    spec: ModelSpec, tensors: Tensors, expected: Mapping[str, Any], where: str
) -> Tensors:
    """Let timm rename the keys of a layout that it knows and adapt RGB weights to the channels."""
    tensors = {name: t for name, t in tensors.items() if name.split(".")[0] not in _HEADS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        write(tensors, file)
        try:
            net = spec.filled(None, file)
        except ModelError:
            missing = [name for name in expected if name not in tensors]
            if not missing:
                raise
            raise ModelError(
                f"{len(missing)} of the {len(expected)} tensors of model '{spec.name}' are "
                "missing from the weights",
                where=where,
                found=_some(list(tensors)),
                allowed=_some(missing),
                todo=f"give weights of '{spec.architecture}'",
            ) from None
    state: Tensors = dict(net.state_dict())
    return state


def _mismatches(
    found: Tensors, expected: Mapping[str, torch.Tensor], where: str
) -> list[FairtuneError]:
    problems: list[FairtuneError] = []
    for name, like in expected.items():
        shape, wanted = tuple(found[name].shape), tuple(like.shape)
        free = name.endswith(_POSITION) and len(shape) == len(wanted) and shape[-1] == wanted[-1]
        if shape != wanted and not free:
            problems.append(
                ModelError(
                    f"the tensor '{name}' has another shape",
                    where=where,
                    found=shape,
                    allowed=str(wanted),
                )
            )
    extra = [n for n in found if n not in expected and n.split(".")[0] not in _DROPPED]
    if extra:
        problems.append(
            ModelError(
                "the weights hold tensors that the architecture does not have",
                where=where,
                found=_some(extra),
                todo="merge adapters into the weights, or name the right architecture",
            )
        )
    return problems


def _value(tensor: torch.Tensor, like: torch.Tensor, rounding: str, where: str) -> torch.Tensor:
    if not like.is_floating_point():
        return tensor.to(like.dtype)
    value = tensor.to(torch.float32)
    if rounding == "fp16":
        value = value.to(torch.float16).to(torch.float32)
    if not bool(torch.isfinite(value).all()):
        raise ModelError(
            "the tensor holds NaN or values that are not finite",
            where=where,
            todo="use an undamaged file" if rounding == "none" else "set 'rounding: none'",
        )
    return value


def _some(names: list[str]) -> list[str]:
    more = len(names) - _SHOWN
    return names[:_SHOWN] + ([f"... and {more} more"] if more > 0 else [])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
