from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe

from fairtune.config.registry import written
from fairtune.errors import ConfigError
from fairtune.models import load
from fairtune.models.backbone import Backbone, build
from fairtune.training.session import Session
from fairtune.usage import USAGES, Task, Usage
from fairtune.usage.classify import sample_loss


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build(load("test_vit"), 32, None)


def usage(name: str) -> Usage:
    member = USAGES.parse(name)
    assert isinstance(member, Usage)
    return member


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_binary_loss_by_hand() -> None:
    score, label = torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0])
    expected = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0))]
    assert sample_loss(score, label, "binary").tolist() == pytest.approx(expected)


def test_the_multiclass_loss_by_hand() -> None:
    score = torch.tensor([[1.0, 2.0, 0.5]])
    expected = np.log(np.exp([1.0, 2.0, 0.5]).sum()) - 2.0
    found = sample_loss(score, torch.tensor([1]), "multiclass")
    assert found.tolist() == pytest.approx([expected])


def test_the_multilabel_loss_is_the_mean_over_targets() -> None:
    score = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    label = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    columns = [sample_loss(score[:, j : j + 1], label[:, j], "binary") for j in range(2)]
    found = sample_loss(score, label, "multilabel")
    assert found.tolist() == pytest.approx(torch.stack(columns).mean(dim=0).tolist())


@pytest.mark.parametrize("name", list(USAGES))
@pytest.mark.parametrize(
    ("task", "outputs"), [("binary", 1), ("multiclass", 3), ("multilabel", 2)]
)
def test_a_usage_gives_loss_score_and_embedding(
    name: str, task: Task, outputs: int, backbone: Backbone, held: Session
) -> None:
    ground = held.ground(tiny_recipe())
    net = usage(name).build(backbone, task, outputs, source())
    batch = next(iter(ground.loader(ground.pack.rows("val"), 5, edit=None).epoch(shuffle=False)))
    if task == "multilabel":
        batch = type(batch)(**{**vars(batch), "label": torch.zeros(5, outputs)})
    out = usage(name).forward(net, batch, task)
    assert out.loss.shape == (5,)
    assert out.score.shape == (5, outputs)
    assert out.embedding.shape == (5, backbone.dim)
    assert torch.isfinite(out.loss).all()


@pytest.mark.parametrize("name", list(USAGES))
def test_loss_and_score_are_fp32_under_autocast(
    name: str, backbone: Backbone, held: Session
) -> None:
    ground = held.ground(tiny_recipe())
    net = usage(name).build(backbone, "binary", 1, source())
    batch = next(iter(ground.loader(ground.pack.rows("val"), 3, edit=None).epoch(shuffle=False)))
    with torch.autocast("cpu", torch.bfloat16):
        out = usage(name).forward(net, batch, "binary")
    assert (out.loss.dtype, out.score.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("name", list(USAGES))
def test_the_head_follows_from_its_generator_alone(name: str, backbone: Backbone) -> None:
    one = usage(name).build(backbone, "multiclass", 3, source(1)).head.state_dict()
    torch.rand(5)
    same = usage(name).build(backbone, "multiclass", 3, source(1)).head.state_dict()
    other = usage(name).build(backbone, "multiclass", 3, source(2)).head.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", list(USAGES))
def test_a_usage_survives_writing_and_reading(name: str) -> None:
    member = USAGES.parse(name)
    assert USAGES.parse(written(member)) == member


@pytest.mark.parametrize("name", USAGES.later)
def test_usages_of_later_versions_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is not available in this version"):
        USAGES.parse(name)


def test_the_head_of_a_classifier_starts_small(backbone: Backbone) -> None:
    head: Any = usage("classify").build(backbone, "binary", 1, source()).head
    assert head.bias.tolist() == [0.0]
    assert 0.01 < head.weight.std() < 0.03
