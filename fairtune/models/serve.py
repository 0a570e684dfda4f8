"""A model as an endpoint that the loader `http` can ask."""

from __future__ import annotations

import socket
import threading
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from fairtune.config import Settings
from fairtune.config.settings import secret
from fairtune.config.yaml12 import dumps
from fairtune.data.batch import normalise
from fairtune.errors import ConfigError, ModelError
from fairtune.models.backbone import Backbone, build
from fairtune.models.device import device_of
from fairtune.models.serve_http import EMBED, Refusal, listen
from fairtune.models.spec import ModelSpec, load
from fairtune.models.weights import resolve
from fairtune.models.wire import IMAGES, Array, Form, most_bytes, unpacked

_HERE = ("127.0.0.1", "localhost", "::1")
_PART = 64


@dataclass
class Tally:
    """What a server has done.

    Attributes:
        received: Requests for embeddings that were read and could be understood.
        answered: Those that were answered with embeddings.
        images: Images in the requests that were received.
        refused: Requests that were not understood, too large, or without the token.
    """

    received: int = 0
    answered: int = 0
    images: int = 0
    refused: int = 0


class Served:
    """A model behind `POST /embed` and `GET /health`, until it is closed.

    Images come in [0, 1], or as uint8 from 0 to 255, and are normalised here. One batch is
    computed at a time, in parts of at most 64 images.

    Args:
        spec: The model.
        backbone: Its network, on a device.
        side: Side of the images in pixels.
        version: What tells this model with its weights from others.
        host: Address to listen on.
        port: 0 takes a free one.
        token: What a request must say it bears; None lets everybody in.
        most: Most images of one request.

    Raises:
        ConfigError: The port cannot be used.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backbone: Backbone,
        side: int,
        version: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        most: int = 256,
    ) -> None:
        self.spec, self.backbone, self.side, self.version = spec, backbone, side, version
        self.host, self.token, self.most = host, token, most
        self.tally, self._counting, self._model = Tally(), threading.Lock(), threading.Lock()
        self._device = next(iter(backbone.state_dict().values())).device
        try:
            self._server = listen(host, port, self)
        except OSError as error:
            raise ConfigError(
                "the address cannot be used",
                where="--host, --port",
                found=f"{host}:{port}",
                allowed=error.strerror,
                todo="leave --port out for a free one",
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What a client asks."""
        name = self.host if not self.for_all else socket.gethostname()
        name = f"[{name}]" if ":" in name else name
        return f"http://{name}:{self._server.server_port}{EMBED}"

    @property
    def for_all(self) -> bool:
        """Whether other machines can reach it."""
        return self.host not in _HERE

    def loader(self, token_env: str | None = None) -> str:
        """Return the block `loader` of a model file that asks this server."""
        block = {"url": self.url, "version": self.version, "dim": self.backbone.dim}
        secret = {} if token_env is None else {"token_env": token_env}
        return dumps({"loader": {"http": {**block, **secret}}})

    def health(self) -> dict[str, Any]:
        """Return what it serves and what it has done, as JSON values."""
        with self._counting:
            counts = asdict(self.tally)
        return {
            "model": self.spec.name,
            "version": self.version,
            "dim": self.backbone.dim,
            "image_size": self.side,
            "channels": self.spec.channels,
            "batch_limit": self.most,
            **counts,
        }

    def count(self, **more: int) -> None:
        """Add to the tally."""
        with self._counting:
            for name, number in more.items():
                setattr(self.tally, name, getattr(self.tally, name) + number)

    def limit(self, form: Form) -> int:
        """Return the bytes that the body of a request may have."""
        return most_bytes(self.most * self.spec.channels * self.side**2, form)

    def images(self, body: bytes, form: Form) -> Array:
        """Return the images in a body.

        Raises:
            Refusal: It holds none that the model takes.
        """
        try:
            found = unpacked(body, form, IMAGES)
        except ModelError as error:
            raise Refusal(400, f"{error.what}: {error.found}") from None
        wanted = (self.spec.channels, self.side, self.side)
        if found.ndim != 4 or found.shape[1:] != wanted or not len(found):
            text = f"images have shape {found.shape}, and not (batch, {str(wanted)[1:]}"
            raise Refusal(400, text)
        if len(found) > self.most:
            raise Refusal(413, f"{len(found)} images, and at most {self.most} are taken at once")
        if form == "json":
            found = _of_json(found)
        if found.dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
            raise Refusal(400, f"images are {found.dtype}, and not float32 or uint8")
        if not np.isfinite(found).all():
            raise Refusal(400, "an image is not finite")
        return found

    def embed(self, images: Array) -> Array:
        """Return `(n, dim)` embeddings, fp32."""
        parts = []
        with self._model, torch.inference_mode():
            for start in range(0, len(images), _PART):
                image = torch.from_numpy(images[start : start + _PART].copy()).to(self._device)
                seen = normalise(image, self.spec.mean, self.spec.std)
                parts.append(self.backbone.embed(seen).float().cpu())
        return torch.cat(parts).numpy()

    def wait(self) -> None:
        """Return when the server has ended; Ctrl-C gets through."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def close(self) -> None:
        """Take nothing more."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _of_json(images: Array) -> Array:
    """Return images of a JSON body, where whole numbers mean 0 to 255, in the form of an array's.

    Raises:
        Refusal: A whole number is outside.
    """
    if images.dtype.kind == "f":
        return images.astype(np.float32)
    if images.min() < 0 or images.max() > 255:
        raise Refusal(400, "images of whole numbers are from 0 to 255, others are in [0, 1]")
    return images.astype(np.uint8)


def open_server(
    name: str,
    settings: Settings,
    *,
    image_size: int | None,
    weights: str,
    host: str,
    port: int,
    token_env: str | None,
    most: int,
) -> Served:
    """Return a server of the model `name`, which runs.

    Args:
        name: A model's name, or the path of its YAML file.
        settings: Cache and device.
        image_size: Side in pixels; None for the model's default.
        weights: As in `weights.resolve`.
        host: Address to listen on.
        port: 0 takes a free one.
        token_env: Environment variable that holds the token of requests.
        most: Most images of one request.

    Raises:
        ConfigError: The variable is not set, or the port cannot be used.
        ModelError: The model, its size or its weights.
    """
    token = None if token_env is None else secret(token_env)
    if token_env is not None and token is None:
        raise ConfigError(
            "the environment variable with the token is not set",
            where="--token-env",
            found=token_env,
            todo=f"set {token_env}",
        )
    spec = load(name)
    side, held = spec.side(image_size), resolve(spec, weights, settings)
    backbone = build(spec, side, held).requires_grad_(False).to(device_of(settings))
    version = f"{spec.name} {'random' if held is None else held.sha[:16]} {side} px"
    return Served(spec, backbone, side, version, host=host, port=port, token=token, most=most)
