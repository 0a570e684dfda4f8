"""What each objective is: its value in closed form, its minimum, its gradient."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fairtune.config.registry import written
from fairtune.editing import OBJECTIVES, EditObjective
from fairtune.editing.seen import Seen

MEMBERS = list(OBJECTIVES)


def member(name: str, **fields: Any) -> Any:
    return OBJECTIVES.parse({name: fields})


def seen(rows: int, groups: int = 2, classes: int = 2, seed: int = 0) -> Seen:
    draw = torch.Generator().manual_seed(seed)
    return Seen(
        logits=torch.randn(rows, groups, generator=draw, dtype=torch.float64) * 2,
        embedding=torch.randn(rows, 5, generator=draw, dtype=torch.float64),
        group=torch.randint(0, groups, (rows,), generator=draw),
        label=torch.randint(0, classes, (rows,), generator=draw),
        task_loss=torch.rand(rows, generator=draw, dtype=torch.float64),
    )


def of_logits(logits: list[list[float]], group: list[int]) -> Seen:
    held = seen(len(group), len(logits[0]))
    given = torch.tensor(logits, dtype=torch.float64)
    return dataclasses.replace(held, logits=given, group=torch.tensor(group))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_declares_what_the_registry_asks_for(name: str) -> None:
    made = member(name)
    assert isinstance(made, EditObjective)
    assert made.paper
    assert made.formula
    assert OBJECTIVES.parse(written(made)) == made


def test_uniform_is_the_mean_negative_log_probability() -> None:
    # p = (3/4, 1/4) and (1/2, 1/2).
    held = of_logits([[math.log(3), 0.0], [5.0, 5.0]], [0, 1])
    expected = (-(math.log(3 / 4) + math.log(1 / 4)) / 2 + math.log(2)) / 2
    assert float(member("uniform").loss(held)) == pytest.approx(expected)


def test_neg_ce_is_the_mean_log_probability_of_the_own_group() -> None:
    held = of_logits([[math.log(3), 0.0], [5.0, 5.0]], [1, 0])
    assert float(member("neg_ce").loss(held)) == pytest.approx(
        (math.log(1 / 4) + math.log(1 / 2)) / 2
    )


def test_entropy_is_minus_that_of_the_softmax() -> None:
    held = of_logits([[math.log(3), 0.0], [5.0, 5.0]], [0, 0])
    own = 3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)
    assert float(member("entropy").loss(held)) == pytest.approx((own - math.log(2)) / 2)


def test_faap_is_a_weighted_sum_of_the_three() -> None:
    held = seen(20, groups=3)
    assert held.task_loss is not None
    parts = [member(name).loss(held) for name in ("neg_ce", "entropy")]
    expected = 0.4 * parts[0] + 0.1 * parts[1] + 0.7 * held.task_loss.mean()
    torch.testing.assert_close(member("faap_mix").loss(held), expected)
    alone = member("faap_mix", wrong=0.0, unsure=0.0, keep=2.0).loss(held)
    torch.testing.assert_close(alone, 2 * held.task_loss.mean())


def test_mean_match_is_the_distance_of_the_means_of_each_class() -> None:
    held = Seen(
        logits=torch.empty(5, 0),
        embedding=torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 1.0], [1.0, 1.0], [1.0, 4.0]]),
        group=torch.tensor([0, 0, 1, 0, 1]),
        label=torch.tensor([0, 0, 0, 1, 1]),
    )
    # Class 0: (1, 0) and (4, 1), 9 + 1; class 1: (1, 1) and (1, 4), 9.
    assert float(member("mean_match").loss(held)) == pytest.approx(19.0)


def test_mean_match_averages_over_pairs_of_groups_and_over_targets() -> None:
    embedding = torch.tensor([[0.0], [1.0], [3.0]])
    group = torch.tensor([0, 1, 2])
    one = Seen(torch.empty(3, 0), embedding, group, torch.tensor([1, 1, 1]))
    assert float(member("mean_match").loss(one)) == pytest.approx((1 + 9 + 4) / 3)
    both = torch.tensor([[1, 0], [1, 0], [1, 1]])
    # The second target: groups 0 and 1 in class 0, group 2 alone in class 1.
    several = dataclasses.replace(one, label=both)
    assert float(member("mean_match").loss(several)) == pytest.approx(((1 + 9 + 4) / 3 + 1) / 2)


def test_mean_match_leaves_out_a_group_that_a_class_lacks() -> None:
    held = seen(6)
    without = dataclasses.replace(
        held, group=torch.tensor([0, 0, 1, 0, 0, 0]), label=torch.tensor([0, 0, 0, 1, 1, 1])
    )
    first = dataclasses.replace(
        without,
        embedding=without.embedding[:3],
        group=without.group[:3],
        label=without.label[:3],
    )
    loss = member("mean_match").loss
    torch.testing.assert_close(loss(without), loss(first))


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_the_minimum_is_where_no_group_is_likelier(groups: int) -> None:
    flat = dataclasses.replace(seen(7, groups), logits=torch.full((7, groups), 1.5))
    assert float(member("uniform").loss(flat)) == pytest.approx(math.log(groups))
    assert float(member("entropy").loss(flat)) == pytest.approx(-math.log(groups))


@given(rows=st.integers(1, 12), groups=st.integers(1, 5), seed=st.integers(0, 1000))
def test_bounds_hold(rows: int, groups: int, seed: int) -> None:
    held = seen(rows, groups, seed=seed)
    assert float(member("uniform").loss(held)) >= math.log(groups) - 1e-12
    assert -math.log(groups) - 1e-12 <= float(member("entropy").loss(held)) <= 1e-12
    assert float(member("neg_ce").loss(held)) <= 1e-12
    assert float(member("mean_match").loss(held)) >= 0


def test_the_published_objective_has_no_lower_bound() -> None:
    wrong = of_logits([[1000.0, 0.0]], [1])
    assert float(member("neg_ce").loss(wrong)) == pytest.approx(-1000)
    assert float(member("faap_mix").loss(wrong)) < -390


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_gradient_is_that_of_finite_differences(name: str, rows: int, groups: int) -> None:
    held, made = seen(rows, groups), member(name)
    assert held.task_loss is not None

    def loss(logits: Tensor, embedding: Tensor, task_loss: Tensor) -> Tensor:
        found: Tensor = made.loss(
            dataclasses.replace(held, logits=logits, embedding=embedding, task_loss=task_loss)
        )
        # What an objective does not read has the gradient 0.
        return found + 0.0 * (logits.sum() + embedding.sum() + task_loss.sum())

    inputs = [held.logits, held.embedding, held.task_loss]
    assert torch.autograd.gradcheck(loss, [t.clone().requires_grad_() for t in inputs])


@pytest.mark.parametrize("name", MEMBERS)
def test_what_a_member_says_it_reads_is_what_it_reads(name: str) -> None:
    made = member(name)
    held = seen(12, groups=3, classes=3)
    other = seen(12, groups=3, classes=3, seed=1)

    def changes(**fields: Any) -> bool:
        return not torch.equal(made.loss(held), made.loss(dataclasses.replace(held, **fields)))

    assert changes(logits=other.logits) == made.head
    assert changes(label=other.label) == made.labels
    assert changes(task_loss=other.task_loss) == made.task


@pytest.mark.parametrize("name", MEMBERS)
def test_logits_that_are_sure_beyond_float32_stay_finite(name: str) -> None:
    held = seen(4)
    sure = dataclasses.replace(held, logits=torch.tensor([[500.0, -500.0]] * 4), group=held.group)
    made = sure.logits.clone().requires_grad_()
    loss = member(name).loss(dataclasses.replace(sure, logits=made))
    assert torch.isfinite(loss)
    if member(name).head:
        (gradient,) = torch.autograd.grad(loss, made)
        assert torch.isfinite(gradient).all()
