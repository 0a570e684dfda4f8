"""Mitigations on pairs of images and texts act on the similarity or the loss of a pair."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from kit_mitigation import TRAINING
from kit_pairs import Pairs, shared
from numpy.typing import NDArray
from torch import Tensor

from fairtune.data.batch import Batch
from fairtune.errors import DataError
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job, train_one
from fairtune.usage import Output

PLAIN = {"weight": 1.0, "given": "none", "sampler": "none", "score": "similarity", "least": 2}
FIELDS: dict[str, dict[str, Any]] = {"sinkhorn": {"score": "similarity"}}
"""Of members whose defaults are of another usage."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return shared(tmp_path_factory.getbasetemp())


def lane(pairs: Pairs, *members: Any, **changes: Any) -> Lane:
    recipe = pairs.recipe(*members, **changes)
    return Lane(recipe, Seeds(), pairs.session.ground(recipe))


def looked(one: Lane, batch: Batch) -> Output:
    """Return what the mitigations of a lane see of a batch."""
    usage = one.recipe.usage
    return usage.paired(one.net, usage.forward(one.net, batch, one.ground.task), batch)


def first(one: Lane) -> Batch:
    return next(iter(one.loader.epoch()))


def term(one: Lane, batch: Batch, out: Output, name: str = "sinkhorn") -> Tensor:
    return one.mitigating.terms(batch, out, True)[name]


def w2(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return half the squared distance of the quantile functions of two samples."""
    many = len(a) * len(b)
    x, y = np.repeat(np.sort(a), many // len(a)), np.repeat(np.sort(b), many // len(b))
    return float(np.square(x - y).mean() / 2)


def apart(s: NDArray[np.float64], code: NDArray[np.int64], least: int = 2) -> float:
    """Return the mean over groups of the distance from all, in units of the SD."""
    groups = [g for g in np.unique(code[code >= 0]) if (code == g).sum() >= least]
    inside = np.isin(code, groups)
    scaled = (s - s[inside].mean()) / s[inside].std()
    return float(np.mean([w2(scaled[code == g], scaled[inside]) for g in groups]))


@pytest.mark.parametrize("name", [n for n in TRAINING if n != "domain_independent"])
def test_every_mitigation_without_a_head_trains_pairs(name: str, pairs: Pairs) -> None:
    one = lane(pairs, {name: FIELDS.get(name, {})}, optim__weight_decay=0.0)
    for found in one.mitigating.identify:
        shape = len(one.loader.rows), one.ground.outputs
        found.take(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    before = [p.detach().clone() for p in one.parameters]
    batches = itertools.cycle(one.loader.epoch(order=one._order()))
    for _ in range(3):
        assert one.step(next(batches)).isfinite()
    for parameter, old in zip(one.parameters, before):
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, old)
    # A group that is not there, and none at all.
    batch = next(batches)
    for code in (0, -1):
        group = torch.full_like(batch.group, code)
        assert one.step(dataclasses.replace(batch, group=group)).isfinite()


@pytest.mark.parametrize("target", ["abnormal", "kind", "signs"])
def test_fairclip_draws_the_similarities_of_groups_to_those_of_all(
    target: str, pairs: Pairs
) -> None:
    one = lane(pairs, {"sinkhorn": PLAIN}, target=target)
    batch = first(one)
    out = looked(one, batch)
    assert out.image is not None
    assert out.text is not None
    x, y = (v.detach().double().numpy() for v in (out.image, out.text))
    s = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    found = term(one, batch, out)
    assert float(found.detach()) == pytest.approx(apart(s, batch.group[:, 0].numpy()), rel=1e-3)
    gradients = torch.autograd.grad(found, [out.image, out.text])
    assert all(g.abs().sum() > 0 for g in gradients)


def test_several_attributes_count_by_their_weights(pairs: Pairs) -> None:
    values = []
    for attribute in ("sex", "age", {"sex": 1.0, "age": 3.0}):
        one = lane(pairs, {"sinkhorn": PLAIN | {"attribute": attribute}})
        batch = first(one)
        values.append(float(term(one, batch, looked(one, batch)).detach()))
    sex, age, both = values
    assert sex != pytest.approx(age)
    assert both == pytest.approx((sex + 3 * age) / 4, rel=1e-5)


def test_within_the_classes_of_one_target(pairs: Pairs) -> None:
    given = {"sinkhorn": PLAIN | {"given": "label"}}
    one = lane(pairs, given, target="kind", optim__batch_size=42)
    batch = first(one)
    out = looked(one, batch)
    assert out.similarity is not None
    s, code = out.similarity.detach().double().numpy(), batch.group[:, 0].numpy()
    label = batch.label.numpy()
    strata = [
        (c, g) for c in range(3) for g in range(2) if ((label == c) & (code == g)).sum() >= 2
    ]
    assert len(strata) > 3
    inside = np.zeros(len(s), dtype=bool)
    for c, g in strata:
        inside |= (label == c) & (code == g)
    scaled = (s - s[inside].mean()) / s[inside].std()
    each = [
        w2(scaled[(label == c) & (code == g)], scaled[inside & (label == c)]) for c, g in strata
    ]
    assert float(term(one, batch, out).detach()) == pytest.approx(np.mean(each), rel=1e-3)


def test_losses_of_pairs_are_aligned_as_robustfairclip_describes(pairs: Pairs) -> None:
    one = lane(pairs, {"sinkhorn": PLAIN | {"score": "loss"}})
    batch = first(one)
    out = looked(one, batch)
    found = term(one, batch, out)
    s = out.loss.detach().double().numpy()
    assert float(found.detach()) == pytest.approx(apart(s, batch.group[:, 0].numpy()), rel=1e-3)
    assert out.image is not None
    assert torch.autograd.grad(found, out.image)[0].abs().sum() > 0


def test_what_changes_nothing_is_refused(pairs: Pairs) -> None:
    texts = {"mask": "text.block:last-1"}
    with pytest.raises(DataError, match="each has its own label"):
        lane(pairs, {"sinkhorn": PLAIN | {"given": "label"}}, target="signs")
    with pytest.raises(DataError, match="embeddings never change"):
        lane(pairs, {"sinkhorn": PLAIN | {"score": "embedding"}}, adaptation=texts)
    with pytest.raises(DataError, match="one of texts alone"):
        lane(pairs, "laftr", adaptation=texts)
    one = lane(pairs, {"sinkhorn": PLAIN}, adaptation=texts)
    batch = first(one)
    assert term(one, batch, looked(one, batch)).requires_grad


def test_mining_remembers_the_loss_of_every_pair(pairs: Pairs) -> None:
    mining = {"bad_pairs": {"low": 1.0, "high": 1.0, "warmup": 2}}
    frozen = {"optim__lr": 1e-12, "optim__epochs": 2, "adaptation": {"mask": "image.norm:last-1"}}
    one = lane(pairs, mining, **frozen)
    held, losses = one.mitigating.hooks["bad_pairs"], []
    for _ in range(2):
        order = one.loader.state()
        passed: dict[int, float] = {}
        for batch in one.loader.epoch():
            with torch.no_grad():
                easier = looked(one, batch).loss - np.log(len(batch))
            passed |= dict(zip(batch.row.tolist(), easier.tolist()))
        losses.append(passed)
        one.loader.restore(order)
        one.epoch()
    rows = one.loader.rows.tolist()
    # Other pairs in the batch, another loss.
    assert losses[0] != losses[1]
    mean = np.array([(losses[0][r] + 2 * losses[1][r]) / 3 for r in rows])
    assert held.state is not None
    state = held.state()
    kept = (state["memory"] / state["mass"])[rows].numpy()
    assert kept == pytest.approx(mean, rel=1e-4)
    flagged = np.abs(mean - mean.mean()) >= mean.std()
    assert 0 < flagged.sum() < len(rows)
    assert state["flagged"][rows].tolist() == flagged.tolist()
    batch = first(one)
    out = looked(one, batch)
    weight = one.mitigating.weights(batch, out, False)
    assert weight is not None
    now = out.loss.detach().numpy() - np.log(len(batch))
    wanted = np.exp(-((now - mean.mean()) ** 2) / (2 * mean.var()))
    off = flagged[np.searchsorted(rows, batch.row.numpy())]
    assert weight.numpy() == pytest.approx(np.where(off, np.maximum(wanted, 1e-6), 1.0), rel=1e-3)


def test_mistakes_of_a_first_fit_are_those_of_its_prompts(pairs: Pairs) -> None:
    changes: dict[str, Any] = {"optim__lr": 1e-12, "optim__epochs": 1}
    recipe = pairs.recipe("jtt", **changes)
    said = train_one(Job(recipe, Seeds()), pairs.session).mitigations["jtt"]
    one = lane(pairs, **changes)
    rows = one.loader.rows
    wrong = (one.score(rows)[0][:, 0] > 0) != one.ground.labels(rows)
    assert (said["rows"], said["wrong"]) == (len(rows), int(wrong.sum()))


def test_what_a_term_weighs_is_measured_where_pairs_meet(pairs: Pairs) -> None:
    for mask in ("image.block:last-1", "text.block:last-1"):
        ratios = []
        for weight in (0.5, 1.0):
            recipe: Recipe = pairs.recipe(
                {"sinkhorn": PLAIN | {"weight": weight}},
                adaptation={"mask": mask},
                optim__epochs=1,
            )
            said = train_one(Job(recipe, Seeds()), pairs.session).mitigations["sinkhorn"]
            assert {"start", "end"} <= set(said)
            ratios.append(said["start"]["gradient"])
        assert ratios[0] > 0
        assert ratios[1] == pytest.approx(2 * ratios[0], rel=1e-4)


def test_the_released_term_squares_the_matrix_of_similarities(pairs: Pairs) -> None:
    one = lane(pairs, {"sinkhorn_as_released": {"weight": 1.0}})
    batch = first(one)
    out = looked(one, batch)
    assert out.across is not None
    matrix = out.across.detach().double().numpy()
    code, s, wanted = batch.group[:, 0].numpy(), (matrix @ matrix).diagonal(), 0.0
    for g in (0, 1):
        own = matrix[np.ix_(code == g, code == g)]
        t = (own @ own).diagonal()
        wanted += w2(s, t / t.sum())
    found = term(one, batch, out, "sinkhorn_as_released")
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-4)
    # It is close to 1/2 mean(s^2) for each group: all similarities shrink.
    assert wanted == pytest.approx(np.square(s).mean(), rel=0.05)
