"""Contrastive fine-tuning: the losses, what is left out of them, the factor of cosines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit_pairs import MASKS, Pairs, shared
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from fairtune.data.batch import Batch
from fairtune.models.backbone import Backbone
from fairtune.models.language import similarity
from fairtune.models.net import Net
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job, train_one
from fairtune.usage import USAGES, Output
from fairtune.usage.contrastive import Contrastive, alike, info_nce, sigmoid_loss
from fairtune.usage.nets.prompts import scale_of

TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 30}
IMAGE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 32}
HEADS = {"num_attention_heads": 2}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return shared(tmp_path_factory.getbasetemp())


class Theirs(nn.Module):
    """A model of transformers, read as ours are."""

    def __init__(self, model: Any, dim: int) -> None:
        super().__init__()
        self.model, self.joint_dim = model, dim
        self.image, self.text = model.vision_model, model.text_model
        self.logit_scale = model.logit_scale
        if hasattr(model, "logit_bias"):
            self.logit_bias = model.logit_bias

    def forward_features(self, image: Tensor) -> Tensor:
        return self.model(pixel_values=image, input_ids=TOKENS).image_embeds  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        return features

    def joint(self, features: Tensor) -> Tensor:
        return features

    def words(self, tokens: Tensor) -> Tensor:
        return self.model(pixel_values=IMAGES, input_ids=tokens).text_embeds  # type: ignore[no-any-return]


N = 6
IMAGES = torch.randn(N, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 29, (N, 7), generator=torch.Generator().manual_seed(1))
TOKENS[:, -1] = 29


def batch(text: Tensor, text_id: Tensor | None = None, images: Tensor = IMAGES) -> Batch:
    size = len(text)
    return Batch(
        row=torch.arange(size),
        image=images[:size],
        label=torch.arange(size) % 2,
        group=torch.zeros(size, 1, dtype=torch.long),
        weight=torch.ones(size),
        text=text,
        text_id=text_id,
    )


def usage(**fields: Any) -> Contrastive:
    made = USAGES.parse({"contrastive": fields})
    assert isinstance(made, Contrastive)
    return made


def whole(net: Any, one: Contrastive, given: Batch) -> Output:
    return one.paired(net, one.forward(net, given, "binary"), given)


def clip() -> CLIPModel:
    torch.manual_seed(0)
    text = TEXT | HEADS | {"eos_token_id": 29, "max_position_embeddings": 16}
    image = IMAGE | HEADS | {"patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=8)).eval()


def siglip() -> SiglipModel:
    torch.manual_seed(0)
    text = TEXT | HEADS | {"max_position_embeddings": 7, "projection_size": 16}
    image = IMAGE | HEADS | {"patch_size": 16}
    made = SiglipModel(SiglipConfig(text_config=text, vision_config=image)).eval()
    nn.init.constant_(made.logit_scale, 1.2)
    nn.init.constant_(made.logit_bias, -0.7)
    return made


@pytest.mark.parametrize(("make", "dim"), [(clip, 8), (siglip, 16)])
def test_the_loss_is_that_of_transformers(make: Any, dim: int) -> None:
    model = make()
    theirs = model(pixel_values=IMAGES, input_ids=TOKENS, return_loss=True)
    net = Net(Backbone(Theirs(model, dim), dim), nn.Identity())
    out = whole(net, usage(), batch(TOKENS, torch.arange(N)))
    assert out.across is not None
    assert torch.allclose(out.across, theirs.logits_per_image, atol=1e-5)
    assert float(out.loss.mean().detach()) == pytest.approx(float(theirs.loss.detach()), abs=1e-5)
    ours = torch.autograd.grad(out.loss.mean(), model.logit_scale)[0]
    assert float(ours) == pytest.approx(
        float(torch.autograd.grad(theirs.loss, model.logit_scale)[0]), abs=1e-5
    )


def by_hand(logit: NDArray[np.float64], left_out: NDArray[np.bool_]) -> list[float]:
    """Return the loss of every pair, as a sum over the others."""
    found = []
    for i in range(len(logit)):
        seen = [j for j in range(len(logit)) if not left_out[i, j]]
        rows = np.log(sum(np.exp(logit[i, j]) for j in seen)) - logit[i, i]
        columns = np.log(sum(np.exp(logit[j, i]) for j in seen)) - logit[i, i]
        found.append((rows + columns) / 2)
    return found


def test_rows_of_one_text_are_not_told_apart() -> None:
    number = torch.tensor([4, 1, 4, 2, 4])
    logit = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(2))
    out = alike(number)
    assert out.sum() == 6
    assert not out.diagonal().any()
    plain = logit.double().numpy()
    assert info_nce(logit, out).tolist() == pytest.approx(by_hand(plain, out.numpy()), rel=1e-5)
    everyone = np.zeros((5, 5), dtype=bool)
    assert info_nce(logit).tolist() == pytest.approx(by_hand(plain, everyone), rel=1e-5)
    sign = 2 * np.eye(5) - 1
    terms = np.log1p(np.exp(-sign * plain))
    assert sigmoid_loss(logit).tolist() == pytest.approx(terms.sum(1).tolist(), rel=1e-5)
    kept = (terms * ~out.numpy()).sum(1).tolist()
    assert sigmoid_loss(logit, out).tolist() == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_whether_same_texts_are_negatives_is_said_by_the_recipe(loss: str) -> None:
    net = Net(Backbone(Theirs(clip(), 8), 8), nn.Identity())
    text, number = TOKENS[[0, 1, 0, 3]], torch.tensor([0, 1, 0, 3])
    given = batch(text, number)
    ignored = whole(net, usage(loss_by=loss), given)
    negative = whole(net, usage(loss_by=loss, same="negative"), given)
    assert (ignored.loss[[0, 2]] < negative.loss[[0, 2]]).all()
    assert torch.equal(ignored.loss[[1, 3]], negative.loss[[1, 3]])
    # A row that is drawn twice gets no gradient to leave itself.
    assert ignored.across is not None
    (gradient,) = torch.autograd.grad(ignored.loss.sum(), ignored.across)
    assert gradient[0, 2] == gradient[2, 0] == 0


def test_a_guess_is_the_loss_of_a_model_that_knows_nothing() -> None:
    net = Net(Backbone(Theirs(clip(), 8), 8), nn.Identity())
    text, number = TOKENS[[0, 1, 0, 3]], torch.tensor([0, 1, 0, 3])
    out = whole(net, usage(), batch(text, number))
    assert out.chance is not None
    assert out.chance.tolist() == pytest.approx(np.log([3, 4, 3, 4]).tolist())
    out = whole(net, usage(loss_by="sigmoid"), batch(text, number))
    assert out.chance is not None
    assert out.chance.tolist() == pytest.approx((np.log(2) * np.array([3, 4, 3, 4])).tolist())


def test_of_several_queries_the_nearest_counts() -> None:
    made = torch.Generator().manual_seed(3)
    image, text = torch.randn(4, 3, 8, generator=made), torch.randn(4, 8, generator=made)
    net = Net(Backbone(Theirs(clip(), 8), 8), nn.Identity())
    empty = torch.zeros(4)
    given = batch(TOKENS[:4], torch.arange(4))
    out = usage().paired(net, Output(empty, empty[:, None], empty[:, None], image, text), given)
    x, y = (v.numpy() / np.linalg.norm(v.numpy(), axis=-1, keepdims=True) for v in (image, text))
    cosine = np.einsum("iqd,jd->ijq", x, y).max(axis=2)
    scale = float(net.backbone.language.logit_scale.exp().detach())
    assert out.across is not None
    assert np.allclose(out.across.detach().numpy(), scale * cosine, atol=1e-5)
    assert out.similarity is not None
    assert np.allclose(out.similarity.numpy(), cosine.diagonal(), atol=1e-6)
    nobody = np.zeros((4, 4), dtype=bool)
    assert out.loss.tolist() == pytest.approx(by_hand(scale * cosine, nobody), rel=1e-4)


def test_cosines_are_not_rounded_in_half_precision() -> None:
    made = torch.Generator().manual_seed(4)
    image, text = torch.randn(200, 8, generator=made), torch.randn(2, 8, generator=made)
    with torch.autocast("cpu", torch.bfloat16):
        found = similarity(image, text)
    assert torch.equal(found, similarity(image, text))
    assert len(found.unique()) == found.numel()


@pytest.mark.parametrize(
    ("start", "scale", "down", "up"),
    [(2.0, 7.389056, 7.389056, -7.389056), (np.log(1e3), 100.0, 1e3, 0.0)],
)
def test_the_factor_of_cosines_is_capped_and_can_come_down_again(
    start: float, scale: float, down: float, up: float
) -> None:
    model = clip()
    nn.init.constant_(model.logit_scale, start)
    backbone = Backbone(Theirs(model, 8), 8)
    assert float(scale_of(backbone).detach()) == pytest.approx(scale, rel=1e-5)
    for factor, wanted in ((1.0, down), (-1.0, up)):
        (found,) = torch.autograd.grad(factor * scale_of(backbone), model.logit_scale)
        assert float(found) == pytest.approx(wanted, rel=1e-4)


def lane(pairs: Pairs, recipe: Recipe) -> Lane:
    return Lane(recipe, Seeds(), pairs.session.ground(recipe))


LORA = [
    {"mask": "image.attn:all", "method": "lora"},
    {"mask": "text.attn:all", "method": "lora"},
    {"mask": "image.attn:last-1,text.attn:last-1", "method": "lora"},
]


@pytest.mark.parametrize("adaptation", [*({"mask": mask} for mask in MASKS), *LORA])
def test_either_tower_trains_and_the_other_stays(adaptation: dict[str, str], pairs: Pairs) -> None:
    recipe = pairs.recipe(adaptation=adaptation, optim__weight_decay=0.0)
    one = lane(pairs, recipe)
    before = {name: p.detach().clone() for name, p in one.net.named_parameters()}
    assert one.trained
    for given in list(one.loader.epoch())[:2]:
        assert one.step(given).isfinite()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.trained.values())
    moved = [n for n, p in one.net.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(one.trained)
    towers = {name.removeprefix("backbone.net.").split(".")[0] for name in moved}
    if adaptation["mask"] == "fullft":
        assert towers == {"image", "text", "logit_scale"}
    else:
        assert towers == {part.split(".")[0] for part in adaptation["mask"].split(",")}


def test_accumulated_batches_are_contrasted_each_for_itself(pairs: Pairs) -> None:
    changes: dict[str, Any] = {"optim__clip_norm": 0.0, "optim__batch_size": 24}
    mask = {"mask": "image.block:last-1,logit_scale"}  # nothing drops out
    recipe = pairs.recipe(adaptation=mask, **changes)
    one = lane(pairs, recipe)
    given = list(one.loader.epoch())
    assert [len(b) for b in given] == [24, 18]
    each = []
    for part in given:
        one._gradients([part], True)
        each.append({n: p.grad.clone() for n, p in one.trained.items() if p.grad is not None})
    one._gradients(given, True)
    for name, p in one.trained.items():
        wanted = (24 * each[0][name] + 18 * each[1][name]) / 42
        assert p.grad is not None
        assert torch.allclose(p.grad, wanted, atol=1e-6), name


def test_the_loss_of_a_pass_is_the_mean_over_pairs(pairs: Pairs) -> None:
    recipe = pairs.recipe(adaptation={"mask": "image.block:last-1"}, optim__lr=1e-12)
    one = lane(pairs, recipe)
    order = one.loader.state()
    losses = []
    for given in one.loader.epoch():
        with torch.no_grad():
            losses += recipe.usage.paired(
                one.net, recipe.usage.forward(one.net, given, "binary"), given
            ).loss.tolist()
    one.loader.restore(order)
    assert one.epoch() == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(losses) == len(one.loader.rows)


def test_an_empty_mask_is_zero_shot(pairs: Pairs) -> None:
    recipes = [
        pairs.recipe(usage=name, adaptation={"mask": "none"})
        for name in ("contrastive", "zero_shot")
    ]
    found = [train_one(Job(recipe, Seeds()), pairs.session) for recipe in recipes]
    one, other = (made.epochs[0].scores for made in found)
    assert np.array_equal(one, other)
    assert not found[0].weights


def test_scores_after_training_are_zero_shot_scores_of_what_trained(pairs: Pairs) -> None:
    recipe = pairs.recipe(optim__lr=1e-2)
    one = lane(pairs, recipe)
    rows = one.ground.val_rows(recipe)
    before = one.score(rows)[0]
    one.epoch()
    after = one.score(rows)[0]
    assert not np.allclose(before, after)
    # Prompts go through the text tower that trained, images through the image tower.
    net = one.net.eval()
    loader = one.ground.loader(rows, len(rows), edit=None)
    with torch.no_grad():
        image = net.backbone.joint(next(iter(loader.epoch(shuffle=False))).image)
        question = one.ground.question(recipe)
        assert question.prompts is not None
        words = net.backbone.words(question.prompts)
    x, w = (v.numpy() / np.linalg.norm(v.numpy(), axis=-1, keepdims=True) for v in (image, words))
    assert question.owner is not None
    side = question.owner.numpy()
    mean = [w[side == c].mean(axis=0) for c in (0, 1)]
    normal, abnormal = (v / np.linalg.norm(v) for v in mean)
    scale = float(net.backbone.language.logit_scale.exp().clamp(max=100).detach())
    assert after[:, 0] == pytest.approx(scale * (x @ abnormal - x @ normal), abs=1e-4)


def test_the_numbers_of_texts_follow_what_the_model_reads(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    many = shared(tmp_path_factory.getbasetemp(), alike=True)
    recipe = many.recipe()
    ground = many.session.ground(recipe)
    rows = ground.fit_rows(recipe)
    numbers = ground.texts.numbers(rows)
    texts = ground.pack.texts(rows)
    assert texts is not None
    tokens = ground.texts.of(texts)
    for i in range(len(rows)):
        for j in range(len(rows)):
            assert (numbers[i] == numbers[j]) == torch.equal(tokens[i], tokens[j])
    assert 1 < len(numbers.unique()) < len(rows)
    one = Lane(recipe, Seeds(), ground)
    for given in one.loader.epoch():
        assert given.text_id is not None
        at = np.searchsorted(rows, given.row.numpy())
        assert torch.equal(given.text_id, numbers[torch.from_numpy(at)])
