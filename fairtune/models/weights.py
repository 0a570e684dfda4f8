"""Pretrained weights: where they come from, what identifies them, where they lie.

Whatever the source, weights end in the store as canonical tensors (see `tensors`) beside a record
of their tensor hash. The hash, not the file, is what a study pins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fairtune import store
from fairtune.config import Settings, digest
from fairtune.errors import FairtuneError, ModelError
from fairtune.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

SHELF, ANSWERS = "weights", store.PAID[0]
AUTO, NONE = "auto", "none"
_FILE, _RECORD, _ANSWERS = "model.safetensors", "record.json", "answers.sqlite"
# Raised when the canonical form changes, so that old folders are not taken for new ones.
_PROTOCOL = 1


@dataclass(frozen=True)
class Weights:
    """Canonical weights in the store, or what stands for them: the answers of an endpoint.

    Attributes:
        path: The safetensors file; of an endpoint the file of its answers, which it may not have
            given yet.
        sha: SHA-256 over the tensors; equal for equal weights, whatever file they came in. Of an
            endpoint its identity.
        source: Where they were had from, for provenance; no path of this machine.
        cache: The store's folder.
        cache_gib: The store's cap.
    """

    path: Path
    sha: str
    source: str
    cache: Path
    cache_gib: float


def resolve(
    spec: ModelSpec, choice: str, settings: Settings, *, expected: str | None = None
) -> Weights | None:
    """Return the weights of `spec`, fetching and converting them when the store has none.

    Args:
        spec: The model.
        choice: `auto` (the store, then the spec's own file or its sources in their order),
            `none` (random initialisation) or the path of a file.
        settings: Where the store is and whether a model hub may be asked.
        expected: Tensor hash that the weights must have; a source with others is passed over.

    Returns:
        The weights, or None when `choice` is `none`.

    Raises:
        ModelError: No source had them; the message lists each one tried and why it failed. Or an
            endpoint, which is not asked here, is to have other weights than its own.
    """
    if spec.endpoint is not None:
        return _wanted(_endpoint(spec, choice, settings), expected)
    if choice == NONE:
        return None
    if choice != AUTO:
        return _wanted(from_file(spec, Path(choice).expanduser(), settings), expected)
    if spec.own_file is not None:
        return _wanted(from_file(spec, spec.own_file, settings), expected)
    held = cached(spec, settings)
    if held is not None and expected in (None, held.sha):
        return held
    return _fetched(spec, settings, expected)


def verify(weights: Weights | None, expected: str | None) -> None:
    """Refuse `weights` whose tensor hash is not `expected` (None: random initialisation).

    Raises:
        ModelError: They are not the same.
    """
    found = None if weights is None else weights.sha
    if found != expected:
        raise ModelError(
            "these are not the weights that were pinned",
            where="weights" if weights is None else weights.source,
            found=found or NONE,
            allowed=expected or NONE,
            todo="give the file that was used then, or `fairtune models pull --from FILE`",
        )


def cached(spec: ModelSpec, settings: Settings) -> Weights | None:
    """Return what `auto` finds in the store without asking any source, or None."""
    try:
        key = json.loads(_pointer(spec, settings).read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    folder = settings.cache / SHELF / str(key)
    return _weights(folder, settings) if store.is_whole(folder) else None


def from_file(spec: ModelSpec, path: Path, settings: Settings) -> Weights:
    """Bring the weights file `path` into the store.

    Raises:
        ModelError: The file is missing, damaged, unsafe, or not of this model.
    """
    if not path.is_file():
        raise ModelError("no such weights file", where=f"model '{spec.name}'", found=str(path))

    def read() -> dict[str, torch.Tensor]:
        from fairtune.models import tensors

        rule = getattr(spec.loader, "rule", None)
        return tensors.read(path) if rule is None else tensors.read(path, rule.found)

    key = _key(spec, {"file": store.file_sha256(path)})
    return _stored(spec, key, read, f"file {path.name}", settings)


def pull(spec: ModelSpec, settings: Settings, file: Path | None = None) -> Weights:
    """Put the weights of `spec` into the store, where `auto` finds them from now on.

    Args:
        spec: The model.
        settings: Where the store is and whether a model hub may be asked.
        file: Take them from this file instead of the spec's sources.

    Raises:
        ModelError: They cannot be had, or the file is not usable.
    """
    if file is None or spec.endpoint is not None:
        weights = resolve(spec, AUTO if file is None else str(file), settings)
        assert weights is not None
        return weights
    weights = from_file(spec, file, settings)
    _point(spec, settings, weights)
    return weights


def sized(spec: ModelSpec, image_size: int, weights: Weights) -> Path:
    """Return the safetensors file of `weights` with the position embedding of `image_size`.

    Raises:
        ModelError: The size does not fit the model.
    """
    import timm

    side = spec.side(image_size)
    key = _key(spec, {"sha": weights.sha, "side": side, "timm": timm.__version__})

    def make(folder: Path) -> None:
        from fairtune.models import tensors

        net = spec.filled(side, weights.path)
        tensors.write(dict(net.state_dict()), folder / _FILE)

    folder = store.get_or_make(SHELF, key, make, root=weights.cache, cap_gib=weights.cache_gib)
    return folder / _FILE


def _endpoint(spec: ModelSpec, choice: str, settings: Settings) -> Weights:
    if choice != AUTO:
        raise ModelError(
            f"the weights of model '{spec.name}' are behind an endpoint",
            where="weights",
            found=choice,
            allowed=AUTO,
            todo="leave weights out; loader.http.version says which ones answer",
        )
    sha = str(spec.endpoint)
    path = settings.cache / ANSWERS / sha / _ANSWERS
    return Weights(path, sha, f"endpoint of {spec.name}", settings.cache, settings.cache_gib)


def _fetched(spec: ModelSpec, settings: Settings, expected: str | None) -> Weights:
    tried: list[str] = []
    for source in spec.weights:
        label = source.label()
        try:
            key = _key(spec, {"source": label, **source.to_json()})
            read = partial(source.fetch, spec, settings)
            weights = _stored(spec, key, read, label, settings)
        except FairtuneError as error:
            tried.append(f"{label}: {_reason(error)}")
            continue
        if expected is None or weights.sha == expected:
            _point(spec, settings, weights)
            return weights
        tried.append(f"{label}: its tensors hash to {weights.sha[:12]}, not {expected[:12]}")
    raise _nowhere(spec, tried)


def _nowhere(spec: ModelSpec, tried: list[str]) -> ModelError:
    lines = ["the cache: nothing there", *tried]
    if not spec.weights:
        lines.append("sources: the model's file names none")
    remedies = list(dict.fromkeys(source.remedy() for source in spec.weights))
    todo = f"run `fairtune models pull {spec.name} --from FILE`"
    if remedies:
        todo += f"; or {', or '.join(remedies)} and run `fairtune models pull {spec.name}`"
    return ModelError(
        f"no weights for model '{spec.name}'; tried" + "".join(f"\n    - {x}" for x in lines),
        allowed=f"'{AUTO}', the path of a weights file, or '{NONE}' for random initialisation",
        todo=todo,
    )


def _stored(
    spec: ModelSpec,
    key: str,
    read: Callable[[], dict[str, torch.Tensor]],
    source: str,
    settings: Settings,
) -> Weights:
    def make(folder: Path) -> None:
        from fairtune.models import tensors

        values = tensors.canonical(spec, read(), source)
        sha = tensors.tensor_sha(values)
        tensors.write(values, folder / _FILE)
        record = {"sha": sha, "source": source, "model": spec.name}
        (folder / _RECORD).write_text(json.dumps(record, indent=1))

    folder = store.get_or_make(SHELF, key, make, root=settings.cache, cap_gib=settings.cache_gib)
    return _weights(folder, settings)


def _weights(folder: Path, settings: Settings) -> Weights:
    record = json.loads((folder / _RECORD).read_text())
    return Weights(
        path=folder / _FILE,
        sha=record["sha"],
        source=record["source"],
        cache=settings.cache,
        cache_gib=settings.cache_gib,
    )


def _key(spec: ModelSpec, origin: dict[str, object]) -> str:
    return digest({**_identity(spec), **origin})


def _identity(spec: ModelSpec) -> dict[str, object]:
    identity: dict[str, object] = {
        "architecture": spec.architecture,
        "channels": spec.channels,
        "rounding": spec.rounding,
        "protocol": _PROTOCOL,
    }
    # What a loader is told decides which tensors there are and what they are called; where a
    # file lies does not.
    told = {k: v for k, v in spec.loader.to_json().items() if k != "file" and v}
    return {**identity, "loader": [type(spec.loader).__name__, told]} if told else identity


def _pointer(spec: ModelSpec, settings: Settings) -> Path:
    # Two specs of one architecture may name different sources, so the sources count too.
    sources = [source.label() for source in spec.weights]
    slot = digest({**_identity(spec), "sources": sources})
    return settings.cache / SHELF / f"{spec.architecture}-{slot[:12]}.json"


def _point(spec: ModelSpec, settings: Settings, weights: Weights) -> None:
    content = json.dumps({"key": weights.path.parent.name, "sha": weights.sha})
    store.write_atomic(_pointer(spec, settings), content.encode())


def _wanted(weights: Weights, expected: str | None) -> Weights:
    if expected is not None:
        verify(weights, expected)
    return weights


def _reason(error: FairtuneError) -> str:
    return " ".join(part.strip() for part in str(error).splitlines())
