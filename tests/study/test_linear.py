"""The linear model of blr_ts: switches, features, evidence and posterior draws."""

from __future__ import annotations

import numpy as np
import pytest
from kit_ledger import bits

from fairtune.config import Choice, Dimension, Float, Int
from fairtune.study.linear.features import Features
from fairtune.study.linear.model import Data, Prior, choose, draw
from fairtune.study.linear.switches import Switches, is_boolean

TYPES = ("norm", "attn.qkv.weight", "attn+mlp")
MASK: dict[str, Dimension] = {
    f"adaptation.mask.bits.{kind}.{depth}": Choice((False, True))
    for depth in range(12)
    for kind in TYPES
}
OTHER: dict[str, Dimension] = {
    "optim.lr": Float(1e-5, 1e-1, log=True),
    "optim.epochs": Int(1, 5),
    "optim.nesterov": Choice((False, True)),
    "layer.3": Choice((False, True)),
    "layer.4": Int(0, 1),
    "one": Choice(("only",)),
}


def test_switches_are_told_by_their_names() -> None:
    found = Switches.among({**OTHER, **MASK})
    assert set(found.names) == set(MASK)
    assert set(found.kinds) == {f"adaptation.mask.bits.{kind}" for kind in TYPES}
    assert sorted(set(found.depths)) == list(range(12))
    assert Switches.among(OTHER).names == ()
    assert Switches.among(OTHER).covariance.shape == (0, 0)


def test_only_a_choice_of_both_booleans_is_boolean() -> None:
    assert is_boolean(Choice((True, False)))
    for other in (Choice((0, 1)), Choice(("False", "True")), Choice((True,)), Int(0, 1)):
        assert not is_boolean(other)


def test_the_prior_covariance_is_the_formula() -> None:
    found = Switches.among(MASK)
    covariance = found.covariance
    assert np.trace(covariance) == pytest.approx(36)
    assert found.root @ found.root.T == pytest.approx(covariance)
    where = {name: i for i, name in enumerate(found.names)}

    def entry(one: str, two: str) -> float:
        return float(
            covariance[where[f"adaptation.mask.bits.{one}"], where[f"adaptation.mask.bits.{two}"]]
        )

    assert entry("norm.3", "attn+mlp.3") == 0
    raw = 0.6 * (0.4 - 0.9) + 0.4 * np.exp(-121 / 8)
    own = 0.6 * 1.3 + 0.4
    assert entry("norm.0", "norm.11") / entry("norm.0", "norm.0") == pytest.approx(raw / own)


def test_the_depth_of_a_kind_is_among_its_own_blocks() -> None:
    names = [*(f"m.image.attn.{d}" for d in range(12)), *(f"m.text.attn.{d}" for d in range(6))]
    covariance = Switches.among({name: Choice((False, True)) for name in names}).covariance
    assert covariance[0, 12] == 0
    ends = 0.6 * (0.4 - 0.9) + 0.4 * np.exp(-25 / 8)
    assert covariance[12, 17] / covariance[12, 12] == pytest.approx(ends / (0.6 * 1.3 + 0.4))


def points(count: int, space: dict[str, Dimension], seed: int = 0) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        point: dict[str, object] = {}
        for name, dimension in space.items():
            match dimension:
                case Choice(options):
                    point[name] = options[int(rng.integers(len(options)))]
                case Int(low, high):
                    point[name] = int(rng.integers(low, high + 1))
                case Float(low, high):
                    point[name] = float(low * (high / low) ** rng.random())
        made.append(point)
    return made


def test_features_are_centred_and_of_unit_variance() -> None:
    space = {**OTHER, **MASK}
    seen = points(4000, space)
    features = Features.of(space, seen)
    assert "one" not in features.space
    assert features.indicators == ()
    mask, rest = features.mask(seen), features.rest(seen)
    assert set(np.unique(mask)) == {-1.0, 1.0}
    lr = rest[:, features.slices["optim.lr"]]
    assert lr.mean(axis=0) == pytest.approx([0, 0], abs=0.05)
    assert lr.std(axis=0) == pytest.approx([1, 1], abs=0.05)
    assert features.weights.sum() == pytest.approx(
        sum(2 * 1.0 if isinstance(d, Choice) else 1.0 for n, d in OTHER.items() if n != "one") / 5
    )


def test_a_conditional_parameter_has_an_indicator_and_is_zero_where_it_is_not() -> None:
    space: dict[str, Dimension] = {
        "m": Choice(("a", "b", "c")),
        "a.x": Float(0, 1),
        "a.y": Float(0, 1),
        "b.z": Choice(("u", "v")),
    }
    seen = [{"m": "a", "a.x": 0.2, "a.y": 0.9}, {"m": "b", "b.z": "v"}, {"m": "b", "b.z": "u"}]
    features = Features.of(space, seen)
    assert features.indicators == (("a.x", "a.y"), ("b.z",))
    rest = features.rest(seen)
    assert rest[:, -2:].tolist() == [[1, 0], [0, 1], [0, 1]]
    assert (rest[1:, features.slices["a.x"]] == 0).all()
    patterns = list(features.patterns(seen))
    assert [sorted(p) for p in patterns] == [["a.x", "a.y", "m"], ["b.z", "m"]]
    # c was never seen: what it brings along is not known, so every pattern may try it.
    assert [p["m"] for p in patterns] == [{"a", "c"}, {"b", "c"}]
    assert patterns[1]["b.z"] == {"u", "v"}


def data(seed: int, effects: np.ndarray, trials: int = 150, noise: float = 0.3) -> Data:
    switches = Switches.among(MASK)
    rng = np.random.default_rng(seed)
    mask = rng.choice([-1.0, 1.0], (trials, 36))
    raw = mask @ effects / np.sqrt((effects**2).sum()) + noise * rng.standard_normal(trials)
    nothing = np.zeros((trials, 0))
    standing = (raw - raw.mean()) / raw.std()
    return Data(mask, nothing, np.zeros(0), switches.root, standing)


def test_evidence_finds_depth_structure_where_there_is_some() -> None:
    switches, rng = Switches.among(MASK), np.random.default_rng(1)
    smooth = [choose(data(i, switches.root @ rng.standard_normal(36))) for i in range(8)]
    rough = [choose(data(i, rng.standard_normal(36))) for i in range(8)]
    assert np.mean([p.structure for p in smooth]) > 0.6
    assert np.mean([p.structure for p in rough]) < 0.3


@pytest.mark.slow
def test_draws_have_the_mean_and_covariance_of_the_posterior() -> None:
    rng = np.random.default_rng(0)
    root = Switches.among(bits(3)).root
    mask, rest = rng.choice([-1.0, 1.0], (10, 3)), rng.standard_normal((10, 2))
    weights, standing = np.array([0.5, 0.5]), rng.standard_normal(10)
    prior = Prior(structure=0.5, explained=0.6, share=0.5)
    held = Data(mask, rest, weights, root, standing)
    found = [draw(held, prior, 1.0, rng) for _ in range(20000)]
    drawn = np.array([[*one.mask, *one.rest] for one in found])
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = 0.3 / 3 * (0.5 * root @ root.T + 0.5 * np.eye(3))
    covariance[3:5, 3:5] = 0.3 * np.diag(weights)
    covariance[5, 5] = 1.0
    features = np.hstack([mask, rest, np.ones((10, 1))])
    precision = np.linalg.inv(covariance) + features.T @ features / 0.4
    expected = np.linalg.inv(precision)
    mean = expected @ features.T @ standing / 0.4
    assert drawn.mean(axis=0) == pytest.approx(mean[:5], abs=0.01)
    assert np.cov(drawn.T) == pytest.approx(expected[:5, :5], abs=0.01)
    cold = np.array([draw(held, prior, 0.5, rng).mask for _ in range(20000)])
    assert np.cov(cold.T) == pytest.approx(expected[:3, :3] / 4, abs=0.005)
