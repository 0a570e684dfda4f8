"""BLIP and BLIP-2 against transformers' own: scores, heads, units, gradients, files."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit_blip import (
    BOS,
    DIM,
    LOADERS,
    QUERIES,
    SHIPPED,
    SIDE,
    TEXT,
    WORDS,
    blip,
    blip2,
    pairs,
    their_blip,
    their_blip2,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, DynamicCache

from fairtune.adaptation.placement import Methods
from fairtune.adaptation.rules import Rule
from fairtune.config import Settings, settings
from fairtune.errors import FairtuneError, ModelError, Problems
from fairtune.models import ModelSpec, load
from fairtune.models.backbone import Backbone, build, describe
from fairtune.models.language import own_similarity, sides, similarity
from fairtune.models.made import resampled
from fairtune.models.registries import LOADERS as REGISTRY
from fairtune.models.weights import from_file
from fairtune.training.net import adapted, set_modes

Make = Callable[..., Any]
BOTH = {"blip": (blip, their_blip), "blip2": (blip2, their_blip2)}


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings({"FAIRTUNE_CACHE": str(tmp_path / "cache"), "FAIRTUNE_OFFLINE": "1"})


def loaded(spec: ModelSpec, theirs: Any, here: Settings, side: int | None = None) -> Backbone:
    """Return our network with the file that transformers itself writes."""
    folder = here.cache.parent / "theirs"
    theirs.save_pretrained(folder)
    return build(spec, side, from_file(spec, folder / "model.safetensors", here))


def theirs_of(tokens: Tensor) -> dict[str, Tensor]:
    there = tokens != -1
    return {"input_ids": tokens.masked_fill(~there, 0), "attention_mask": there.long()}


def drawn(net: Any, seed: int = 3) -> None:
    """Move what transformers' files lack, and starts at zero, somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.lm_head.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def test_blips_scores_and_its_matching_head_are_those_of_transformers(here: Settings) -> None:
    theirs, (image, tokens) = their_blip(), pairs(4)
    ours = loaded(blip(), theirs, here)
    net: Any = ours.net
    with torch.inference_mode():
        cosine = theirs(pixel_values=image, use_itm_head=False, **theirs_of(tokens)).itm_score
        found = similarity(ours.joint(image), ours.words(tokens))
        assert torch.allclose(found, cosine, atol=1e-5)
        assert torch.allclose(
            own_similarity(ours.joint(image), ours.words(tokens)), cosine.diagonal(), atol=1e-5
        )
        one = similarity(ours.joint(image), ours.words(tokens[1:2]))
        assert torch.allclose(one, cosine[:, 1:2], atol=1e-5)
        many = similarity(ours.joint(image[2:3]), ours.words(tokens))
        assert torch.allclose(many, cosine[2:3], atol=1e-5)
        matched = theirs(pixel_values=image, use_itm_head=True, **theirs_of(tokens)).itm_score
        assert torch.allclose(net.match(ours.features(image), tokens), matched, atol=1e-5)
        token = theirs.vision_model(pixel_values=image).last_hidden_state[:, 0]
        assert torch.allclose(ours.embed(image), token, atol=1e-5)
    assert (ours.dim, ours.language.joint_dim) == (token.shape[1], DIM)
    assert ours.language.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_blip2s_scores_queries_and_matching_head_are_those_of_transformers(
    here: Settings,
) -> None:
    theirs, (image, tokens) = their_blip2(), pairs(4)
    ours = loaded(blip2(), theirs, here)
    net: Any = ours.net
    with torch.inference_mode():
        told = theirs(pixel_values=image, use_image_text_matching_head=False, **theirs_of(tokens))
        cosine = told.logits_per_image
        joint, words = ours.joint(image), ours.words(tokens)
        assert joint.shape == (4, QUERIES, DIM)
        assert torch.allclose(nn.functional.normalize(joint, dim=-1), told.image_embeds, atol=1e-5)
        assert torch.allclose(nn.functional.normalize(words, dim=-1), told.text_embeds, atol=1e-5)
        assert torch.allclose(similarity(joint, words), cosine, atol=1e-5)
        assert torch.allclose(own_similarity(joint, words), cosine.diagonal(), atol=1e-5)
        one = similarity(joint, ours.words(tokens[1:2]))
        assert torch.allclose(one, cosine[:, 1:2], atol=1e-5)
        many = similarity(ours.joint(image[2:3]), words)
        assert torch.allclose(many, cosine[2:3], atol=1e-5)
        matched = theirs(
            pixel_values=image, use_image_text_matching_head=True, **theirs_of(tokens)
        ).logits_per_image
        assert torch.allclose(net.match(ours.features(image), tokens), matched, atol=1e-5)


@pytest.mark.parametrize("embedding", ["first", "mean", "max", "flatten"])
def test_an_embedding_is_what_is_asked_of_the_queries(embedding: str, here: Settings) -> None:
    theirs, (image, _) = their_blip2(), pairs(2)
    ours = loaded(blip2(embedding=embedding), theirs, here)
    with torch.inference_mode():
        found = theirs.qformer(
            query_embeds=theirs.query_tokens.expand(2, -1, -1),
            encoder_hidden_states=theirs.vision_model(pixel_values=image).last_hidden_state,
        ).last_hidden_state
        wanted = {
            "first": found[:, 0],
            "mean": sum(found[:, i] for i in range(QUERIES)) / QUERIES,
            "max": torch.stack([found[:, i] for i in range(QUERIES)]).max(dim=0).values,
            "flatten": torch.cat([found[:, i] for i in range(QUERIES)], dim=1),
        }[embedding]
        assert torch.allclose(ours.embed(image), wanted, atol=1e-5)
    assert ours.dim == wanted.shape[1]


def as_bert(net: Any) -> BertLMHeadModel:
    """Return transformers' BERT with the part of a Q-Former that texts go through."""
    state, names = net.state_dict(), {}
    start, block = "qformer.", "bert.encoder.layer"
    names |= {
        f"{start}embeddings.word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
        f"{start}embeddings.position_embeddings.weight":
            "bert.embeddings.position_embeddings.weight",
        f"{start}layernorm.weight": "bert.embeddings.LayerNorm.weight",
        f"{start}layernorm.bias": "bert.embeddings.LayerNorm.bias",
        "lm_head.dense.weight": "cls.predictions.transform.dense.weight",
        "lm_head.dense.bias": "cls.predictions.transform.dense.bias",
        "lm_head.norm.weight": "cls.predictions.transform.LayerNorm.weight",
        "lm_head.norm.bias": "cls.predictions.transform.LayerNorm.bias",
        "lm_head.bias": "cls.predictions.bias",
    }  # fmt: skip
    for name in state:
        if name.startswith("qformer.encoder.layer.") and not any(
            part in name for part in ("crossattention", "_query")
        ):
            rest = name.removeprefix("qformer.encoder.layer")
            names[name] = block + rest.replace("attention.attention.", "attention.self.")
    sizes = TEXT | {"is_decoder": True}
    bert = BertLMHeadModel(BertConfig(**sizes)).eval()
    bert.bert.embeddings.token_type_embeddings.weight.data.zero_()
    missing, surplus = bert.load_state_dict(
        {theirs: state[ours] for ours, theirs in names.items()}, strict=False
    )
    assert surplus == []
    assert {"token_type" in n or "decoder" in n for n in missing} <= {True}
    bert.tie_weights()
    return bert


def test_captions_are_bert_decoding_behind_the_queries(here: Settings) -> None:
    """Another way to the same: what self-attention made of the queries is a decoder's past."""
    ours, (image, tokens) = loaded(blip2(), their_blip2(), here), pairs(4)
    net: Any = ours.net
    drawn(net)
    past, bert = DynamicCache(), as_bert(net)

    def remember(number: int) -> Callable[..., None]:
        def hook(module: Any, given: Any, named: dict[str, Any], out: Any) -> None:
            hidden = named["hidden_states"]
            heads = [part(hidden).unflatten(-1, (2, -1)) for part in (module.key, module.value)]
            past.update(*(part.transpose(1, 2) for part in heads), number)

        return hook

    # transformers' later name of the argument, and the earlier one.
    known = inspect.signature(BertLMHeadModel.forward).parameters
    named = "cache" if "cache" in known else "past_key_values"
    hooks = [
        layer.attention.attention.register_forward_hook(remember(i), with_kwargs=True)
        for i, layer in enumerate(net.qformer.encoder.layer)
    ]
    with torch.inference_mode():
        net.queried(ours.features(image))
        for hook in hooks:
            hook.remove()
        told = theirs_of(tokens)
        ids, there = told["input_ids"], told["attention_mask"]
        ids = torch.cat([torch.full((4, 1), BOS), ids[:, 1:]], dim=1)
        decoded = bert(
            input_ids=ids,
            attention_mask=torch.cat([torch.ones(4, QUERIES, dtype=torch.long), there], dim=1),
            position_ids=torch.arange(ids.shape[1])[None],
            **{named: past},
        ).logits
        logits = net.caption(ours.features(image), tokens)
    assert logits.shape == (4, tokens.shape[1], WORDS)
    assert torch.allclose(logits[there.bool()], decoded[there.bool()], atol=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_gradients_reach_what_the_contrastive_path_uses_and_nothing_else(
    name: str, here: Settings
) -> None:
    spec, theirs = BOTH[name][0](), BOTH[name][1]()
    ours, (image, tokens) = loaded(spec, theirs, here), pairs(3)
    unused = {"blip": "text.cross:all,itm", "blip2": "itm,lm"}[name]
    units, every = describe(spec), set(ours.tensors())
    # A key's bias moves all attention scores of a place alike, so its gradient is only rounding.
    rounded = {n for n in every if n.endswith("key.bias")}

    def reached() -> set[str]:
        got = {n for n, p in ours.tensors().items() if p.grad is not None}
        assert {n for n in got if not ours.tensors()[n].grad.any()} <= rounded
        ours.zero_grad(set_to_none=True)
        return got

    logits = ours.language.logit_scale.exp() * similarity(ours.joint(image), ours.words(tokens))
    nn.functional.cross_entropy(logits, torch.arange(3)).backward()
    assert every - reached() == set(units.tensors(Rule.parse(unused).mask(units).units))
    ours.joint(image).square().sum().backward()
    assert reached() == {n for n in every if "image" in sides(ours.language, n)}
    ours.words(tokens).square().sum().backward()
    assert reached() == {n for n in every if "text" in sides(ours.language, n)}


def test_matching_and_captions_reach_their_heads_and_the_way_to_them(here: Settings) -> None:
    one, (image, tokens) = loaded(blip(), their_blip(), here), pairs(3)
    net: Any = one.net
    net.match(one.features(image), tokens)[:, 1].sum().backward()
    lost = {n for n, p in one.tensors().items() if p.grad is None}
    assert lost == {
        "logit_scale",
        *(f"{t}.projection.{p}" for t in ("image", "text") for p in ("weight", "bias")),
    }
    for act in ("match", "caption"):
        other: Any = build(blip2(), None, None)
        out = getattr(other.net, act)(other.features(image), tokens)
        out.square().mean().backward()
        got = {n for n, p in other.tensors().items() if p.grad is not None}
        head = {"match": "itm_head", "caption": "lm_head"}[act]
        assert {n for n in other.tensors() if n.startswith((head, "image.", "qformer."))} <= got
        assert not {n for n in got if n.startswith(("image_projection", "text_projection"))}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("blip", "image.attn:all"),
        ("blip", "text.attn+text.mlp:all"),
        ("blip2", "image.attn:all"),
        ("blip2", "qformer.attn:all"),
        ("blip2", "qformer.block:all"),
    ],
)
def test_lora_gets_a_gradient_in_every_tensor_it_adds(name: str, rule: str) -> None:
    spec = BOTH[name][0]()
    units, (image, tokens) = describe(spec), pairs(3)
    base = build(spec, None, None).requires_grad_(False)
    mask = Rule.parse(rule).mask(units).units
    placed = Methods.parse({"lora": {"rank": 2}}).placements(mask, units)
    ours, attached = adapted(base, placed, units, 1, 0)
    set_modes(ours)
    assert ours.text_trains is not rule.startswith("image")
    trained = {n: p for one in attached for n, p in one.trained.items()}
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 0.1
    nn.functional.cross_entropy(
        20 * similarity(ours.joint(image), ours.words(tokens)), torch.arange(3)
    ).backward()
    assert trained
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", BOTH)
def test_text_trains_when_what_words_go_through_does(name: str) -> None:
    ours = build(BOTH[name][0](), None, None).requires_grad_(False)
    assert ours.reads
    assert not ours.text_trains
    assert not ours.image_trains
    units = describe(BOTH[name][0]())
    told = {
        "blip": {
            "text.attn:0": "text", "text.projection": "text", "image.attn:0": "image",
            "image.projection": "image", "text.cross:0": "", "itm": "", "logit_scale": "",
        },
        "blip2": {
            "qformer.attn:0": "image text", "qformer.first_norm": "image text",
            "qformer.cross:0": "image", "qformer.mlp_query:0": "image",
            "qformer.queries": "image", "qformer.mlp_text:0": "text", "qformer.stem": "text",
            "image.mlp:1": "image", "itc": "image text", "itm": "", "lm": "", "logit_scale": "",
        },
    }[name]  # fmt: skip
    for rule, both in told.items():
        names = units.tensors(Rule.parse(rule).mask(units).units)
        for n, p in ours.tensors().items():
            p.requires_grad_(n in names)
        assert ours.text_trains is ("text" in both), rule
        assert ours.image_trains is ("image" in both), rule


@pytest.mark.parametrize("name", BOTH)
def test_the_image_tower_can_be_cut_and_goes_on_bit_for_bit(name: str, here: Settings) -> None:
    spec, theirs = BOTH[name][0](), BOTH[name][1]()
    whole, other = loaded(spec, theirs, here), loaded(spec, theirs, here)
    image, _ = pairs(2)
    assert whole.depth == 2
    with torch.inference_mode():
        for cut in (1, 2):
            other.starts_at = cut
            assert torch.equal(other.joint(whole.front(image, cut)), whole.joint(image))
    assert not any("post_layernorm" in n for n in whole.before(2))


def test_what_is_kept_of_an_embedding_goes_by_all_that_makes_it(here: Settings) -> None:
    first, mean = (loaded(blip2(embedding=e), their_blip2(), here) for e in ("first", "mean"))
    held = first.before(None)
    assert {"vision_model.post_layernorm.weight", "qformer.query_tokens", "embedding"} <= set(held)
    assert not any(n.startswith(("lm_head", "itm_head", "qformer.embeddings")) for n in held)
    assert not torch.equal(held["embedding"], mean.before(None)["embedding"])


@pytest.mark.parametrize("name", BOTH)
def test_bf16_autocast_gives_nearly_the_same(name: str, here: Settings) -> None:
    spec, theirs = BOTH[name][0](), BOTH[name][1]()
    ours, (image, tokens) = loaded(spec, theirs, here), pairs(3)
    net: Any = ours.net

    def every() -> list[Tensor]:
        found = [similarity(ours.joint(image), ours.words(tokens))]
        found.append(net.match(ours.features(image), tokens))
        if name == "blip2":
            found.append(net.caption(ours.features(image), tokens)[:, :3])
        return [t.float() for t in found]

    with torch.inference_mode():
        single = every()
        with torch.autocast("cpu", torch.bfloat16):
            half = every()
    for one, other in zip(single, half, strict=True):
        assert torch.isfinite(other).all()
        assert not torch.equal(one, other)
        assert (one - other).abs().max() < 0.1 * max(1.0, float(one.abs().max()))


def test_every_tensor_of_a_shipped_model_is_in_one_unit_and_none_is_allocated() -> None:
    wanted = {"blip": 223_744_259, "blip2": 1_172_654_910}
    for name, total in wanted.items():
        spec = load(SHIPPED[name])
        units = describe(spec)
        assert units.total == total
        assert all(p.is_meta for p in spec.outline(spec.side()).parameters())
    former = describe(load(SHIPPED["blip2"]))
    assert former.towers == ("image", "qformer")
    assert former.by_depth("qformer.cross")[1] == ()
    assert former.by_depth("qformer.cross")[2][0] == (
        "qformer.encoder.layer.2.crossattention.attention.query.weight"
    )
    assert set(former.singles) >= {"itc", "itm", "lm", "qformer.queries", "logit_scale"}


@pytest.mark.parametrize("name", BOTH)
def test_an_image_of_another_size_has_its_positions_resampled(name: str, here: Settings) -> None:
    spec, theirs = BOTH[name][0](), BOTH[name][1]()
    large = loaded(spec, theirs, here, side=64)
    held = theirs.vision_model.embeddings.position_embedding[0]
    found = large.tensors()["image.vision_model.embeddings.position_embedding"][0]
    assert torch.equal(found, resampled(held, 17))
    image, tokens = pairs(2, 64)
    with torch.inference_mode():
        assert similarity(large.joint(image), large.words(tokens)).shape == (2, 2)


@pytest.mark.parametrize("name", BOTH)
def test_a_file_of_ours_is_read_as_well_and_what_it_has_is_kept(name: str, here: Settings) -> None:
    spec = BOTH[name][0]()
    first = loaded(spec, BOTH[name][1](), here)
    state = {n: t.clone() for n, t in first.net.state_dict().items()}
    state["logit_scale"] = torch.tensor(math.log(50.0))
    if name == "blip2":
        state["lm_head.dense.weight"] += 1
    file = here.cache.parent / "ours.safetensors"
    save_file(state, file)
    again = build(spec, None, from_file(spec, file, here))
    assert all(torch.equal(t, state[n]) for n, t in again.net.state_dict().items())
    part = {n: t for n, t in state.items() if n != "logit_scale"}
    save_file(part, file)
    begun = build(spec, None, from_file(spec, file, here))
    assert begun.language.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_the_factor_of_cosines_is_part_of_what_weights_are(here: Settings) -> None:
    theirs = their_blip()
    one = loaded(blip(), theirs, here)
    other = loaded(blip(scale=2.0), theirs, here)
    assert other.language.logit_scale.exp().item() == pytest.approx(2)
    assert one.language.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_the_head_for_words_starts_alike_wherever_it_is_missing(here: Settings) -> None:
    one, other = (loaded(blip2(), their_blip2(), here).tensors() for _ in range(2))
    weight = one["lm_head.dense.weight"]
    assert torch.equal(weight, other["lm_head.dense.weight"])
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", BOTH)
def test_a_file_that_does_not_fit_is_refused(name: str, here: Settings) -> None:
    spec, theirs = BOTH[name][0](), BOTH[name][1]()
    folder = here.cache.parent / "theirs"
    theirs.save_pretrained(folder)
    file = folder / "model.safetensors"
    held = load_file(file)

    def refused(state: dict[str, Tensor], said: str) -> FairtuneError:
        save_file(state, file)
        with pytest.raises((ModelError, Problems), match=said) as caught:
            from_file(spec, file, here)
        return caught.value

    lacking = {n: t for n, t in held.items() if not n.startswith("itm_head")}
    error = refused(lacking, "2 of the")
    assert error.allowed == ["itm_head.weight", "itm_head.bias"]
    assert "file model.safetensors" in str(error)
    refused(held | {"language_model.weight": torch.zeros(2)}, "does not have")
    refused(held | {"itm_head.weight": torch.zeros(3, 16)}, "another shape")
    refused({"other.weight": torch.zeros(2)}, "are missing")
    assert not list(here.cache.rglob("model.safetensors"))


def test_what_cannot_be_built_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (blip, blip2):
        spec = make()
        grey = spec.model_copy(update={"channels": 1})
        with pytest.raises(ModelError, match="three channels"):
            grey.outline(SIDE)
        rule = spec.tokenizer.model_copy(update={"limit": 21})
        long = spec.model_copy(update={"tokenizer": rule})
        with pytest.raises(ModelError, match="limit is above what the text tower reads") as caught:
            describe(long)
        assert caught.value.allowed == "at most 20"
    monkeypatch.setitem(sys.modules, "transformers", None)
    for make in (blip, blip2):
        spec = make()
        with pytest.raises(ModelError, match="needs the package transformers") as caught:
            spec.seeded(SIDE, 0)
        assert "fairtune[clip]" in str(caught.value.todo)


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("blip", ("image", "num_attention_heads"), 5, "do not divide 'hidden_size'"),
        ("blip", ("text", "num_attention_heads"), 5, "do not divide 'hidden_size'"),
        ("blip2", ("qformer", "bos_token_id"), WORDS, "no such token"),
        ("blip2", ("embedding",), "last", "'first'"),
        ("blip2", ("scale",), 0, "greater than 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    name: str, path: tuple[str, ...], value: object, said: str
) -> None:
    fields = copy.deepcopy(LOADERS[name])
    place = fields
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(FairtuneError, match=said):
        REGISTRY.parse({name: fields})
