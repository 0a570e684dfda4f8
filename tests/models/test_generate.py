"""Text models of this machine: what transformers itself would write, and what cannot be one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit_notes import MARK, text_model
from safetensors.torch import load_file, save_file

from fairtune.config import parse, settings
from fairtune.data.notes.summarize import Refused
from fairtune.errors import FairtuneError, ModelError
from fairtune.models.generate import Local, LocalModel

NOTE = f"{MARK} note w3 pressure w7 mmHg"
KINDS = ("causal", "seq2seq")


def ask(note: str) -> str:
    return f"Sum up : {note}"


def local(folder: Path | str, **more: Any) -> LocalModel:
    fields = {"model": str(folder), "max_new_tokens": 6, **more}
    return parse(Local, fields).build(
        settings({"FAIRTUNE_DEVICE": "cpu", "FAIRTUNE_OFFLINE": "1"})
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("models")
    made = {kind: text_model(base / kind, kind) for kind in KINDS}
    return made.__getitem__


def by_hand(folder: Path, kind: str, question: str, steps: int) -> list[int]:
    """Return the likeliest tokens one after another, without `generate`."""
    from transformers import AutoTokenizer, GPT2LMHeadModel, T5ForConditionalGeneration

    read = AutoTokenizer.from_pretrained(folder)(question, return_tensors="pt")["input_ids"]
    net: Any = GPT2LMHeadModel if kind == "causal" else T5ForConditionalGeneration
    net = net.from_pretrained(folder).eval()
    said: list[int] = []
    with torch.inference_mode():
        while len(said) < steps and 1 not in said:
            if kind == "causal":
                logits = net(torch.cat([read, torch.tensor([said], dtype=torch.long)], 1)).logits
            else:
                logits = net(input_ids=read, decoder_input_ids=torch.tensor([[0, *said]])).logits
            said.append(int(logits[0, -1].argmax()))
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_tokens_are_those_found_one_by_one(
    kind: str, folders: Callable[[str], Path]
) -> None:
    folder = folders(kind)
    one = local(folder)
    facts = one.prepared()
    found = one.answer(NOTE, ask, 0)
    said = by_hand(folder, kind, ask(NOTE), 6)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = {i: w for w, i in vocabulary.items()}
    assert found.text.split() == [words[i] for i in said if i > 2]
    assert (found.tokens_out, found.note_cut) == (len(said), False)
    assert found.ended == ("stop" if said[-1] == 1 else "length")
    assert set(facts["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert one.chosen()["name"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_seed_and_row_and_on_nothing_before(
    kind: str, folders: Callable[[str], Path]
) -> None:
    one, two, other = (
        local(folders(kind), temperature=1.0, seed=seed, max_new_tokens=12) for seed in (1, 1, 2)
    )
    for model in (one, two, other):
        model.prepared()
    before = torch.random.get_rng_state()
    first = [one.answer(NOTE, ask, row).text for row in range(4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [two.answer(NOTE, ask, row).text for row in (3, 2, 1, 0)] == first[::-1]
    assert [other.answer(NOTE, ask, row).text for row in range(4)] != first
    assert len(set(first)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_note_is_cut_at_a_word_to_what_the_model_reads(
    kind: str, folders: Callable[[str], Path]
) -> None:
    one = local(folders(kind))
    one.prepared()
    # The room of a causal model is shared by prompt, three words, and answer: 64 - 6.
    room = (58 if kind == "causal" else 64) - 3
    fits = " ".join(["w1"] * room)
    exact, cut = (one.answer(f"{fits}{more}", ask, 0) for more in ("", " w2 w3"))
    assert (exact.note_cut, cut.note_cut) == (False, True)
    assert exact.tokens_in == cut.tokens_in == room + 3
    assert exact.text == cut.text
    with pytest.raises(Refused, match="prompt alone"):
        one.answer("w1 w2", lambda note: f"{note} " + "w4 " * 70, 0)


def test_a_chat_template_is_used(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = text_model(tmp_path / "chatty", "causal")
    template = "{% for m in messages %}w1 w2 {{ m['content'] }} w3{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    one, plain = local(folder), local(folders("causal"))
    facts = one.prepared()
    plain.prepared()
    assert "chat_template.jinja" in facts["files"]
    found = one.answer(NOTE, ask, 0)
    expected = plain.answer(NOTE, lambda note: f"w1 w2 {ask(note)} w3", 0)
    assert (found.text, found.tokens_in) == (expected.text, expected.tokens_in)


def test_what_is_no_text_model_is_one_message(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    unread = text_model(tmp_path / "unread", "causal")
    for path in unread.glob("tokenizer*"):
        path.unlink()
    other = text_model(tmp_path / "other", "causal")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    partial = text_model(tmp_path / "partial", "causal")
    weights = load_file(partial / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, partial / "model.safetensors", {"format": "pt"})
    for folder, what in (
        (partial, "not all of the model's"),
        (empty, "no weights as safetensors"),
        (unread, "has no tokenizer"),
        (other, "cannot load this as a model that writes text"),
        ("nobody/no-such-model", "switched off"),
    ):
        with pytest.raises(ModelError, match=what):
            local(folder).prepared()


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match="not installed") as raised:
        local("somewhere").prepared()
    assert "fairtune[clip]" in str(raised.value)


def test_an_answer_must_leave_room_for_the_note(folders: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="no room for a note") as raised:
        local(folders("causal"), max_new_tokens=64).prepared()
    assert raised.value.allowed == "fewer than 64"


def test_a_failure_of_the_model_is_told_without_the_note(folders: Callable[[str], Path]) -> None:
    one = local(folders("causal"))
    one.prepared()

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot read {NOTE}")

    one._net.forward = fails
    with pytest.raises(ModelError, match="fails on a note") as raised:
        one.answer(NOTE, ask, 0)
    assert raised.value.found == "RuntimeError"
    assert raised.value.__suppress_context__


def test_fields_that_cannot_be_are_refused() -> None:
    for more in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"model": ""}):
        with pytest.raises(FairtuneError):
            local("somewhere", **more) if "model" not in more else parse(Local, more)
