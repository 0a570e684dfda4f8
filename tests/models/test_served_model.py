"""The server of embeddings: what it takes, what it refuses, and how it is started and ended."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_endpoints import (
    DIM,
    SIDE,
    endpoint,
    health,
    images,
    request,
)

from fairtune.config import settings
from fairtune.config.yaml12 import loads
from fairtune.data.batch import normalise
from fairtune.errors import ConfigError, EndpointAway
from fairtune.models import load
from fairtune.models.backbone import build
from fairtune.models.registries import LOADERS
from fairtune.models.serve import Served, open_server

TOKEN = "a-secret-of-the-tests"


def started(**more: Any) -> Served:
    given = {"image_size": SIDE, "weights": "none", "host": "127.0.0.1", "port": 0}
    return open_server("test_vit", settings(), **{**given, "token_env": None, "most": 8, **more})


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with started() as made:
        yield made


def npy(array: Any) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def expected(shown: Any) -> Any:
    spec = load("test_vit")
    with torch.inference_mode():
        seen = normalise(torch.from_numpy(shown), spec.mean, spec.std)
        return build(spec, SIDE, None).embed(seen).numpy()


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_answered_in_kind(server: Served, order: Any) -> None:
    shown = images([1, 2, 3])
    code, body = request(server.url, body=npy(np.asarray(shown, order=order)))
    assert code == 200
    np.testing.assert_allclose(np.load(io.BytesIO(body)), expected(shown), rtol=0, atol=1e-5)


def test_whole_numbers_of_json_mean_255ths(server: Served) -> None:
    shown = (images([1]) * 255).astype(np.uint8)
    for held in (shown.tolist(), (shown.astype(np.float32) / np.float32(255)).tolist()):
        body = json.dumps({"images": held}).encode()
        code, said = request(server.url, body=body, kind="application/json")
        assert code == 200
        np.testing.assert_allclose(np.load(io.BytesIO(said)), expected(shown), rtol=0, atol=1e-5)


REFUSED = {
    "side": (npy(np.zeros((1, 3, 16, 16), np.float32)), "application/x-npy", 400),
    "channels": (npy(np.zeros((1, 1, SIDE, SIDE), np.float32)), "application/x-npy", 400),
    "one image": (npy(np.zeros((3, SIDE, SIDE), np.float32)), "application/x-npy", 400),
    "no image": (npy(np.zeros((0, 3, SIDE, SIDE), np.float32)), "application/x-npy", 400),
    "double": (npy(np.zeros((1, 3, SIDE, SIDE))), "application/x-npy", 400),
    "nan": (npy(np.full((1, 3, SIDE, SIDE), np.nan, np.float32)), "application/x-npy", 400),
    "objects": (npy(np.array([{}])), "application/x-npy", 400),
    "rubbish": (b"rubbish", "application/x-npy", 400),
    "json": (b"{", "application/json", 400),
    "field": (b'{"pixels": []}', "application/json", 400),
    "large numbers": (
        json.dumps({"images": np.full((1, 3, SIDE, SIDE), 256).tolist()}).encode(),
        "application/json",
        400,
    ),
    "many": (npy(np.zeros((9, 3, SIDE, SIDE), np.uint8)), "application/x-npy", 413),
    "large": (b"x" * 300_000, "application/x-npy", 413),
    "kind": (b"x", "image/png", 415),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_batch_of_images_is_refused_and_counted(server: Served, name: str) -> None:
    body, kind, wanted = REFUSED[name]
    before = health(server.url)
    code, said = request(server.url, body=body, kind=kind)
    assert code == wanted
    assert json.loads(said)["error"]
    after = health(server.url)
    assert after["refused"] == before["refused"] + 1
    assert (after["received"], after["images"]) == (before["received"], before["images"])


@pytest.mark.parametrize(("method", "path"), [("POST", "/"), ("GET", "/embed"), ("GET", "/x")])
def test_other_paths_are_none(server: Served, method: str, path: str) -> None:
    url = server.url.replace("/embed", path)
    assert request(url, method)[0] == 404


def test_it_says_what_it_is(server: Served) -> None:
    found = health(server.url)
    assert (found["model"], found["dim"], found["image_size"]) == ("test_vit", DIM, SIDE)
    assert (found["channels"], found["batch_limit"]) == (3, 8)


def test_nobody_is_let_in_without_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    with started(token_env="MY_TOKEN") as made:
        assert TOKEN not in made.loader("MY_TOKEN")
        assert request(made.url, body=npy(images([1])))[0] == 401
        assert request(made.url, body=npy(images([1])), token="another")[0] == 401
        assert request(made.url.replace("/embed", "/health"), "GET")[0] == 401
        asked = LOADERS.parse(loads(made.loader("MY_TOKEN")).data["loader"])
        one = endpoint(asked.url, tmp_path, token_env=asked.token_env)
        assert one.embed(images([1])).shape == (1, DIM)
        with pytest.raises(EndpointAway, match="does not let us in"):
            endpoint(asked.url, tmp_path).embed(images([2]))
        assert health(made.url, TOKEN)["images"] == 1
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(ConfigError, match="is not set"):
        started(token_env="MY_TOKEN")


def test_a_port_that_is_taken_is_one_message(server: Served) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    with pytest.raises(ConfigError, match="cannot be used"):
        started(port=port)
