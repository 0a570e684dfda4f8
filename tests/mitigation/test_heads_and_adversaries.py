"""A head for every group, and an adversary: what they compute and where gradients go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit import session
from kit_mitigation import batch_of, context, lane_with, output, steps
from torch import nn

from fairtune.errors import DataError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.adversary import reversed_gradient


def build(name: str, held: Any, **fields: Any) -> Any:
    return MITIGATIONS.parse({name: {"attribute": "att", **fields}}).build(held)  # type: ignore[attr-defined]


def test_every_group_trains_its_own_head_and_the_model_has_their_mean() -> None:
    held = context(
        [0, 1, 0], [0, 1, -1], names=("a", "b", "c"), dim=3, outputs=2, head=nn.Linear(3, 2)
    )
    made = build("domain_independent", held)
    heads = made.modules["heads"]
    with torch.no_grad():
        heads.weight.copy_(torch.randn_like(heads.weight))
        heads.bias.copy_(torch.randn_like(heads.bias))
    z = torch.randn(3, 3)
    found = made.head(batch_of(held, [0, 1, 2]), z)
    w, b = heads.weight.view(3, 2, 3), heads.bias.view(3, 2)
    each = torch.einsum("god,bd->bgo", w, z) + b
    assert torch.allclose(found[0], each[0, 0], atol=1e-6)
    assert torch.allclose(found[1], each[1, 1], atol=1e-6)
    assert torch.allclose(found[2], each[2, :2].mean(dim=0), atol=1e-6)  # nobody is in group c
    made.stepped()
    assert torch.allclose(held.head(z), each[:, :2].mean(dim=1), atol=1e-6)


def test_training_moves_the_heads_apart_and_scores_with_their_mean() -> None:
    one = lane_with(session(), "domain_independent", rule="none", optim__head_lr=1e-2)
    steps(one, 5)
    heads = one.mitigating.hooks["domain_independent"].modules["heads"]
    assert isinstance(heads, nn.Linear)
    assert not torch.allclose(heads.weight[0], heads.weight[1])
    assert torch.allclose(one.trained["head.weight"][0], heads.weight.mean(dim=0), atol=1e-7)
    assert set(one.weights()) == {"head.weight", "head.bias"}


def test_a_reversed_gradient_is_the_identity_forwards() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reversed_gradient(x, 3.0)
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 2.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-3.0, -6.0]


LABEL, GROUP = [0, 1, 0, 1, 1, 1], [0, 0, 1, 1, 1, -1]


@pytest.mark.parametrize(
    ("constraint", "cells"),
    [
        ("dp", {(0, None): [0, 1], (1, None): [2, 3, 4]}),
        ("eqodd", {(0, 0): [0], (0, 1): [1], (1, 0): [2], (1, 1): [3, 4]}),
        ("eqopp", {(0, 1): [1], (1, 1): [3, 4]}),
    ],
)
def test_the_adversarys_loss_is_the_mean_over_cells_by_hand(
    constraint: str, cells: dict[Any, list[int]]
) -> None:
    held = context(LABEL, GROUP, dim=2)
    made = build("laftr", held, constraint=constraint, weight=0.5, hidden=4)
    network = made.modules["adversary"]
    z = torch.randn(6, 2, requires_grad=True)
    value = made.loss(batch_of(held, range(6)), output([0.0] * 6, embedding=z), True)
    seen = z.detach()
    if constraint == "eqodd":
        seen = torch.cat([seen, torch.eye(2)[LABEL]], dim=1)
    chance = network(seen).softmax(dim=1)
    by_cell = [(1 - chance[rows, g]).mean() for (g, _), rows in cells.items()]
    wanted = torch.stack(by_cell).mean()
    assert float(value.detach()) == pytest.approx(0.5 * float(wanted.detach()), rel=1e-5)
    # The adversary goes down its loss, the embedding up it, by the weight.
    parameters = [*network.parameters()]
    own = torch.autograd.grad(wanted, parameters)
    found = torch.autograd.grad(value, [*parameters, z])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, own))
    step = z.detach() + 0.01 * found[-1]
    seen = torch.cat([step, torch.eye(2)[LABEL]], dim=1) if constraint == "eqodd" else step
    after = network(seen).softmax(dim=1)
    lower = torch.stack([(1 - after[rows, g]).mean() for (g, _), rows in cells.items()]).mean()
    assert float(lower.detach()) < float(wanted.detach())


def test_an_adversary_needs_embeddings_that_train_and_two_classes_for_opportunity() -> None:
    with pytest.raises(DataError, match="empty mask"):
        build("laftr", context(LABEL, GROUP, frozen=True))
    many = context([0, 1, 2, 0, 1, 2], GROUP, task="multiclass", outputs=3)
    with pytest.raises(DataError, match="several classes"):
        build("laftr", many, constraint="eqopp")
    assert build("laftr", many, constraint="eqodd").loss is not None


def test_an_adversary_is_no_part_of_the_model_but_of_its_state() -> None:
    one = lane_with(session(), "laftr")
    before = [p.detach().clone() for p in one.mitigating.beside[0][1]]
    steps(one, 2)
    after = one.mitigating.beside[0][1]
    assert not any(torch.equal(a, b) for a, b in zip(after, before))
    assert not any("adversary" in name for name in one.weights())
    held = one.state_dict()["mitigations"]["modules"]["laftr"]["adversary"]
    assert np.allclose(held["0.weight"].numpy(), after[0].detach().numpy())
