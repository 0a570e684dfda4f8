"""Adapters of frozen towers: by hand in numpy, at once and by steps, stored and restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit_blip
import numpy as np
import pytest
import torch
from kit_pairs import Pairs, shared
from numpy.typing import NDArray

from fairtune.config.model import Source
from fairtune.config.yaml12 import dumps, loads
from fairtune.errors import ConfigError
from fairtune.experiment.checkpoint import read_weights, restore
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.report.usage import usage_words
from fairtune.study.written import compile_space
from fairtune.training.lane import Lane
from fairtune.training.net import build_net
from fairtune.training.readout import solve
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job, train_one
from fairtune.usage import Question, Usage
from fairtune.usage.clip_adapt import ClipAdapt
from fairtune.usage.nets.prompts import vectors_of
from fairtune.usage.readout import mean_loss, softened

Floats = NDArray[np.float64]

TARGETS = {"abnormal": "binary", "kind": "multiclass", "signs": "multilabel"}
EVERY: dict[str, Any] = {
    "prototypes": "prototypes",
    "clip_adapter": {"clip_adapter": {"ratio": 0.3}},
    "tip_adapter": {"tip_adapter": {"shots": 4, "beta": 3.0}},
    "tip_adapter_f": {"tip_adapter": {"shots": 4, "fine_tune": True}},
}
TRAINED = [name for name in EVERY if name != "tip_adapter"]
JUDGE = Judge.of(["auc"], {"min_group": {"n": 2, "positives": 1, "negatives": 1}})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return shared(tmp_path_factory.getbasetemp())


def adapt(by: Any, **more: Any) -> dict[str, Any]:
    return {"clip_adapt": {"by": by, **more}}


def recipe_of(
    pairs: Pairs, by: Any, target: str = "abnormal", *members: Any, **changes: Any
) -> Recipe:
    return pairs.recipe(
        *members, target=target, usage=adapt(by), adaptation={"mask": "none"}, **changes
    )


def unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def paired(classes: Floats, task: str) -> Floats:
    return classes if task == "multiclass" else classes[:, 1::2] - classes[:, 0::2]


def words(pairs: Pairs, recipe: Recipe) -> tuple[Floats, float]:
    """Return unit vectors of the classes, averaged by hand, and the factor of cosines."""
    ground = pairs.session.ground(recipe)
    question: Question = ground.question(recipe)
    assert question.prompts is not None
    assert question.owner is not None
    with torch.no_grad():
        said = unit(ground.backbone.words(question.prompts).double().numpy())
    owner = question.owner.numpy()
    means = np.stack([said[owner == c].mean(axis=0) for c in range(owner.max() + 1)])
    return unit(means), float(ground.backbone.language.logit_scale.exp())


def images(pairs: Pairs, recipe: Recipe, split: str) -> Floats:
    """Return what is compared, straight from the network."""
    ground = pairs.session.ground(recipe)
    rows = ground.pack.rows(split)
    (batch,) = ground.loader(rows, len(rows), edit=None).epoch(shuffle=False)
    with torch.no_grad():
        found: Floats = ground.backbone.joint(batch.image).double().numpy()
    return found


def made(pairs: Pairs, recipe: Recipe, seed: int = 0) -> tuple[Floats, dict[str, Floats]]:
    """Return the validation logits of a run, and the tensors that it stores."""
    result = train_one(Job(recipe, Seeds(init=seed)), pairs.session)
    weights = {name: w.double().numpy() for name, w in result.weights.items()}
    return result.epochs[-1].scores.astype(np.float64), weights


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", EVERY)
def test_scores_follow_from_what_is_stored_by_the_published_formula(
    name: str, target: str, pairs: Pairs
) -> None:
    recipe, task = recipe_of(pairs, EVERY[name], target), TARGETS[target]
    score, held = made(pairs, recipe)
    t, s = words(pairs, recipe)
    x = unit(images(pairs, recipe, "val"))
    match name:
        case "prototypes":
            classes = s * x @ unit(held["head.prototypes"]).T
        case "clip_adapter":
            inner = np.maximum(np.maximum(x @ held["head.down"].T, 0) @ held["head.up"].T, 0)
            classes = s * unit(0.3 * inner + 0.7 * x) @ t.T
        case _:
            alpha, beta = held["head.alpha"], held["head.beta"]
            keys = held["head.keys"]
            near = x @ (keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)).T
            classes = s * x @ t.T + alpha * np.exp(-beta * (1 - near)) @ held["head.values"]
    np.testing.assert_allclose(score, paired(classes, task), atol=2e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_cached_rows_are_training_rows_with_their_classes(target: str, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, EVERY["tip_adapter"], target)
    _, held = made(pairs, recipe)
    ground = pairs.session.ground(recipe)
    rows = ground.pack.rows("train")
    x, label = unit(images(pairs, recipe, "train")), ground.labels(rows)
    keys, values = held["head.keys"], held["head.values"]
    used = values.any(axis=1)
    assert len(used) == 4 * values.shape[1]
    assert not keys[~used].any()
    near = keys[used] @ x.T
    np.testing.assert_allclose(near.max(axis=1), 1, atol=1e-5)
    found = label[near.argmax(axis=1)]
    if TARGETS[target] == "multilabel":
        expected = np.stack([1 - found, found], axis=2).reshape(len(found), -1)
    else:
        expected = np.eye(values.shape[1])[found]
        assert values.sum(axis=0).max() == 4
    np.testing.assert_array_equal(values[used], expected)


def loss_of(recipe: Recipe, pairs: Pairs, logits: Floats, zero: Floats) -> float:
    """Return what a fit minimises, by hand."""
    ground = pairs.session.ground(recipe)
    label = ground.labels(ground.pack.rows("train"))
    target = softened(label, ground.task, ground.outputs, 0.0)
    loss, _ = mean_loss(logits, target, ground.task)
    return loss + 0.5 * recipe.optim.l2 * float(((logits - zero) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("target", TARGETS)
def test_trained_prototypes_are_where_the_loss_is_least(target: str, pairs: Pairs) -> None:
    recipe, task = recipe_of(pairs, "prototypes", target, optim__l2=0.1), TARGETS[target]
    _, held = made(pairs, recipe)
    t, s = words(pairs, recipe)
    x = unit(images(pairs, recipe, "train"))
    zero = paired(s * x @ t.T, task)

    def at(w: Floats) -> float:
        return loss_of(recipe, pairs, paired(s * x @ unit(w).T, task), zero)

    best, rng = at(held["head.prototypes"]), np.random.default_rng(0)
    assert best < at(t) - 1e-3
    for _ in range(20):
        step = rng.normal(size=t.shape)
        assert at(held["head.prototypes"] + 1e-2 * unit(step)) > best - 1e-7


@pytest.mark.parametrize("name", TRAINED)
def test_a_large_penalty_is_zero_shot_and_a_small_one_fits_better(name: str, pairs: Pairs) -> None:
    tight, loose = (recipe_of(pairs, EVERY[name], optim__l2=l2) for l2 in (1e6, 1e-4))
    zero, _ = made(pairs, pairs.recipe(usage="zero_shot", adaptation={"mask": "none"}))
    if name != "tip_adapter_f":  # whose cached rows have their say at any penalty
        np.testing.assert_allclose(made(pairs, tight)[0], zero, atol=5e-2)
    losses = [
        train_one(Job(recipe, Seeds()), pairs.session).epochs[0].train_loss
        for recipe in (tight, loose)
    ]
    assert losses[1] < losses[0] - 1e-3


def test_a_network_of_no_share_and_a_cache_of_no_weight_say_what_the_text_says(
    pairs: Pairs,
) -> None:
    recipe = recipe_of(pairs, EVERY["tip_adapter"])
    zero, _ = made(pairs, pairs.recipe(usage="zero_shot", adaptation={"mask": "none"}))
    net, _ = build_net(recipe, Seeds(), pairs.session.ground(recipe))
    head: Any = net.head
    x = torch.from_numpy(images(pairs, recipe, "val")).float()
    np.testing.assert_allclose(head(x).detach().numpy(), zero, atol=1e-5)  # no rows yet
    np.testing.assert_allclose(head.said(x).numpy(), zero, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_same_seed_same_head_and_the_seed_matters_where_something_is_drawn(
    name: str, pairs: Pairs
) -> None:
    recipe = recipe_of(pairs, EVERY[name])
    one, same, other = (made(pairs, recipe, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.array_equal(one, other) == (name == "prototypes")


@pytest.mark.parametrize("name", TRAINED)
def test_by_steps_the_gradient_reaches_all_that_trains_and_nothing_else(
    name: str, pairs: Pairs
) -> None:
    recipe = recipe_of(pairs, EVERY[name], "abnormal", {"sinkhorn": {"least": 2}})
    assert not recipe.solved
    one = Lane(recipe, Seeds(), pairs.session.ground(recipe))
    before = {key: value.clone() for key, value in one.net.state_dict().items()}
    stored = {key: value.clone() for key, value in one.trained.items()}
    assert one.step(next(iter(one.loader.epoch()))).isfinite()
    for key, value in one.net.state_dict().items():
        moves = key.startswith("head.") and dict(one.net.named_parameters())[key].requires_grad
        assert torch.equal(value, before[key]) != moves, key
    assert [p for p in one.net.parameters() if p.requires_grad]
    still = {"head.ratio", "head.values", "head.alpha", "head.beta"}
    assert {k for k, v in one.trained.items() if torch.equal(v, stored[k])} == still & set(stored)


@pytest.mark.parametrize(
    "member", ["reweight", "group_dro", "resample", "bad_pairs", "sam", "jtt"]
)
def test_mitigations_act_on_an_adapter(member: str, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, "prototypes", "abnormal", member)
    result = train_one(Job(recipe, Seeds()), pairs.session)
    assert len(result.epochs) == recipe.optim.epochs
    assert np.isfinite(result.epochs[-1].scores).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_stored_run_is_restored_and_scores_as_it_did(
    name: str, pairs: Pairs, tmp_path: Path
) -> None:
    recipe = recipe_of(pairs, EVERY[name], "kind")
    stored = run(Job(recipe, Seeds()), pairs.session, Runs(tmp_path), JUDGE, keep_weights=True)
    assert isinstance(stored, StoredRun)
    again = restore(stored, pairs.session)
    rows = again.ground.pack.rows("val")
    np.testing.assert_allclose(again.score(rows), stored.scores[-1], atol=1e-4)


CHOOSES: dict[str, Any] = {
    "ratio": {"clip_adapter": {"ratio": "validation"}},
    "alpha, beta": {"tip_adapter": {"shots": 6, "alpha": "validation", "beta": "validation"}},
    "alpha": {"tip_adapter": {"shots": 6, "alpha": "validation"}},
}


@pytest.mark.parametrize("name", CHOOSES)
def test_validation_chooses_of_all_rows_what_is_stored(name: str, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, CHOOSES[name])
    usage = recipe.usage
    assert isinstance(usage, ClipAdapt)
    assert usage.chooses == tuple(name.split(", "))
    _, held = made(pairs, recipe)
    ground = pairs.session.ground(recipe)
    label = ground.labels(ground.val_rows(recipe))
    losses = []
    for mix in usage.adapter.mixes:
        numbers = {k: v for k, v in mix.items() if k in usage.chooses}
        if numbers.get("alpha") == 0:
            score, _ = made(pairs, pairs.recipe(usage="zero_shot", adaptation={"mask": "none"}))
        else:
            ((kind, fields),) = CHOOSES[name].items()
            score, _ = made(pairs, recipe_of(pairs, {kind: fields | numbers}))
        losses.append(np.logaddexp(0, np.where(label == 1, -1, 1) * score[:, 0]).mean())
    best = usage.adapter.mixes[int(np.argmin(losses))]
    for key, value in best.items():
        assert held[f"head.{key}"] == pytest.approx(value)


def test_no_score_follows_from_a_label_of_its_own_patient(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(pairs, CHOOSES["alpha, beta"])
    ground = pairs.session.ground(recipe)
    rows = ground.val_rows(recipe)
    honest = solve(recipe, Seeds(), ground)[0].scores
    patient = ground.pack.patient_codes[rows]
    labels, true = type(ground).labels, ground.labels(rows)
    moved = False
    for one in np.unique(patient)[:8]:
        flipped = np.where(patient == one, 1 - true, true)
        with monkeypatch.context() as patch:
            patch.setattr(
                type(ground),
                "labels",
                lambda self, asked, f=flipped: (
                    f if np.array_equal(asked, rows) else labels(self, asked)
                ),
            )
            scores = solve(recipe, Seeds(), ground)[0].scores
        np.testing.assert_array_equal(scores[patient == one], honest[patient == one])
        moved |= not np.array_equal(scores, honest)
    assert moved  # scores of other patients may follow from it


def test_half_a_cache_is_of_each_group() -> None:
    from fairtune.usage.drawing import classes_of, drawn

    label = np.array([0] * 30 + [1] * 30)
    group = np.array(([0] * 25 + [1] * 5) * 2)
    group[3] = -1
    held = classes_of(label, "binary", 2)
    taken = drawn(held, 8, "both", group, 0)
    cells = [((label[taken] == y) & (group[taken] == g)).sum() for y in (0, 1) for g in (0, 1)]
    assert cells == [4, 4, 4, 4]
    few = drawn(held, 20, "both", group, 0)
    assert ((label[few] == 1) & (group[few] == 1)).sum() == 5  # all that there are
    assert 3 not in few
    assert len(drawn(held, 8, "class", group, 0)) == 16
    assert (np.bincount(label[drawn(held, 8, "class", group, 1)]) == 8).all()
    assert len(drawn(held, 8, "none", group, 0)) == 16
    assert len(drawn(held, 100, "none", group, 0)) == 60
    assert not np.array_equal(drawn(held, 8, "class", group, 0), drawn(held, 8, "class", group, 1))


def test_groups_of_a_cache_are_those_of_the_first_objective(pairs: Pairs) -> None:
    by = {"tip_adapter": {"balance": "both", "shots": 3}}
    recipe = recipe_of(pairs, by)
    assert isinstance(recipe.usage, ClipAdapt)
    assert recipe.usage.attribute == "sex"
    named = recipe_of(pairs, {"tip_adapter": {**by["tip_adapter"], "attribute": "sex"}})
    assert recipe.identity() == named.identity()
    idle = recipe_of(pairs, {"tip_adapter": {"shots": 3, "attribute": "age"}})
    assert idle.identity() == recipe_of(pairs, {"tip_adapter": {"shots": 3}}).identity()
    fields = pairs.fields(usage=adapt(by), adaptation={"mask": "none"})
    with pytest.raises(ConfigError, match="nothing says of which attribute"):
        pairs.session.resolve(Recipe.model_validate(fields))
    fields["usage"] = adapt({"tip_adapter": {"balance": "both", "attribute": "race"}})
    with pytest.raises(Exception, match="not an attribute of the recipe"):
        Recipe.model_validate(fields)


def test_what_does_not_act_is_not_part_of_the_identity(pairs: Pairs) -> None:
    plain = recipe_of(pairs, EVERY["tip_adapter"])
    assert recipe_of(pairs, EVERY["tip_adapter"], optim__l2=0.5).identity() == plain.identity()
    tuned = recipe_of(pairs, EVERY["tip_adapter_f"])
    assert recipe_of(pairs, EVERY["tip_adapter_f"], optim__l2=0.5).identity() != tuned.identity()
    assert recipe_of(pairs, EVERY["tip_adapter_f"], optim__epochs=9).identity() == tuned.identity()


REFUSED: dict[str, tuple[dict[str, Any], tuple[Any, ...], str]] = {
    "a mask": ({"adaptation": {"mask": "norm:all"}}, (), "trains no units of the model"),
    "a cache that does not train": (
        {"usage": adapt("tip_adapter")},
        ("reweight",),
        "nothing is trained",
    ),
    "validation and a mitigation": (
        {"usage": adapt(CHOOSES["ratio"])},
        ("reweight",),
        "chosen on validation only where the head is fitted at once",
    ),
    "another head": ({}, ("domain_independent",), "has no head that 'domain_independent'"),
    "similarity": ({}, ({"sinkhorn": {"score": "similarity"}},), "only pairs of images and texts"),
    "a share of nothing": ({"usage": adapt({"clip_adapter": {"ratio": 0}})}, (), "ratio"),
    "a wrong word": ({"usage": adapt({"clip_adapter": {"ratio": "test"}})}, (), "validation"),
    "no such adapter": ({"usage": adapt("tip_adapterr")}, (), "tip_adapter"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_go_together_is_refused(what: str, pairs: Pairs) -> None:
    changes, members, message = REFUSED[what]
    plain = {"usage": adapt("prototypes"), "adaptation": {"mask": "none"}}
    with pytest.raises(Exception, match=message):
        pairs.recipe(*members, **(plain | changes))


def test_validation_cannot_choose_where_no_rows_are_left(pairs: Pairs) -> None:
    with pytest.raises(ConfigError, match="no rows are left to validate on"):
        recipe_of(pairs, CHOOSES["alpha"], fit__rows="train+val")
    recipe = recipe_of(pairs, EVERY["clip_adapter"], fit__rows="train+val")
    assert train_one(Job(recipe, Seeds()), pairs.session).epochs[0].scores.shape == (0, 1)


def test_class_weights_and_smoothed_labels_act(pairs: Pairs) -> None:
    plain, _ = made(pairs, recipe_of(pairs, "prototypes"))
    for field, value in (("class_weights", "balanced"), ("label_smoothing", 0.2)):
        other, _ = made(pairs, recipe_of(pairs, "prototypes", **{f"optim__{field}": value}))
        assert not np.allclose(plain, other, atol=1e-3)


def test_features_that_are_compared_are_computed_once(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairtune.models.backbone import Backbone

    asked: list[int] = []
    real = Backbone.joint
    monkeypatch.setattr(
        Backbone, "joint", lambda self, image: asked.append(len(image)) or real(self, image)
    )
    first, second = pairs.another(), pairs.another()
    recipe = recipe_of(pairs, EVERY["prototypes"], optim__l2=0.037)
    one = train_one(Job(recipe, Seeds()), first)
    asked.clear()
    again = train_one(Job(recipe, Seeds()), first)
    elsewhere = train_one(Job(recipe, Seeds()), second)
    assert not asked
    for other in (again, elsewhere):
        np.testing.assert_array_equal(one.epochs[0].scores, other.epochs[0].scores)


@pytest.mark.parametrize("name", EVERY)
def test_several_queries_of_an_image_are_compared_by_the_nearest(name: str) -> None:
    usage = ClipAdapt.model_validate({"by": EVERY[name]})
    assert isinstance(usage, Usage)
    text = torch.nn.functional.normalize(torch.randn(2, 6, generator=torch.manual_seed(0)), dim=1)
    question = Question("binary", 1)
    head: Any = usage.adapter.head(text, torch.tensor(7.0), question, torch.manual_seed(1))
    image = torch.randn(5, 3, 6, generator=torch.manual_seed(2))
    if name.startswith("tip"):
        head.hold(image[:2], torch.eye(2))
    found = head(image)
    assert found.shape == (5, 1)
    cosine = torch.nn.functional.normalize(image, dim=-1) @ text.T
    expected = 7 * (cosine.amax(dim=1)[:, 1:] - cosine.amax(dim=1)[:, :1])
    torch.testing.assert_close(head.said(image), expected)
    alone = torch.cat([head(image[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(found, alone)


def test_prompts_may_be_given_by_templates(pairs: Pairs) -> None:
    plain = recipe_of(pairs, "prototypes")
    other = pairs.recipe(
        usage=adapt("prototypes", templates=["findings of {}"]), adaptation={"mask": "none"}
    )
    assert plain.identity() != other.identity()
    ground = pairs.session.ground(plain)
    texts = [vectors_of(ground.question(r), ground.backbone) for r in (plain, other)]
    assert not torch.allclose(*texts)
    with pytest.raises(Exception, match="exactly one"):
        pairs.recipe(
            usage=adapt("prototypes", templates=["findings"]), adaptation={"mask": "none"}
        )


def test_a_study_searches_adapters_with_their_ranges(pairs: Pairs) -> None:
    tip = {"tip_adapter": {"alpha": "declared", "fine_tune": "declared", "shots": 4}}
    network = {"clip_adapter": {"ratio": "declared"}}
    among = {"one_of": ["prototypes", network, tip]}
    written = {"usage": {"one_of": ["zero_shot", {"clip_adapt": {"by": among}}]}}
    located = loads(dumps(written), "space.yaml")
    space, faults = compile_space(located.data, Source(located))
    assert not faults
    names = set(space.parameters(pairs.session.units(recipe_of(pairs, "prototypes"))))
    by = "usage.clip_adapt.by"
    assert names == {
        "usage",
        by,
        f"{by}.clip_adapter.ratio",
        f"{by}.tip_adapter.alpha",
        f"{by}.tip_adapter.fine_tune",
    }


def test_what_validation_chose_stands_beside_the_threshold(pairs: Pairs, tmp_path: Path) -> None:
    chosen = recipe_of(pairs, CHOOSES["alpha, beta"])
    stored = run(Job(chosen, Seeds()), pairs.session, Runs(tmp_path), JUDGE, keep_weights=True)
    assert isinstance(stored, StoredRun)
    held = read_weights(stored)
    numbers = {name: float(held[f"head.{name}"]) for name in ("alpha", "beta")}
    assert stored.operating["chosen"] == numbers
    assert f"validation chose alpha {numbers['alpha']:g}, beta" in usage_words(stored)
    plain = run(Job(recipe_of(pairs, "prototypes"), Seeds()), pairs.session, Runs(tmp_path), JUDGE)
    assert isinstance(plain, StoredRun)
    assert "chosen" not in plain.operating


@pytest.mark.parametrize("by", ["prototypes", "tip_adapter"])
def test_queries_of_a_q_former_are_kept_and_adapted(by: str, pairs: Pairs, tmp_path: Path) -> None:
    fields = pairs.fields(usage=adapt(by), adaptation={"mask": "none"})
    fields["model"]["name"] = str(kit_blip.write("blip2", tmp_path))
    recipe = pairs.session.resolve(Recipe.model_validate(fields))
    ground = pairs.session.ground(recipe)
    rows = ground.val_rows(recipe)
    assert ground.seen(recipe, rows).shape == (len(rows), kit_blip.QUERIES, kit_blip.DIM)
    stored = run(Job(recipe, Seeds()), pairs.session, Runs(tmp_path), JUDGE, keep_weights=True)
    assert isinstance(stored, StoredRun)
    np.testing.assert_allclose(
        restore(stored, pairs.session).score(rows), stored.scores[-1], atol=1e-3
    )
