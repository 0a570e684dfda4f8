"""FairCLIP's released term: it is what the code computes, and hardly looks at groups."""

from __future__ import annotations

from typing import Any

import geomloss
import numpy as np
import pytest
import torch
from kit import session
from kit_mitigation import batch_of, context, lane_with, output, steps

from fairtune.mitigation import MITIGATIONS

GROUP = [0] * 8 + [1] * 5 + [-1] * 3
HELD = context([0, 1] * 8, GROUP)


def term(score: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    made: Any = MITIGATIONS.parse({"sinkhorn_as_released": {"attribute": "att", "weight": weight}})
    out = output(torch.zeros(len(score)))
    look = made.build(HELD).loss
    return look(
        batch_of(HELD, range(16)), type(out)(out.loss, score[:, None], out.embedding), True
    )


def test_it_is_the_released_formula_as_geomloss_has_it_when_converged() -> None:
    score = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    score.requires_grad_(True)
    far = geomloss.SamplesLoss("sinkhorn", p=2, blur=1e-3, scaling=0.99)
    wanted = torch.zeros((), dtype=torch.float64)
    for g in range(2):
        own = score.detach()[torch.tensor(GROUP) == g]
        wanted = wanted + far(score[:, None], (own / own.sum())[:, None])
    found = term(score)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-3)
    ours, theirs = (torch.autograd.grad(v, score)[0] for v in (found, wanted))
    assert torch.allclose(ours, theirs, rtol=2e-2, atol=1e-3)


def test_it_shrinks_all_scores_and_hardly_looks_at_groups() -> None:
    score = 100 * torch.rand(16, generator=torch.Generator().manual_seed(1))
    score.requires_grad_(True)
    (gradient,) = torch.autograd.grad(term(score), score)
    ours, scale = gradient.numpy(), score.detach().numpy()
    cosine = ours @ scale / np.linalg.norm(ours) / np.linalg.norm(scale)
    assert cosine > 0.99


def test_scores_that_add_up_to_nothing_leave_the_group_out() -> None:
    score = torch.zeros(16, requires_grad=True)
    value = term(score)
    value.backward()
    assert float(value.detach()) == 0.0
    assert score.grad is not None
    assert torch.isfinite(score.grad).all()


def test_it_can_be_trained_with() -> None:
    one = lane_with(session(), "sinkhorn_as_released")
    assert all(torch.isfinite(loss) for loss in steps(one, 2))
