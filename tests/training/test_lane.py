from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from kit import session, tiny_recipe
from kit_language import network_spec
from timm.optim import param_groups_layer_decay
from timm.scheduler.cosine_lr import CosineLRScheduler

from fairtune.adaptation import Rule
from fairtune.errors import ModelError
from fairtune.models import load, names
from fairtune.models.backbone import build, describe
from fairtune.training import lane as rooms
from fairtune.training.lane import Lane
from fairtune.training.net import build_net
from fairtune.training.optim import build_optimizer, clip, distances_of, lr_factor
from fairtune.training.passes import score_rows
from fairtune.training.recipe import Seeds
from fairtune.training.recipe_parts import OptimPart
from fairtune.training.session import Session


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def lane(held: Session, **changes: Any) -> Lane:
    recipe = held.resolve(tiny_recipe(**changes))
    return Lane(recipe, Seeds(data=3, init=4), held.ground(recipe))


def test_the_session_keeps_the_pretrained_values(held: Session) -> None:
    one = lane(held, adaptation__mask="fullft")
    shared = one.ground.backbone
    before = {name: p.clone() for name, p in shared.named_parameters()}
    one.epoch()
    assert all(torch.equal(p, before[name]) for name, p in shared.named_parameters())
    assert not any(p.requires_grad for p in shared.parameters())
    assert all(p.grad is None for p in shared.parameters())


def test_only_masked_tensors_are_copied(held: Session) -> None:
    one = lane(held, adaptation__mask="attn:last-1")
    mine = dict(one.net.backbone.net.named_parameters())
    shared = dict(one.ground.backbone.net.named_parameters())
    copied = {name for name, p in mine.items() if p.data_ptr() != shared[name].data_ptr()}
    assert copied == {n for n in shared if n.startswith("blocks.5.attn.")}
    assert set(one.trained) == copied | {"head.weight", "head.bias"}


def test_autograd_ends_at_the_lowest_trainable_tensor(held: Session) -> None:
    one = lane(held, adaptation__mask="mlp:last-1")
    seen: dict[int, bool] = {}
    for i, block in enumerate(one.net.backbone.net.blocks):
        block.register_forward_hook(
            lambda module, given, out, i=i: seen.update({i: out.requires_grad})
        )
    one.step(next(iter(one.loader.epoch())))
    assert seen == {0: False, 1: False, 2: False, 3: False, 4: False, 5: True}


def test_frozen_modules_stay_in_evaluation_mode(held: Session) -> None:
    one = lane(held, adaptation__mask="norm:5")
    one.epoch()
    modes = {name: m.training for name, m in one.net.backbone.net.named_modules() if name}
    assert modes["blocks.5.norm1"]
    assert not modes["blocks.5.attn"]
    assert not modes["blocks.4"]
    assert one.net.head.training


def test_running_statistics_are_those_of_pretraining(held: Session) -> None:
    changes: dict[str, Any] = {
        "model": {"name": "tf_efficientnet_lite0", "image_size": 32, "weights": "none"},
        "adaptation__mask": "block:last-1,final_conv",
        "optim__epochs": 1,
    }
    one = lane(held, **changes)
    before = {name: b.clone() for name, b in one.net.named_buffers()}
    one.epoch()
    assert before
    assert all(torch.equal(b, before[name]) for name, b in one.net.named_buffers())
    rows = one.ground.val_rows(one.recipe)
    scores, _ = one.score(rows)
    again = rebuilt(one)
    assert np.array_equal(again, scores)


def rebuilt(one: Lane) -> np.ndarray:
    """Score with a fresh net that has been given nothing but the lane's weights."""
    net, trained = build_net(one.recipe, Seeds(data=8, init=9), one.ground)
    with torch.no_grad():
        for name, value in one.weights().items():
            trained[name].copy_(value)
    loader = one.ground.loader(one.ground.val_rows(one.recipe), 128, edit=None)
    forward, autocast = one.ground.forward(one.recipe), one.ground.autocast(one.recipe)
    return score_rows(net, loader, forward, autocast)[0]


def test_the_weights_are_all_that_a_run_leaves(held: Session) -> None:
    one = lane(held, adaptation__mask="attn:last-2,singles")
    one.epoch()
    scores, loss = one.score(one.ground.val_rows(one.recipe))
    assert np.array_equal(rebuilt(one), scores)
    assert scores.dtype == np.float32
    assert scores.shape == (len(one.ground.val_rows(one.recipe)), 1)
    label = one.ground.labels(one.ground.val_rows(one.recipe))
    by_hand = np.logaddexp(0, scores[:, 0].astype(float)) - label * scores[:, 0]
    assert loss == pytest.approx(by_hand.mean(), abs=1e-5)


def test_no_rows_give_no_scores(held: Session) -> None:
    scores, loss = lane(held).score(np.empty(0, dtype=np.int64))
    assert scores.shape == (0, 1)
    assert math.isnan(loss)


def test_a_pass_pauses_before_every_step(held: Session) -> None:
    one = lane(held)
    before, steps = one.weights(), one.stepwise()
    next(steps)
    assert all(torch.equal(before[name], value) for name, value in one.weights().items())
    assert one.under_way is not None
    for done in range(1, one.steps):
        next(steps)
        assert (one.taken, one.under_way.done) == (done, done)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == one.under_way.loss


def test_the_gradient_is_clipped(held: Session) -> None:
    one = lane(held, optim__clip_norm=1e-3)
    one.step(next(iter(one.loader.epoch())))
    total = math.sqrt(sum(float(p.grad.square().sum()) for p in one.trained.values()))  # type: ignore[union-attr]
    assert total == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_batch_can_be_learnt_by_heart(optimizer: str, held: Session) -> None:
    rates = {"lr": 1e-3, "head_lr": 1e-2, "schedule": "constant", "warmup": 0.0}
    part = {**rates, "batch_size": 24, "optimizer": optimizer}
    one = lane(held, adaptation__mask="fullft", optim=part)
    batch = next(iter(one.loader.epoch()))
    losses = [float(one.step(batch)) for _ in range(40)]
    assert 0 < float(batch.label.float().mean()) < 1
    assert losses[-1] < 0.5 * losses[0]


def test_a_weight_of_zero_takes_a_sample_out(held: Session) -> None:
    one, other = (lane(held, optim__batch_size=4) for _ in range(2))
    batch = next(iter(one.loader.epoch()))
    heavy = type(batch)(**{**vars(batch), "weight": torch.tensor([1.0, 1.0, 0.0, 0.0])})
    half = type(batch)(**{name: v if v is None else v[:2] for name, v in vars(batch).items()})
    one.step(heavy)
    other.step(half)
    for name, value in one.weights().items():
        assert torch.allclose(value, other.weights()[name], atol=1e-6), name


def named(*names: str) -> dict[str, torch.nn.Parameter]:
    return {
        name: torch.nn.Parameter(torch.zeros(2) if name.endswith("bias") else torch.zeros(2, 2))
        for name in names
    }


@pytest.mark.parametrize(
    ("optimizer", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimiser_groups(optimizer: str, kind: type[torch.optim.Optimizer]) -> None:
    trained = named("a.weight", "a.bias", "head.weight", "head.bias")
    optim = OptimPart.model_validate(
        {"lr": 1e-4, "head_lr": 1e-2, "weight_decay": 0.1, "optimizer": optimizer}
    )
    made = build_optimizer(trained, optim)
    assert isinstance(made, kind)
    names = {id(p): name for name, p in trained.items()}
    found = {
        tuple(names[id(p)] for p in group["params"]): (group["lr"], group["weight_decay"])
        for group in made.param_groups
    }
    assert found == {
        ("a.weight",): (1e-4, 0.1),
        ("a.bias",): (1e-4, 0.0),
        ("head.weight",): (1e-2, 0.1),
        ("head.bias",): (1e-2, 0.0),
    }
    if optimizer == "sgd":
        assert {group["momentum"] for group in made.param_groups} == {0.9}


def test_an_empty_group_is_left_out() -> None:
    optim = OptimPart(lr=1e-4)
    made = build_optimizer(named("a.bias", "head.weight", "head.bias"), optim)
    assert [len(group["params"]) for group in made.param_groups] == [1, 1, 1]


def test_the_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    factor = lr_factor(OptimPart(epochs=10, warmup=0.1), 10)
    values = [factor(step) for step in range(100)]
    assert values[:11] == pytest.approx([(step + 1) / 11 for step in range(10)] + [1.0])
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))
    assert values[55] == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0, abs=1e-12)
    assert min(values) > 0


def test_the_constant_schedule_stays() -> None:
    factor = lr_factor(OptimPart(epochs=2, warmup=0.25, schedule="constant"), 4)
    assert [factor(step) for step in range(8)] == pytest.approx([1 / 3, 2 / 3] + [1.0] * 6)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert lr_factor(OptimPart(epochs=1, warmup=0.0), 1)(0) == 1.0


def test_the_learning_rates_of_a_run_follow_the_schedule(held: Session) -> None:
    one = lane(held, optim={"lr": 1e-4, "head_lr": 1e-2, "epochs": 2, "batch_size": 64})
    factor = lr_factor(one.recipe.optim, one.steps)
    seen = []
    for _ in range(2):
        for batch in one.loader.epoch():
            seen.append([group["lr"] for group in one.optimizer.param_groups])
            one.step(batch)
    # The peak of the mask's vectors, then those of the head's matrix and vector.
    assert len(seen) == 2 * one.steps
    for step, found in enumerate(seen):
        expected = [1e-4 * factor(step), 1e-2 * factor(step), 1e-2 * factor(step)]
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("model", ["test_vit", "vit_small_dinov2", "deit_small_patch16_224"])
def test_layer_wise_rates_are_timms(model: str) -> None:
    spec = load(model)
    units = describe(spec)
    with torch.device("meta"):
        net = timm.create_model(spec.architecture, num_classes=2)
    theirs: dict[int, float] = {
        id(p): group["lr_scale"]
        for group in param_groups_layer_decay(net, layer_decay=0.5)
        for p in group["params"]
    }
    found = distances_of([name for name, _ in net.named_parameters()], units)
    for name, parameter in net.named_parameters():
        assert 0.5 ** found[name] == theirs[id(parameter)], name
    assert found["head.weight"] == 0
    assert max(found.values()) == units.depth + 1


@pytest.mark.parametrize("model", names())
def test_layer_wise_rates_fall_from_the_head_to_the_stem(model: str) -> None:
    units = describe(load(model))
    for tower in units.towers or (None,):
        depth, added = units.below(units.path_in(tower)), f"{tower}.prompt" if tower else "prompt"
        # Some declare embeddings behind the blocks (Q-Former), or a projection before (open_clip).
        mine = units.of_tower(tower)
        singles = [unit for unit in mine if unit in units.singles]
        first = units.tensors(unit for unit in singles if unit in units.entrance)
        last = units.tensors(unit for unit in singles if unit not in units.entrance)
        tensors = (*first, *units.tensors(set(mine) - set(singles)), *last)
        found = distances_of([*tensors, added], units)
        in_order = [found[tensor] for tensor in tensors]
        assert in_order == sorted(in_order, reverse=True)
        assert (in_order[0], in_order[-1]) == (depth + 1, 1)
        assert {*range(1, depth + 1)} <= {*in_order}
        # What a method adds outside the blocks is fed into them.
        assert found[added] == depth + 1


def test_embeddings_stand_before_the_blocks_wherever_their_tensors_are() -> None:
    units = describe(load("blip2_itm_vit_g"))
    found = distances_of(units.tensors(units.names), units)
    assert found["qformer.embeddings.word_embeddings.weight"] == 13
    assert found["qformer.query_tokens"] == 13
    assert {found[name] for name in units.parameters["image.final_norm"]} == {1}
    assert Rule.parse("image.final_norm,qformer,itc").mask(units).lowest_block(units) is None


def test_rates_of_two_towers_fall_from_each_ones_end() -> None:
    units = describe(network_spec())
    found = distances_of(units.tensors(units.names), units)
    block = {"image": "image.blocks", "text": "text.encoder.layer"}
    assert {found[n] for n in found if n.startswith(f"{block['image']}.0.")} == {6}
    assert {found[n] for n in found if n.startswith(f"{block['text']}.0.")} == {2}
    assert {found[n] for n in found if n.startswith(f"{block['text']}.1.")} == {1}
    assert found["image.pos_embed"] == 7
    assert found["text.embeddings.word_embeddings.weight"] == 3
    projections = ("image.norm.weight", "image.projection.weight", "text.projection.weight")
    assert [found[name] for name in projections] == [1, 1, 1]
    assert found["logit_scale"] == 0


def test_of_two_towers_gains_biases_scale_and_image_positions_are_not_decayed() -> None:
    backbone = build(network_spec(), None, None)
    trained = backbone.tensors()
    optim = OptimPart(lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    made = build_optimizer(trained, optim, backbone.never_decayed)
    plain = {id(p) for g in made.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    free = {name for name, p in trained.items() if id(p) in plain}
    vectors = {name for name, p in trained.items() if p.ndim < 2}
    assert free == vectors | {"image.pos_embed", "image.cls_token"}
    assert "logit_scale" in vectors


def test_a_norm_that_the_architecture_calls_head_is_none_of_the_head() -> None:
    trained = named("head.norm.weight", "head.weight", "head.bias")
    made = build_optimizer(trained, OptimPart(lr=1e-3, head_lr=1e-2))
    found = {id(p): g["lr"] for g in made.param_groups for p in g["params"]}
    assert [found[id(p)] for p in trained.values()] == [1e-3, 1e-2, 1e-2]
    assert distances_of(trained, describe(load("convnext_tiny"))) == {
        "head.norm.weight": 1,
        "head.weight": 0,
        "head.bias": 0,
    }


def test_rates_fall_with_the_distance_from_the_head() -> None:
    trained = named("a.weight", "b.weight", "b.bias", "head.weight")
    optim = OptimPart(lr=1e-3, head_lr=1e-2, layer_decay=0.5)
    distances = {"a.weight": 3, "b.weight": 1, "b.bias": 1, "head.weight": 0}
    made = build_optimizer(trained, optim, (), distances)
    names = {id(p): name for name, p in trained.items()}
    found = {names[id(p)]: g["lr"] for g in made.param_groups for p in g["params"]}
    expected = {"a.weight": 1.25e-4, "b.weight": 5e-4, "b.bias": 5e-4, "head.weight": 1e-2}
    assert found == pytest.approx(expected)
    assert len(made.param_groups) == 4


def test_warm_up_and_cosine_are_timms() -> None:
    optim = OptimPart(epochs=10, warmup=0.2)
    factor, warm, total = lr_factor(optim, 10), 20, 100
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = CosineLRScheduler(
        torch.optim.SGD([parameter], lr=1.0),
        t_initial=total - warm,
        warmup_t=warm,
        warmup_lr_init=1 / (warm + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
    for step in range(total):
        theirs.step_update(step)
        assert factor(step) == pytest.approx(theirs.optimizer.param_groups[0]["lr"]), step


def test_averaged_weights_are_scored_and_left(held: Session) -> None:
    one, plain = lane(held, optim__ema=0.9), lane(held)
    for each in (one, plain):
        each.epoch()
    # The average takes no part in the steps.
    assert all(torch.equal(p, plain.trained[name]) for name, p in one.trained.items())
    rows = one.ground.val_rows(one.recipe)
    scores, _ = one.score(rows)
    assert np.array_equal(rebuilt(one), scores)
    assert not np.allclose(scores, plain.score(rows)[0], atol=1e-4)
    assert all(torch.equal(p, plain.trained[name]) for name, p in one.trained.items())
    assert one.average is not None
    assert one.average.steps == one.steps


def test_mixed_batches_are_trained_towards_mixed_labels(held: Session) -> None:
    one = lane(held, optim__mixup=0.4, optim__clip_norm=0.0)
    batch = next(iter(one.loader.epoch()))
    assert one.mixing is not None
    mixed = one.mixing.apply(batch, 0, "binary", 1)
    out = one._forward(one.net, mixed)
    target = mixed.label[:, 0]
    expected = torch.logaddexp(torch.zeros(()), out.score[:, 0]) - target * out.score[:, 0]
    assert torch.allclose(out.loss, expected, atol=1e-5)
    assert 0 < len(target.unique()) <= 4
    assert float(one.step(batch)) == pytest.approx(expected.sum().item(), rel=1e-4)
    # The next step draws anew.
    assert one.taken == 1


def test_class_weights_come_from_the_rows_that_are_fitted(held: Session) -> None:
    found = []
    for rows in ("train", "train+val"):
        one = lane(held, optim__class_weights="balanced", fit__rows=rows)
        label = one.ground.labels(one.ground.fit_rows(one.recipe))
        assert one.targets.weight is not None
        expected = len(label) / (2 * np.bincount(label))
        assert one.targets.weight[:, 0].numpy() == pytest.approx(expected)
        found.append(expected)
    assert found[0] != pytest.approx(found[1])


def test_the_gradient_is_that_of_the_weighted_mean(held: Session) -> None:
    changes = {"optim__class_weights": "balanced", "optim__label_smoothing": 0.1}
    one = lane(held, **changes, optim__clip_norm=0.0)
    batch = next(iter(one.loader.epoch()))
    out = one._forward(one.net, batch)
    weight, share = one.targets.weight, batch.label * 0.9 + 0.05
    assert weight is not None
    logit = out.score[:, 0]
    loss = -(weight[1] * share * torch.nn.functional.logsigmoid(logit)) - (
        weight[0] * (1 - share) * torch.nn.functional.logsigmoid(-logit)
    )
    (expected,) = torch.autograd.grad(loss.mean(), one.trained["head.weight"])
    one.step(batch)
    assert torch.allclose(one.trained["head.weight"].grad, expected, atol=1e-6)  # type: ignore[arg-type]


def weights_after(held: Session, **changes: Any) -> dict[str, torch.Tensor]:
    one = lane(held, adaptation__mask="block:last-1,norm:all", **changes)
    one.epoch()
    return one.weights()


def test_accumulated_batches_are_one_larger_batch(held: Session) -> None:
    optim = {"lr": 1e-3, "epochs": 2, "optimizer": "sgd"}
    whole = weights_after(held, optim=optim | {"batch_size": 96})
    parts = weights_after(held, optim=optim | {"batch_size": 32, "accumulate": 3})
    other = weights_after(held, optim=optim | {"batch_size": 32})
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-5), name
    assert any(not torch.allclose(value, other[name], atol=1e-5) for name, value in whole.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_computes_the_same(precision: str, held: Session) -> None:
    fit = {"precision": precision}
    plain = weights_after(held, fit=fit)
    again = weights_after(held, fit=fit | {"checkpointing": "blocks"})
    assert all(torch.equal(value, again[name]) for name, value in plain.items())


@pytest.mark.parametrize("mask", ["norm:all,attn:last-2", "block:1", "fullft"])
def test_frozen_weights_are_rounded_once_to_what_autocast_makes_of_them(
    mask: str, held: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"adaptation__mask": mask, "fit__precision": "bf16"}
    one = lane(held, **changes)
    kinds = {name: p.dtype for name, p in one.net.backbone.net.named_parameters()}
    assert {kinds[name] for name in one.trained if name in kinds} == {torch.float32}
    linear = [n for n in kinds if ".mlp." in n and n not in one.trained]
    assert all(kinds[name] == torch.bfloat16 for name in linear)
    assert linear or mask == "fullft"
    assert {p.dtype for p in one.ground.backbone.parameters()} == {torch.float32}
    one.epoch()
    monkeypatch.setattr(rooms, "lower", lambda *a: None)
    plain = lane(held, **changes)
    assert {p.dtype for p in plain.net.parameters()} == {torch.float32}
    plain.epoch()
    rows = one.ground.val_rows(one.recipe)
    assert np.array_equal(one.score(rows)[0], plain.score(rows)[0])
    assert all(torch.equal(v, plain.weights()[n]) for n, v in one.weights().items())


def test_checkpointing_keeps_less(held: Session) -> None:
    kept: dict[str, int] = {}
    for how in ("none", "blocks"):
        one = lane(held, adaptation__mask="fullft", fit__checkpointing=how)
        batch = next(iter(one.loader.epoch()))
        sizes: list[int] = []

        def noted(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
            one._forward(one.net, batch)
        kept[how] = sum(sizes)
    assert kept["blocks"] < 0.5 * kept["none"]


def test_what_cannot_be_computed_by_blocks_says_so(held: Session) -> None:
    model = {"name": "tf_efficientnet_lite0", "image_size": 32, "weights": "none"}
    with pytest.raises(ModelError, match="one by one"):
        lane(held, model=model, adaptation__mask="block:last-1", fit__checkpointing="blocks")


@pytest.mark.parametrize("scale", [0.01, 10.0, math.nan])
def test_clipping_is_torchs_bit_for_bit(scale: float) -> None:
    held: list[list[torch.nn.Parameter]] = [[], []]
    for side in held:
        source = torch.Generator().manual_seed(0)
        for size in ((7, 5), (3,), (2,)):
            side.append(torch.nn.Parameter(torch.zeros(size)))
            side[-1].grad = scale * torch.randn(size, generator=source)
        side[-1].grad = None
    clip(held[0], 1.0)
    torch.nn.utils.clip_grad_norm_(held[1], 1.0)
    for mine, theirs in zip(held[0][:2], held[1][:2], strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0, equal_nan=True)


def test_tf32_is_refused_where_the_device_has_none(held: Session) -> None:
    with pytest.raises(ModelError, match="no TF32"):
        lane(held, fit__precision="tf32")
