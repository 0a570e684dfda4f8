"""Texts as token numbers: limits, padding, and files that are not what they should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kit_language import pair, vocabulary

from fairtune.config import Settings, settings
from fairtune.errors import ModelError
from fairtune.models import ModelSpec, load
from fairtune.models.tokenizer import Tokenizer
from fairtune.models.tokenizer import load as load_tokenizer
from fairtune.models.tokenizer_rule import TokenizerRule

WORDS = ["the", "lung", "of", "patient", "clear", "fluid"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return replace(settings({}), cache=tmp_path_factory.mktemp("cache"), offline=True)


@pytest.fixture
def tokenizer(spec: ModelSpec, held: Settings) -> Tokenizer:
    return load_tokenizer(spec, held)


def ruled(spec: ModelSpec, **changes: object) -> ModelSpec:
    assert spec.tokenizer is not None
    return spec.model_copy(update={"tokenizer": spec.tokenizer.model_copy(update=changes)})


def test_texts_of_different_lengths_are_padded_behind_their_end(tokenizer: Tokenizer) -> None:
    found = tokenizer(["the lung", "the lung of the patient"])
    assert found.shape == (2, 7)
    assert (found[0] == -1).tolist() == [False] * 4 + [True] * 3
    assert tokenizer([]).shape == (0, 0)
    words = vocabulary()
    assert [words[i] for i in found[0][:4]] == ["[CLS]", "the", "lung", "[SEP]"]
    assert tokenizer.cut == 0


@given(st.lists(st.sampled_from([*WORDS, "radiograph", "qqq"]), min_size=1, max_size=40))
def test_a_long_text_is_cut_at_a_word(words: list[str]) -> None:
    tokenizer = _shared()
    before, text = tokenizer.cut, " ".join(words)
    (row,) = tokenizer([text])
    limit = tokenizer.rule.limit
    whole = tokenizer._made.encode(text).ids
    assert len(row) <= limit
    assert tokenizer.cut == before + (len(whole) > limit)
    # Of a first word that is too long, the next test.
    assume(len(tokenizer._made.encode(words[0]).ids) <= limit)
    lengths = [len(tokenizer._made.encode(" ".join(words[:n])).ids) for n in range(len(words) + 1)]
    most = max(n for n, length in enumerate(lengths) if length <= limit)
    assert row.tolist() == tokenizer._made.encode(" ".join(words[:most])).ids


_HELD: list[Tokenizer] = []


def _shared() -> Tokenizer:
    return _HELD[0]


@pytest.fixture(autouse=True, scope="module")
def _hold(spec: ModelSpec, held: Settings) -> None:
    _HELD[:] = [load_tokenizer(ruled(spec, limit=9), held)]


def test_a_first_word_that_is_too_long_is_cut_within(spec: ModelSpec, held: Settings) -> None:
    tokenizer = load_tokenizer(ruled(spec, limit=9), held)
    (row,) = tokenizer(["q" * 30])
    words = vocabulary()
    assert [words[i] for i in row] == ["[CLS]", "q", *["##q"] * 6, "[SEP]"]
    assert tokenizer.cut == 1


def test_padding_to_the_limit_is_a_token_of_its_own(spec: ModelSpec, held: Settings) -> None:
    tokenizer = load_tokenizer(ruled(spec, pad="limit", pad_token="[PAD]"), held)
    found = tokenizer(["the lung"])
    assert found.shape == (1, 24)
    assert (found[0, 4:] == vocabulary().index("[PAD]")).all()
    strange = load_tokenizer(ruled(spec, pad="limit", pad_token="<none>"), held)
    with pytest.raises(ModelError, match="no such token to pad with"):
        strange(["the lung"])


def test_the_digest_follows_file_and_rule(spec: ModelSpec, held: Settings, tmp_path: Path) -> None:
    first = load_tokenizer(spec, held).sha
    assert load_tokenizer(spec, held).sha == first
    assert load_tokenizer(ruled(spec, limit=12), held).sha != first
    moved = tmp_path / "vocab.txt"
    moved.write_text("\n".join(vocabulary()) + "\n")
    assert load_tokenizer(ruled(spec, file=moved), held).sha == first
    moved.write_text("\n".join([*vocabulary(), "one-more"]) + "\n")
    assert load_tokenizer(ruled(spec, file=moved), held).sha != first


def test_a_json_reads_as_the_vocabulary_does(
    spec: ModelSpec, held: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    own = load_tokenizer(spec, held)
    file.write_text(own._made._tokenizer.to_str())
    as_json = load_tokenizer(ruled(spec, kind="json", file=file), held)
    texts = ["The lung of the patient", "q" * 30 + " lung", "lung " * 40]
    assert np.array_equal(as_json(texts), own(texts))
    assert as_json.cut == own.cut == 2


def test_a_model_without_a_tokenizer(held: Settings) -> None:
    with pytest.raises(ModelError, match="reads no texts") as caught:
        load_tokenizer(load("test_vit"), held)
    assert "text tower" in str(caught.value)


def test_a_tower_without_tokenizer_files(spec: ModelSpec, held: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_tokenizer(ruled(spec, file=tmp_path / "nothing.txt"), held)
    assert "nothing.txt" in str(caught.value)
    rule = TokenizerRule.model_validate(
        {"limit": 9, "sources": [{"hub": {"repository": "nobody/nothing", "file": "t.json"}}]}
    )
    for tokenizer in (rule, TokenizerRule(limit=9)):
        without = spec.model_copy(update={"tokenizer": tokenizer})
        with pytest.raises(ModelError, match="no tokenizer for model") as caught:
            load_tokenizer(without, held)
        assert "tokenizer.file" in str(caught.value)
    assert not (held.cache / "tokenizers").exists() or not any(
        path.is_dir() and any(path.iterdir()) for path in (held.cache / "tokenizers").iterdir()
    )


@pytest.mark.parametrize(("kind", "content"), [("json", "{"), ("json", "[]")])
def test_a_file_that_is_no_tokenizer(
    kind: str, content: str, spec: ModelSpec, held: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_tokenizer(ruled(spec, kind=kind, file=file), held)
    assert "vocab.txt" in str(caught.value)


def test_the_digest_follows_what_is_made_of_the_tokens(held: Settings, tmp_path: Path) -> None:
    mean, first = (
        load_tokenizer(pair(tmp_path / pool, pool=pool), held).sha for pool in ("mean", "cls")
    )
    assert mean != first
    assert load_tokenizer(pair(tmp_path / "again", pool="mean"), held).sha == mean
