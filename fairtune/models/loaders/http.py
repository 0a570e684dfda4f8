"""An endpoint that is asked over HTTP: a black box without weights, units or gradient."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fairtune.config import Config
from fairtune.config.digest import canonical_json
from fairtune.errors import ModelError
from fairtune.models.address import check_token, checked
from fairtune.models.registries import LOADERS

if TYPE_CHECKING:
    from torch import nn

    from fairtune.models.spec import ModelSpec

_IDENTITY = ("url", "version", "dim", "send", "pixels", "receive", "field")
# Raised when what is sent changes, so that old answers are not taken for those of now.
_PROTOCOL = 1

Form = Literal["npy", "json"]


@LOADERS.register("http")
class Http(Config):
    """An endpoint that takes a batch of images by POST and answers a vector for each.

    Answers are kept on disk below `<cache>/answers`, by the image that was sent: an image is paid
    for once. `url`, `version` and all that says what is sent and read identify the endpoint.

    Attributes:
        url: `https://HOST/PATH`, or `http://HOST/PATH` where that is written; no user, password
            or key in it.
        version: What answers there, in the words of whoever runs it. Change it when the model
            behind the URL changes: answers of another version are not reused.
        dim: Length of an answer, an embedding or logits.
        send: `npy`, one array `(batch, channels, height, width)` in NumPy's format, or `json`,
            `{"images": nested lists}`.
        pixels: `float32` sends images as they are, in [0, 1] where the spec has no `mean` and
            `std`; `uint8` sends whole numbers from 0 to 255, so that an edit below 1/510 of a
            pixel is rounded away and what is outside [0, 1] is cut off.
        receive: `npy`, one array `(batch, dim)` of floating point, or `json`.
        field: Where the `(batch, dim)` lists stand in the JSON that is received.
        token_env: Environment variable with a bearer token, which is sent and written nowhere;
            over https or to this machine only.
        batch: Most images of one request.
        timeout: Seconds for one request.
        retries: Times a request is made again that was lost, timed out, or answered by HTTP 408,
            425, 429 or 5xx.
        backoff: Seconds before the first of them, doubled each time, at most a minute, times a
            random number in [0.5, 1.5]; a `Retry-After` that is longer is honoured.
        per_second: Most requests a second of all processes that share the cache; 0 for any.
    """

    url: str
    version: Annotated[str, Field(min_length=1)]
    dim: Annotated[int, Field(ge=1)]
    send: Form = "npy"
    pixels: Literal["float32", "uint8"] = "float32"
    receive: Form = "npy"
    field: Annotated[str, Field(min_length=1)] = "embeddings"
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    batch: Annotated[int, Field(ge=1)] = 64
    timeout: Annotated[float, Field(gt=0)] = 30.0
    retries: Annotated[int, Field(ge=0)] = 5
    backoff: Annotated[float, Field(ge=0)] = 0.5
    per_second: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return checked(value)

    @model_validator(mode="after")
    def _token_is_safe(self) -> Http:
        check_token(self.url, self.token_env, "url")
        return self

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of all that determines what is answered."""
        asked = {name: getattr(self, name) for name in _IDENTITY}
        content = canonical_json({**asked, "protocol": _PROTOCOL})
        return hashlib.sha256(content.encode()).hexdigest()

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """Return what stands for the endpoint: it has no parameters, and cannot be asked."""
        from fairtune.models.remote_net import RemoteNet

        return RemoteNet(self.identity, self.dim)

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """Refuse: an endpoint has its own weights.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"model '{spec.name}' is an endpoint and cannot be initialised at random",
            allowed="weights: auto",
        )

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """Return what asks the endpoint for answers that are not in `file` yet."""
        from fairtune.models.answers import Answers
        from fairtune.models.endpoint import Endpoint
        from fairtune.models.remote_net import RemoteNet

        unit = set(spec.mean) == {0.0} and set(spec.std) == {1.0}
        if self.pixels == "uint8" and not unit:
            raise ModelError(
                "whole numbers from 0 to 255 are of images that are not normalised",
                where=f"model '{spec.name}' (loader.http.pixels)",
                found="uint8 beside mean and std",
                todo="leave mean and std out, or write pixels: float32",
            )
        endpoint = Endpoint(self, Answers(file, self.dim))
        return RemoteNet(self.identity, self.dim, endpoint, pixels=self.pixels, unit=unit)
