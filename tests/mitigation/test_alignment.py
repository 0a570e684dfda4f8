"""The alignment term: what it is invariant to, what it leaves out, and that it aligns."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import session, tiny_recipe
from kit_mitigation import batch_of, context, lane_with, output, recipe_with, steps
from torch import Tensor

from fairtune.errors import ConfigError, DataError, RunError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.alignment import in_units_of_sd, margins
from fairtune.mitigation.distances import DISTANCES, Distance
from fairtune.mitigation.hooks import Hooks
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job, train_one
from fairtune.usage import Output

N = 24
LABEL = [0, 1] * (N // 2)
GROUP = [0] * 10 + [1] * 8 + [2] * 6
HELD = context(LABEL, GROUP, names=("a", "b", "c"))


def hooks(held: Any = HELD, **fields: Any) -> Hooks:
    return MITIGATIONS.parse({"sinkhorn": {"attribute": "att", **fields}}).build(held)  # type: ignore[attr-defined, no-any-return]


def term(score: Tensor, held: Any = HELD, **fields: Any) -> Tensor:
    made = hooks(held, **{"least": 2, **fields})
    assert made.loss is not None
    zero = torch.zeros(len(score))
    out = Output(zero, score.reshape(len(score), -1), torch.zeros(len(score), 2))
    return made.loss(batch_of(held, range(len(score))), out, True)


def scores(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shift = torch.tensor(GROUP, dtype=torch.float64)
    return torch.randn(N, generator=generator, dtype=torch.float64) + shift


def test_the_value_is_the_mean_of_pots_distances_in_units_of_sd() -> None:
    x = scores()
    z = ((x - x.mean()) / x.std(correction=0)).numpy()
    wanted = []
    for c in (0, 1):
        inside = np.array(LABEL) == c
        for g in range(3):
            group = inside & (np.array(GROUP) == g)
            wanted.append(ot.wasserstein_1d(z[inside][:, None], z[group][:, None], p=2) / 2)
    found = term(x, weight=3.0)
    assert float(found) == pytest.approx(3.0 * float(np.mean(wanted)), rel=1e-6)
    assert float(term(x, given="none")) != pytest.approx(float(np.mean(wanted)), rel=1e-2)


@pytest.mark.parametrize("distance", list(DISTANCES))
@pytest.mark.parametrize("given_", ["label", "none"])
def test_the_term_knows_neither_scale_nor_mean(distance: str, given_: str) -> None:
    x = scores().requires_grad_(True)
    value = term(x, distance=distance, given=given_)
    (gradient,) = torch.autograd.grad(value, x)
    again = term(37.0 * x.detach() - 5.0, distance=distance, given=given_)
    assert float(again) == pytest.approx(float(value.detach()), abs=1e-9)
    centred = (x - x.mean()).detach()
    along = float((gradient * centred).sum() / (gradient.norm() * centred.norm()))
    assert abs(along) < 1e-6
    assert abs(float(gradient.sum() / gradient.norm())) < 1e-6
    detached = term(x, distance=distance, given=given_, scale="detached")
    (other,) = torch.autograd.grad(detached, x)
    assert float(detached.detach()) == pytest.approx(float(value.detach()))
    assert abs(float((other * centred).sum() / (other.norm() * centred.norm()))) > 1e-3


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_order_of_the_batch_does_not_matter(seed: int) -> None:
    x = scores(seed)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    made = hooks(least=2)
    assert made.loss is not None
    out = Output(torch.zeros(N), x[order, None], torch.zeros(N, 2))
    found = made.loss(batch_of(HELD, order.tolist()), out, True)
    assert float(found) == pytest.approx(float(term(x)), rel=1e-9)


def test_small_and_unknown_groups_are_left_out() -> None:
    held = context([0] * 12, [0] * 5 + [1] * 4 + [2] * 2 + [-1], names=("a", "b", "c"))
    x = torch.arange(12, dtype=torch.float64)
    moved = x.clone()
    moved[9:] = 1e6
    assert float(term(x, held, least=4)) == float(term(moved, held, least=4))
    assert float(term(x, held, least=2)) != float(term(x, held, least=4))


@pytest.mark.parametrize("distance", list(DISTANCES))
def test_one_group_and_constant_scores_give_zero_without_nan(distance: str) -> None:
    alone = context([0] * 6, [0, 0, 0, 0, 1, 1])
    for score in (torch.randn(4), torch.full((4,), 3.0)):
        x = score.requires_grad_(True)
        made = hooks(alone, distance=distance, given="none", least=2)
        assert made.loss is not None
        out = Output(torch.zeros(4), x[:, None], torch.zeros(4, 2))
        value = made.loss(batch_of(alone, range(4)), out, True)
        value.backward()
        assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
    constant = torch.full((N,), 2.0, requires_grad=True)
    value = term(constant, distance=distance)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()


def test_losses_and_embeddings_can_be_aligned_instead() -> None:
    x = scores()
    made = hooks(score="loss", least=2)
    assert made.loss is not None
    out = Output(x, torch.zeros(N, 1), torch.zeros(N, 2))
    found = made.loss(batch_of(HELD, range(N)), out, True)
    assert float(found) == pytest.approx(float(term(x)))
    z = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = hooks(score="embedding", least=2, given="none")
    assert made.loss is not None
    found = made.loss(batch_of(HELD, range(N)), Output(x, x[:, None], z), True)
    scaled = ((z - z.mean(0)) / (z - z.mean(0)).square().mean().sqrt()).float().numpy()
    wanted = [ot.emd2([], [], ot.dist(scaled, scaled[np.array(GROUP) == g])) / 2 for g in range(3)]
    assert float(found) == pytest.approx(float(np.mean(wanted)), rel=1e-4)


def test_a_queue_counts_on_both_sides_and_is_bounded() -> None:
    x = scores()
    made = hooks(least=2, queue=N)
    assert made.loss is not None
    assert made.state is not None
    first = Output(torch.zeros(12), x[::2, None], torch.zeros(12, 2))
    made.loss(batch_of(HELD, range(0, N, 2)), first, True)
    second = Output(torch.zeros(12), x[1::2, None], torch.zeros(12, 2))
    joined = made.loss(batch_of(HELD, range(1, N, 2)), second, False)
    assert float(joined) == pytest.approx(float(term(x)), rel=1e-6)
    assert len(made.state()["queue"][0]) == 12  # a second look is not remembered
    for _ in range(3):
        made.loss(batch_of(HELD, range(1, N, 2)), second, True)
    assert len(made.state()["queue"][0]) == N


def test_several_attributes_are_weighed() -> None:
    group = np.stack([GROUP, LABEL], axis=1)
    held = context(LABEL, GROUP, group=group, attributes={"g": ("a", "b", "c"), "y": ("0", "1")})
    x = scores()

    def of(attribute: Any) -> float:
        return float(term(x, held, attribute=attribute, given="none"))

    assert of({"g": 1.0, "y": 3.0}) == pytest.approx((of("g") + 3 * of("y")) / 4)


def test_margins_are_log_odds_against_the_rest() -> None:
    score = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    p = score.softmax(dim=1)
    assert torch.allclose(margins(score, "multiclass"), (p / (1 - p)).log())
    assert margins(score, "multilabel") is score


def test_several_classes_and_several_targets_have_a_column_each() -> None:
    label = np.array([0, 1, 2] * 8)
    many = context(label, GROUP, names=("a", "b", "c"), task="multiclass", outputs=3)
    score = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    own = margins(score, "multiclass")
    parts = [
        term(own[:, j], context((label == j).astype(int), GROUP, names=("a", "b", "c")))
        for j in range(3)
    ]
    sizes = [6, 6, 6]
    wanted = sum(float(p) * s for p, s in zip(parts, sizes)) / sum(sizes)
    assert float(term(score, many)) == pytest.approx(wanted, rel=1e-6)
    targets = np.stack([np.array(LABEL), np.array(LABEL)[::-1]], axis=1)
    several = context(
        LABEL, GROUP, names=("a", "b", "c"), label=targets, task="multilabel", outputs=2
    )
    assert torch.isfinite(term(score[:, :2], several))
    with pytest.raises(DataError, match="of all targets"):
        hooks(several, score="loss")


def test_units_of_sd_have_a_floor() -> None:
    x = torch.tensor([[1.0], [1.0 + 1e-5]], requires_grad=True)
    found = in_units_of_sd(x, torch.ones(2))
    assert float(found.detach().abs().max()) < 1e-2
    found.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", list(DISTANCES))
def test_a_distance_is_one(name: str) -> None:
    member = DISTANCES.parse(name)
    assert isinstance(member, Distance)
    x = scores()[:, None]
    member_of = torch.nn.functional.one_hot(torch.tensor(GROUP)).T[None]
    found, unsolved = member.measure(x, member_of)
    assert found.shape == (1, 3)
    assert (found > 0).any()
    assert unsolved is None or int(unsolved) == 0


def test_a_blur_that_the_exact_distance_is_better_at_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.1 to 1") as caught:
        MITIGATIONS.parse({"sinkhorn": {"distance": {"sinkhorn": {"blur": 0.01}}}})
    assert "w2" in str(caught.value.todo)


def test_groups_are_made_even_only_where_nobody_else_samples() -> None:
    assert hooks().sampler is not None
    assert hooks(sampler="none").sampler is None
    taken = context(LABEL, GROUP, names=("a", "b", "c"), free=frozenset({"head"}))
    assert hooks(taken).sampler is None


def test_training_with_it_brings_the_groups_scores_together() -> None:
    held = session()

    def apart(*members: Any) -> float:
        one = lane_with(
            held, *members, rule="fullft", optim__epochs=12, optim__lr=3e-3, optim__batch_size=64
        )
        for _ in range(12):
            one.epoch()
        rows = one.ground.fit_rows(one.recipe)
        score, _ = one.score(rows)
        group = one.ground.pack.groups(rows, "sex")
        label = one.ground.labels(rows)
        z = (score[:, 0] - score.mean()) / score.std()
        gaps = [
            z[(label == c) & (group == 0)].mean() - z[(label == c) & (group == 1)].mean()
            for c in (0, 1)
        ]
        return float(np.abs(gaps).mean())

    plain = apart({"resample": {"attribute": "sex"}})
    aligned = apart({"sinkhorn": {"attribute": "sex", "weight": 10.0}})
    assert plain > 0.1
    assert aligned < plain / 2


def test_a_term_says_what_it_weighs_beside_the_task() -> None:
    one = lane_with(session(), {"sinkhorn": {"attribute": "sex", "weight": 1e-6}})
    steps(one, 1)
    said = one.mitigating.report()["sinkhorn"]
    assert 0 < said["start"]["gradient"] < 1e-4
    assert said["steps"] == 1
    assert output([1.0]).loss.tolist() == [1.0]


def test_the_end_is_told_of_the_last_full_batch() -> None:
    held = session()
    count = len(held.ground(tiny_recipe()).pack.rows("train"))
    size = next(b for b in range(48, count) if count % b == 2)
    changes: dict[str, Any] = {"optim__batch_size": size, "optim__epochs": 2}
    recipe = recipe_with(held, {"sinkhorn": {"attribute": "sex"}}, **changes)
    said = train_one(Job(recipe, Seeds()), held).mitigations["sinkhorn"]
    assert said["steps"] == 2 * -(-count // size)
    assert said["start"]["gradient"] > 0
    assert said["end"]["gradient"] > 0


def test_a_weight_that_overflows_ends_the_run_with_what_to_do() -> None:
    held = session()
    recipe = recipe_with(held, {"sinkhorn": {"weight": 1e38, "attribute": "sex"}})
    with pytest.raises(RunError, match="not finite") as caught:
        train_one(Job(recipe, Seeds()), held)
    assert caught.value.reason == "nan"
    assert "lower the weight of a mitigation" in str(caught.value.todo)
