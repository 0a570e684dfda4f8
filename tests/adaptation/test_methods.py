"""Every adaptation method on a small network of every family keeps the promises of its kind."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import pytest
import torch
from kit_nets import FAMILIES, adapt, base, images, shaken, trained, with_fields

from fairtune.adaptation.methods import METHODS
from fairtune.errors import ModelError
from fairtune.training.net import set_modes

UNSUPPORTED = {
    *((method, "resnet") for method in ("vera", "fourierft", "oft", "adaptformer", "vpt")),
    *((m, "convnext") for m in ("lora", "rslora", "dora", "adalora", "vera", "fourierft", "oft",
                                "boft", "vpt")),
    ("vpt", "swin"),
}  # fmt: skip
"""Pairs that are refused on a whole block: 3x3 or grouped convolutions, no MLP, no tokens."""
QUICK = {
    ("lora", "swin"), ("ssf", "swin"), ("lora", "eva"), ("vpt", "eva"), ("lora", "clip"),
    ("vpt", "clip"), ("lora", "resnet"), ("loha", "convnext"), ("ssf", "convnext"),
}  # fmt: skip
"""Pairs besides those of the ViT that are tried each time: one for each thing a family does."""
PAIRS = [
    pytest.param(m, f, marks=() if f == "vit" or (m, f) in QUICK else pytest.mark.slow)
    for m in METHODS
    for f in FAMILIES
    if (m, f) not in UNSUPPORTED
]
CLOSE = 1e-5


@dataclass(frozen=True)
class Life:
    """What became of a network in three steps.

    Attributes:
        start: Largest change of an embedding before the first step.
        moved: The same after the last.
        without: Trained tensors that got no gradient, or a zero one in every step.
        strangers: Other tensors with a gradient.
        written: Tensors of the session that changed.
        copied: Frozen tensors that are not the session's.
        kinds: Types of the trained tensors.
        folded: Largest difference of the folded network; None where it cannot be folded.
        names: Whether the folded network has the architecture's tensors, no more and no less.
        restored: Largest difference of a network that was given nothing but the trained tensors.
    """

    start: float
    moved: float
    without: tuple[str, ...]
    strangers: tuple[str, ...]
    written: tuple[str, ...]
    copied: tuple[str, ...]
    kinds: frozenset[torch.dtype]
    folded: float | None
    names: bool
    restored: float


@functools.cache
def life(method: str, family: str) -> Life:
    session, _ = base(family)
    x = images(family)
    with torch.no_grad():
        before = session(x)
    values = {name: p.clone() for name, p in session.net.named_parameters()}
    net, attached = adapt(family, with_fields(method))
    mine = trained(attached)
    net.eval()
    with torch.no_grad():
        start = float((net(x) - before).abs().max())
    set_modes(net)
    seen: set[str] = set()
    optimizer = torch.optim.SGD(mine.values(), lr=0.05)
    for step in range(1, 4):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss = loss + sum(one.penalty() for one in attached if one.penalty is not None)
        loss.backward()
        seen |= {n for n, p in mine.items() if p.grad is not None and float(p.grad.abs().max())}
        optimizer.step()
        for one in attached:
            if one.stepped is not None:
                one.stepped(step)
    strangers = [
        n for n, p in net.named_parameters() if p.grad is not None and not _among(p, mine)
    ]
    shared = {id(p) for p in session.parameters()}
    frozen = [
        (n, p)
        for n, p in net.net.named_parameters()
        if not p.requires_grad and id(p) not in shared
    ]
    net.eval()
    with torch.no_grad():
        after = net(x)
        folded, names = None, True
        if all(one.cannot_fold is None for one in attached):
            plain = copy.deepcopy(net)
            for one in attached:
                if one.fold is not None:
                    one.fold(plain.net)
            folded = float((plain(x) - after).abs().max())
            names = set(plain.net.state_dict()) == set(session.net.state_dict())
        again, other = adapt(family, with_fields(method))
        for name, parameter in trained(other).items():
            parameter.copy_(mine[name])
        again.eval()
        restored = float((again(x) - after).abs().max())
    now = dict(session.net.named_parameters())
    return Life(
        start,
        float((after - before).abs().max()),
        tuple(sorted(set(mine) - seen)),
        tuple(strangers),
        tuple(n for n, v in values.items() if not torch.equal(v, now[n])),
        # peft keeps a count of the rank beside AdaLoRA's matrices.
        tuple(n for n, _ in frozen if ".ranknum." not in n),
        frozenset(p.dtype for p in mine.values()),
        folded,
        names,
        restored,
    )


def _among(parameter: torch.Tensor, mine: dict[str, torch.nn.Parameter]) -> bool:
    return any(parameter is other for other in mine.values())


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_every_trained_tensor_gets_a_gradient_and_nothing_else(method: str, family: str) -> None:
    one = life(method, family)
    assert one.without == ()
    assert one.strangers == ()
    assert one.moved > 0
    assert one.kinds == {torch.float32}


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_frozen_tensors_are_the_sessions_and_stay_as_they_are(method: str, family: str) -> None:
    one = life(method, family)
    assert one.copied == ()
    assert one.written == ()


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_a_method_starts_where_it_says(method: str, family: str) -> None:
    start = life(method, family).start
    if METHODS.get(method).starts_unchanged:  # type: ignore[attr-defined]
        assert start < CLOSE
    else:
        assert start > CLOSE


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_a_method_folds_into_plain_weights_where_it_says(method: str, family: str) -> None:
    one = life(method, family)
    if METHODS.get(method).merges:  # type: ignore[attr-defined]
        assert one.folded is not None
        assert one.folded < CLOSE
        assert one.names
    else:
        assert one.folded is None


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_the_trained_tensors_are_all_that_is_to_be_stored(method: str, family: str) -> None:
    assert life(method, family).restored == 0.0


@pytest.mark.parametrize(("method", "family"), sorted(UNSUPPORTED))
def test_an_unsupported_network_is_refused_with_unit_layer_and_remedy(
    method: str, family: str
) -> None:
    with pytest.raises(ModelError) as caught:
        adapt(family, with_fields(method))
    assert method in caught.value.what
    assert caught.value.where
    assert caught.value.found
    assert caught.value.todo


@pytest.mark.parametrize(
    "method", [m for m in METHODS if "dropout" in METHODS.get(m).model_fields]
)
def test_dropout_acts_in_training_only(method: str) -> None:
    net, attached = adapt("vit", with_fields(method, dropout=0.5))
    shaken(attached)
    x = images("vit")
    with torch.no_grad():
        assert any(not torch.equal(net(x), net(x)) for _ in range(4))
        net.eval()
        assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("method", list(METHODS))
def test_names_say_the_layer_and_not_how_it_is_wrapped(method: str) -> None:
    _, units = base("vit")
    _, attached = adapt("vit", with_fields(method))
    known = {t.rpartition(".")[0] for t in units.tensors(units.names)}
    known |= {"blocks.0", "blocks.5", "blocks.0.mlp", "blocks.5.mlp"}
    for name in trained(attached):
        assert any(name.startswith(f"{module}.") for module in known), name
        assert "base_layer" not in name
        assert ".p0" not in name


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = (trained(adapt("vit", "lora", seed=s)[1]) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "blocks.0.attn.qkv.lora_A.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
