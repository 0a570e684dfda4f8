"""Zero-shot: transformers' own probabilities, ensembles, queries, prompts the wrong way round."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_blip import blip2
from kit_blip import pairs as blip_pairs
from kit_pairs import Pairs, shared
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from fairtune.config import settings
from fairtune.config.yaml12 import dumps, loads
from fairtune.data.batch import Batch
from fairtune.errors import ConfigError
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.models import load
from fairtune.models.backbone import Backbone, build
from fairtune.models.registries import LOADERS
from fairtune.models.tokenizer_rule import TokenizerRule
from fairtune.models.weights import from_file
from fairtune.report.usage import text_warnings_of
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job, train_one
from fairtune.usage import Output, Question, Task
from fairtune.usage.zero_shot import ZeroShot

SIDE, WORDS, EOS = 32, 50, 49
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
}
TEXT = IMAGE | {"vocab_size": WORDS, "max_position_embeddings": 8}
del TEXT["patch_size"]
SENTENCES = torch.tensor(
    [[3, 7, 11, EOS, 1, 1, 1, 1], [5, 9, EOS, 1, 1, 1, 1, 1], [2, 30, 4, 8, 6, EOS, 1, 1]]
)
NONE = {"mask": "none"}
JUDGE = Judge.of(["auc"], {"min_group": {"n": 2, "positives": 1, "negatives": 1}})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return shared(tmp_path_factory.getbasetemp())


def theirs(kind: str) -> Any:
    """A random model of transformers; its positions and biases are no zeros."""
    torch.manual_seed(4)
    image, text = IMAGE | {"image_size": SIDE}, TEXT | {"bos_token_id": 0, "eos_token_id": EOS}
    model: Any
    if kind == "clip":
        model = CLIPModel(CLIPConfig(vision_config=image, text_config=text, projection_dim=20))
    else:
        text |= {"projection_size": IMAGE["hidden_size"]}
        model = SiglipModel(SiglipConfig(vision_config=image, text_config=text))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def ours(kind: str, model: Any, folder: Path) -> Backbone:
    """The same model, loaded from its file."""
    model.save_pretrained(folder)
    more = {"dim": 20, "eos_token_id": EOS} if kind == "clip" else {}
    rule = TokenizerRule(limit=8, **({"pad": "limit", "pad_token": "</s>"} if not more else {}))
    spec = load("clip_vit_b32" if kind == "clip" else "siglip_base_patch16_224")
    spec = spec.model_copy(
        update={
            "loader": LOADERS.parse({kind: {"image": IMAGE, "text": TEXT, **more}}),
            "image_size": spec.image_size.model_copy(update={"default": SIDE, "multiple_of": 8}),
            "tokenizer": rule,
        }
    )
    here = settings({"FAIRTUNE_CACHE": str(folder / "cache"), "FAIRTUNE_OFFLINE": "1"})
    return build(spec, None, from_file(spec, folder / "model.safetensors", here))


def images(count: int = 5) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def batch(image: Tensor, label: Tensor) -> Batch:
    n = len(image)
    return Batch(torch.arange(n), image, label, torch.zeros(n, 1), torch.ones(n))


def scored(backbone: Backbone, task: Task, tokens: Tensor, owner: Tensor, image: Tensor) -> Output:
    outputs = {"binary": 1, "multiclass": int(owner.max()) + 1, "multilabel": 1}[task]
    usage = ZeroShot()
    net = usage.build(backbone, Question(task, outputs, tokens, owner), torch.Generator())
    net.eval()
    with torch.inference_mode():
        return usage.score(net, batch(image, torch.zeros(len(image)).long()), task)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_probabilities_are_transformers_own(kind: str, tmp_path: Path) -> None:
    model = theirs(kind)
    backbone = ours(kind, model, tmp_path)
    attended = None if kind == "siglip" else (SENTENCES != 1).long()
    tokens = SENTENCES if kind == "siglip" else SENTENCES.masked_fill(SENTENCES == 1, -1)
    with torch.no_grad():
        told = model(pixel_values=images(), input_ids=SENTENCES, attention_mask=attended)
    expected = told.logits_per_image.softmax(dim=1)
    several = scored(backbone, "multiclass", tokens, torch.arange(3), images())
    torch.testing.assert_close(several.score.softmax(dim=1), expected, atol=1e-5, rtol=0)
    two = told.logits_per_image[:, :2].softmax(dim=1)[:, 1]  # a bias of the logits cancels
    for task in ("binary", "multilabel"):
        found = scored(backbone, task, tokens[:2], torch.arange(2), images())
        torch.testing.assert_close(found.score.sigmoid()[:, 0], two, atol=1e-5, rtol=0)
    torch.testing.assert_close(several.loss, -expected[:, 0].log(), atol=1e-4, rtol=0)


def test_a_class_is_the_mean_of_its_sentences(tmp_path: Path) -> None:
    backbone = ours("clip", theirs("clip"), tmp_path)
    tokens = SENTENCES.masked_fill(SENTENCES == 1, -1)
    owner = torch.tensor([1, 0, 1])
    found = scored(backbone, "multiclass", tokens, owner, images()).score
    with torch.no_grad():
        said = functional.normalize(backbone.words(tokens), dim=1)
        image = functional.normalize(backbone.joint(images()), dim=1)
        means = torch.stack([said[1], (said[0] + said[2]) / 2])
        cosine = image @ functional.normalize(means, dim=1).T
        expected = backbone.language.logit_scale.exp() * cosine
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_of_several_queries_the_nearest_counts() -> None:
    backbone = build(blip2(), None, None)
    image, tokens = blip_pairs(3)
    found = scored(backbone, "binary", tokens[:2], torch.arange(2), image)
    with torch.no_grad():
        queries = functional.normalize(backbone.joint(image), dim=-1)
        said = functional.normalize(backbone.words(tokens[:2]), dim=-1)
    nearest = torch.einsum("bqd,kd->bkq", queries, said).amax(dim=2)
    scale = backbone.language.logit_scale.exp().detach()
    expected = scale * (nearest[:, 1:] - nearest[:, :1])
    torch.testing.assert_close(found.score, expected, atol=1e-5, rtol=1e-5)
    assert found.embedding.shape == (3, queries.shape[2])


def test_cosines_are_not_rounded_where_the_towers_are(pairs: Pairs) -> None:
    recipe = zero(pairs)
    ground = pairs.session.ground(recipe)
    usage, question = recipe.usage, ground.question(recipe)
    net = usage.build(ground.backbone, question, torch.Generator()).eval()
    image = torch.randn(64, ground.backbone.language.joint_dim)
    with torch.inference_mode():
        exact = net.head(image, net.backbone)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(net.head(image, net.backbone), exact)


def zero(pairs: Pairs, target: str = "abnormal", usage: Any = "zero_shot", **more: Any) -> Recipe:
    return pairs.recipe(target=target, usage=usage, adaptation=NONE, **more)


def scores(recipe: Recipe, pairs: Pairs, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return train_one(Job(recipe, Seeds(data=seed, init=seed)), pairs.session).epochs[0].scores


def test_sentences_are_embedded_once_for_all_images(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = zero(pairs)
    calls: list[int] = []
    real = type(pairs.session.ground(recipe).backbone.language).words
    monkeypatch.setattr(
        type(pairs.session.ground(recipe).backbone.language),
        "words",
        lambda self, tokens: calls.append(len(tokens)) or real(self, tokens),
    )
    monkeypatch.setattr("fairtune.training.scored.BATCH", 4)
    assert len(scores(recipe, pairs)) > 8
    assert calls == [6]  # two templates with three phrases


def test_nothing_of_the_optimisation_and_no_seed_matters(pairs: Pairs) -> None:
    plain = zero(pairs)
    other = zero(pairs, optim={"epochs": 7, "head_lr": 0.5, "l2": 3.0, "label_smoothing": 0.1})
    assert plain.identity() == other.identity()
    assert plain.key(Seeds()) == other.key(Seeds())
    assert plain.canonical()["optim"] == {}
    np.testing.assert_array_equal(scores(plain, pairs, 1), scores(other, pairs, 2))


def test_templates_of_the_recipe_take_the_place_of_the_data_sets(pairs: Pairs) -> None:
    plain = zero(pairs)
    same = zero(pairs, usage={"zero_shot": {"templates": ["a chest x ray with {}", "{}"]}})
    other = zero(pairs, usage={"zero_shot": {"templates": ["{} of the lung"]}})
    np.testing.assert_array_equal(scores(plain, pairs), scores(same, pairs))
    assert not np.allclose(scores(plain, pairs), scores(other, pairs), atol=1e-3)
    for wrong, message in (
        (["a chest x ray"], "exactly one {}"),
        (["{} and {}"], "exactly one {}"),
        (["{}", "{}"], "stands twice"),
    ):
        for usage in ("zero_shot", "contrastive", "clip_adapt"):
            fields = pairs.fields(usage={usage: {"templates": wrong}}, adaptation=NONE)
            with pytest.raises(Exception, match=message):
                Recipe.model_validate(fields)


def rewritten(pairs: Pairs, folder: Path, **changes: Any) -> Pairs:
    """Return the same data set with other fields of its spec."""
    made = Pairs(folder)
    spec = loads(made.data.read_text(), "pairs.yaml").data
    made.data.write_text(dumps(spec | changes))
    return made


def test_the_order_in_which_classes_are_written_does_not_matter(
    pairs: Pairs, tmp_path: Path
) -> None:
    spec = loads(pairs.data.read_text(), "pairs.yaml").data
    for rule in spec["prompts"].values():
        rule["classes"] = dict(reversed(rule["classes"].items()))
    turned = rewritten(pairs, tmp_path, prompts=spec["prompts"])
    for target in ("abnormal", "kind", "signs"):
        one, other = (scores(zero(p, target), p) for p in (pairs, turned))
        np.testing.assert_array_equal(one, other)


def test_scores_the_wrong_way_round_are_told(
    pairs: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Pairs(tmp_path)
    recipe = zero(made)
    ground = made.session.ground(recipe)
    rows = ground.val_rows(recipe)
    said = dict(zip(ground.pack.table.frame["id"].to_numpy()[rows], scores(recipe, made)[:, 0]))
    middle = np.median(list(said.values()))
    table = made.data.parent / "pairs.csv"
    with table.open(newline="") as file:
        held = list(csv.DictReader(file))
    for row in held:
        if row["image"] in said:
            row["abnormal"] = str(int(said[row["image"]] < middle))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(held[0]))
        writer.writeheader()
        writer.writerows(held)
    made.session = made.another()
    with caplog.at_level(logging.WARNING):
        stored = run(Job(zero(made), Seeds()), made.session, Runs(tmp_path / "out"), JUDGE)
    assert isinstance(stored, StoredRun)
    assert "rank the wrong way round" in caplog.text
    (told,) = text_warnings_of(stored)
    assert told.startswith("The AUC is 0.000")
    assert "the prompts of the classes may be the wrong way round" in told
    right = run(Job(zero(pairs), Seeds()), pairs.session, Runs(tmp_path / "right"), JUDGE)
    assert isinstance(right, StoredRun)
    assert not text_warnings_of(right)


def test_prompts_that_look_wrong_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = {
        "abnormal": {
            "templates": ["{}"],
            "classes": {"normal": ["disease"], "abnormal": ["no disease"]},
        }
    }
    made = Pairs(tmp_path)
    made = rewritten(made, tmp_path, prompts=prompts)
    with caplog.at_level(logging.WARNING):
        stored = run(Job(zero(made), Seeds()), made.session, Runs(tmp_path / "out"), JUDGE)
    assert isinstance(stored, StoredRun)
    assert caplog.text.count("may be the wrong way round: ") == 1
    assert any("may be the wrong way round: " in told for told in text_warnings_of(stored))


@pytest.mark.parametrize("features", ["text", "both", "image"])
def test_texts_of_somebody_who_knew_the_label_are_told(
    features: str, pairs: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = rewritten(pairs, tmp_path, text_leaks_label=True)
    usage = {"classify": {"features": features}}
    with caplog.at_level(logging.WARNING):
        recipe = zero(made, usage=usage)
        stored = run(Job(recipe, Seeds()), made.session, Runs(tmp_path / "out"), JUDGE)
    assert ("text_leaks_label" in caplog.text) == (features != "image")
    assert isinstance(stored, StoredRun)
    found = text_warnings_of(stored)
    assert bool(found) == (features != "image")
    assert not found or "reading the label" in found[0]


@pytest.mark.parametrize("features", ["image", "text", "both"])
@pytest.mark.parametrize("target", ["abnormal", "kind"])
def test_a_readout_of_both_towers_is_scikit_learns(
    features: str, target: str, pairs: Pairs
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    l2 = 0.03
    recipe = zero(pairs, target, {"classify": {"features": features}}, optim__l2=l2)
    ground = pairs.session.ground(recipe)
    rows, held = ground.pack.rows("train"), ground.pack.rows("val")

    def seen(asked: Any) -> Any:
        tokens = ground.texts.tokens(asked)
        (served,) = ground.loader(asked, len(asked), edit=None).epoch(shuffle=False)
        with torch.no_grad():
            parts = {"image": ground.backbone.embed(served.image)}
            parts["text"] = ground.backbone.words(tokens)
        names = ["image", "text"] if features == "both" else [features]
        return torch.cat([parts[name] for name in names], dim=1).double().numpy()

    scaler = StandardScaler().fit(seen(rows))
    oracle = LogisticRegression(C=1 / (len(rows) * l2), tol=1e-10, max_iter=10_000)
    oracle.fit(scaler.transform(seen(rows)), ground.labels(rows))
    expected = oracle.decision_function(scaler.transform(seen(held))).reshape(len(held), -1)
    found = scores(recipe, pairs)
    if target == "kind":  # a constant of all classes is nobody's
        found = found - found.mean(axis=1, keepdims=True)
        expected = expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_mask_on_both_towers_trains_under_features_of_both(pairs: Pairs) -> None:
    from fairtune.training.lane import Lane

    recipe = pairs.recipe(
        usage={"classify": {"features": "both"}},
        adaptation={"mask": "image.block:last-1,text.block:last-1"},
        optim__weight_decay=0.0,
    )
    one = Lane(recipe, Seeds(), pairs.session.ground(recipe))
    before = {name: p.detach().clone() for name, p in one.trained.items()}
    assert {name.split(".")[0] for name in before} == {"image", "text", "head"}
    one.step(next(iter(one.loader.epoch())))
    still = {name for name, p in one.trained.items() if torch.equal(p, before[name])}
    # A key's bias shifts all products of a query alike: its gradient is rounding alone.
    assert not {name for name in still if not name.endswith("key.bias")}


def test_a_model_that_reads_no_texts_is_refused(pairs: Pairs) -> None:
    fields = pairs.fields(usage="zero_shot", adaptation=NONE)
    fields["model"]["name"] = "test_vit"
    with pytest.raises(Exception, match="reads"):
        pairs.session.resolve(Recipe.model_validate(fields))


def test_a_target_without_prompts_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    spec = loads(pairs.data.read_text(), "pairs.yaml").data
    del spec["prompts"]["kind"]
    made = rewritten(pairs, tmp_path, prompts=spec["prompts"])
    with pytest.raises(ConfigError, match="kind"):
        zero(made, "kind")
