"""Recipes on an endpoint: the same numbers as on the network behind it, and nothing for free."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from kit_endpoints import DIM, SIDE, Answer, Scripted, health, served, written

from fairtune.config import settings
from fairtune.errors import EndpointAway, FairtuneError, ModelError
from fairtune.models import load, weights
from fairtune.models.backbone import Backbone, build, describe
from fairtune.training import session as room
from fairtune.training.observer import Epoch, Quiet
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("server")) as url:
        yield url


def asking(model: Path, **changes: Any) -> Recipe:
    part = {"name": str(model), "image_size": SIDE}
    return tiny_recipe(model=part, adaptation__mask="none", optim={"l2": 0.1}, **changes)


class Seen(Quiet):
    def __init__(self) -> None:
        self.epochs: list[Epoch] = []

    def epoch(self, report: Epoch) -> Any:
        self.epochs.append(report)
        return super().epoch(report)


def scores(recipe: Recipe, held: Session) -> np.ndarray[Any, Any]:
    seen = Seen()
    train_one(Job(held.resolve(recipe), Seeds()), held, seen)
    return seen.epochs[-1].scores


def opened(model: Path, cache: Path) -> Backbone:
    spec = load(str(model))
    env = dataclasses.replace(settings(), cache=cache)
    return build(spec, None, weights.resolve(spec, "auto", env))


@pytest.mark.slow
def test_a_readout_is_that_of_the_network_behind_it(server: str, tmp_path: Path) -> None:
    # Slow: the server is a process with a real model, and all training images go through it.
    before, model = health(server), written(tmp_path, server)
    local = tiny_recipe(adaptation__mask="none", optim={"l2": 0.1})
    far, near = scores(asking(model), held := session()), scores(local, session())
    np.testing.assert_allclose(far, near, rtol=0, atol=1e-5)
    ground = held.ground(asking(model))
    rows = sum(len(ground.pack.rows(name)) for name in ("train", "val"))
    counts = ground.backbone.answers
    assert counts is not None
    assert health(server)["images"] - before["images"] == counts.counts().sent <= rows
    anew = session()
    anew.reuse = False
    np.testing.assert_array_equal(scores(asking(model), anew), far)
    assert counts.counts().sent == health(server)["images"] - before["images"]


@pytest.mark.slow
def test_a_head_is_trained_by_steps_over_an_endpoint(server: str, tmp_path: Path) -> None:
    # Slow: the server is a process with a real model, and all training images go through it.
    model = written(tmp_path, server)
    more = {"mitigations": [{"reweight": {"attribute": "sex"}}], "fit": {"precision": "auto"}}
    optim = {"lr": 1e-3, "epochs": 2, "batch_size": 64}
    far = tiny_recipe(
        model={"name": str(model), "image_size": SIDE},
        adaptation__mask="none",
        optim=optim,
        **more,
    )
    near = tiny_recipe(adaptation__mask="none", optim=optim, **more)
    held = session()
    found = scores(far, held)
    assert held.resolve(far).fit.precision == "fp32"
    near = near.model_copy(update={"fit": near.fit.model_copy(update={"precision": "fp32"})})
    np.testing.assert_allclose(found, scores(near, session()), rtol=0, atol=1e-4)


def test_opening_and_resolving_send_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where bf16 would be timed, an endpoint is not.
    monkeypatch.setattr("fairtune.models.precision.has_bf16", lambda device: True)
    with Scripted(Answer()) as script:
        model = written(tmp_path, script.url)
        held = session()
        recipe = held.resolve(asking(model, fit={"precision": "auto"}))
        assert recipe.fit.precision == "fp32"
        assert recipe.model.weights_sha == load(str(model)).endpoint
        assert not script.asked


@pytest.mark.parametrize("mask", ["norm:all", "fullft", "bitfit", "singles", ["blocks.0.x"]])
def test_a_mask_with_units_is_refused(mask: Any, tmp_path: Path) -> None:
    model = written(tmp_path, "http://127.0.0.1:9/embed")
    part = {"name": str(model), "image_size": SIDE}
    with pytest.raises(ModelError, match="has no units that a mask could name"):
        session().resolve(tiny_recipe(model=part, adaptation__mask=mask))


@pytest.mark.parametrize("field", ["checkpointing", "compile"])
def test_nothing_is_done_block_by_block(field: str, tmp_path: Path) -> None:
    model = written(tmp_path, "http://127.0.0.1:9/embed")
    with pytest.raises(FairtuneError, match="one by one"):
        session().resolve(asking(model, fit={"precision": "fp32", field: "blocks"}))


@pytest.mark.parametrize("choice", ["none", "w.safetensors"])
def test_other_weights_are_refused(choice: str, tmp_path: Path) -> None:
    model = written(tmp_path, "http://127.0.0.1:9/embed")
    part = {"name": str(model), "image_size": SIDE, "weights": choice}
    with pytest.raises(ModelError, match="behind an endpoint"):
        session().resolve(tiny_recipe(model=part, adaptation__mask="none"))


def test_another_version_is_another_model(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        old, new = (written(tmp_path / v, script.url, version=v) for v in ("1", "2"))
        held = session()
        pinned = held.resolve(asking(old))
        digests = {held.ground(asking(model)).tensor_digest(None) for model in (old, new)}
        assert len(digests) == 2
        part = pinned.model.model_copy(update={"name": str(new)})
        with pytest.raises(ModelError, match="not the weights that were pinned"):
            session().resolve(pinned.model_copy(update={"model": part}))


def test_an_endpoint_that_is_away_fails_a_run_as_such(tmp_path: Path) -> None:
    model = written(tmp_path, "http://127.0.0.1:9/embed", retries=0)
    held = session()
    recipe = held.resolve(asking(model))
    with pytest.raises(EndpointAway, match="cannot be reached"):
        train_one(Job(recipe, Seeds()), held)


def test_a_run_that_waits_leaves_when_told(tmp_path: Path) -> None:
    with Scripted(Answer(code=503, headers={"Retry-After": "300"})) as script:
        model = written(tmp_path, script.url)
        held = session()
        recipe = held.resolve(asking(model))
        held.poll = lambda: "Ctrl-C" if script.asked else None
        assert train_one(Job(recipe, Seeds()), held).stopped == "Ctrl-C"


def test_there_is_no_gradient(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        backbone = opened(written(tmp_path, script.url), tmp_path)
        image = torch.rand(2, 3, SIDE, SIDE, requires_grad=True)
        with pytest.raises(ModelError, match="gives no gradient"):
            backbone.embed(image)
        with torch.no_grad():
            assert backbone.embed(image).shape == (2, DIM)
    assert not backbone.differentiable
    assert build(load("test_vit"), SIDE, None).differentiable
    assert build(load("test_vit"), SIDE, None).answers is None


def test_what_is_sent_does_not_depend_on_layout_and_rounding(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        backbone = opened(written(tmp_path, script.url), tmp_path)
        image = torch.randint(256, (3, 3, SIDE, SIDE)).float()
        seen = image / 255
        backbone.embed(seen)
        # As a processor that multiplies by 1/255 has it, and as a CNN would be given it.
        other = (image * (1 / 255)).contiguous(memory_format=torch.channels_last)
        assert not torch.equal(seen, other)
        backbone.embed(other)
        assert len(script.asked) == 1
        backbone.embed(seen + 1e-5)
        assert len(script.asked) == 2
        with pytest.raises(ModelError, match="not finite"):
            backbone.embed(seen * torch.nan)


def test_whole_numbers_round_an_edit_and_cut_off_what_is_outside(tmp_path: Path) -> None:
    import io

    with Scripted(Answer()) as script:
        backbone = opened(written(tmp_path, script.url, pixels="uint8"), tmp_path)
        image = torch.randint(256, (2, 3, SIDE, SIDE)).float() / 255
        backbone.embed(image)
        backbone.embed(image + 0.4 / 255)
        assert len(script.asked) == 1
        backbone.embed(image + 2)
        sent = [np.load(io.BytesIO(body)) for _, body in script.asked]
    np.testing.assert_array_equal(sent[0], (image * 255).round().byte().numpy())
    assert (sent[1] == 255).all()
    assert len(sent[1]) == 1  # equal images are sent once


def test_normalised_images_go_out_as_they_are(tmp_path: Path) -> None:
    import io

    more = "mean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\n"
    image = torch.randn(2, 3, SIDE, SIDE)
    with Scripted(Answer()) as script:
        backbone = opened(written(tmp_path, script.url, more=more), tmp_path)
        backbone.embed(image)
        np.testing.assert_array_equal(np.load(io.BytesIO(script.asked[0][1])), image.numpy())
        whole = written(tmp_path / "whole", script.url, more=more, pixels="uint8")
        with pytest.raises(ModelError, match="not normalised"):
            opened(whole, tmp_path)


def test_an_endpoint_has_no_units(tmp_path: Path) -> None:
    spec = load(str(written(tmp_path, "http://127.0.0.1:9/embed")))
    found = describe(spec)
    assert (found.names, found.depth, found.total) == ((), 0, 0)
    assert type(found).from_json(found.to_json()) == found
    assert room.describe(spec, SIDE).hash == found.hash
