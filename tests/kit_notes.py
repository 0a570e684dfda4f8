"""Tables of notes, a real server of chat completions, and tiny text models in a folder."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from kit_endpoints import GENEROUS, Quiet, cut, start

MARK = "Zebrafinch"
"""Stands in every note and must stand nowhere but in outputs."""

PROMPT = "Sum up: {note}"


def written(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write a CSV, its first row the header, and return its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def table(folder: Path, count: int = 5, empty: Sequence[int] = ()) -> Path:
    """Write `notes.csv` with `count` notes, of which those in `empty` are; return its path."""
    notes = [
        "" if i in empty else f"{MARK} note {i}: pressure {10 + i} mmHg" for i in range(count)
    ]
    rows = [["eye", "note", "key"], *([f"e{i}", note, f"k{i}"] for i, note in enumerate(notes))]
    return written(folder / "notes.csv", rows)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record_of(path: Path) -> dict[str, Any]:
    """Return the record beside an output."""
    found: dict[str, Any] = json.loads(path.with_name(f"{path.name}.json").read_text("utf-8"))
    return found


@dataclass
class Said:
    """What the server says to one request.

    Attributes:
        code: Status; 0 closes the connection without a word.
        text: The summary; None repeats what was asked, shortened.
        body: All of the body, in place of a completion.
        headers: Besides the length.
        ended: Why the completion ended.
        held: Waits until this is set.
    """

    code: int = 200
    text: str | None = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ended: str = "stop"
    held: threading.Event | None = None


Script = Callable[[int, str], Said]


class Chatting:
    """A real server of `/v1/chat/completions` on this machine.

    Args:
        script: What is said to a request, by its number from 1 and its question.

    Attributes:
        asked: Headers and JSON of every request so far.
        paths: Where each was sent.
    """

    def __init__(self, script: Script = lambda number, question: Said()) -> None:
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.paths: list[str] = []
        self._lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.asked.append((dict(self.headers), body))
                    server.paths.append(self.path)
                    number = len(server.asked)
                question = body["messages"][0]["content"]
                said = script(number, question)
                if said.held is not None:
                    said.held.wait(GENEROUS)
                if said.code == 0:
                    cut(self)
                    return
                content = said.body if said.body is not None else completion(said, question)
                self.send_response(said.code)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        start(self._server)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def questions(self) -> list[str]:
        """What was asked, in order."""
        return [body["messages"][0]["content"] for _, body in self.asked]

    def __enter__(self) -> Chatting:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(said: Said, question: str) -> bytes:
    """Return the body of a completion; its summary names the note by its number."""
    text = said.text
    if text is None:
        text = f"summary of {question.split('note ')[-1][:20]}"
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": said.ended}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def echoing(question: str, code: int = 400) -> Said:
    """Return a refusal that repeats what was asked, as some servers do."""
    error = {"message": f"too long: {question}", "code": "context_length_exceeded"}
    return Said(code=code, body=json.dumps({"error": error}).encode())


def text_model(folder: Path, kind: str, seed: int = 0, positions: int = 64) -> Path:
    """Save a tiny random `causal` or `seq2seq` model with a tokenizer of words to `folder`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    words = ["<pad>", "</s>", "<unk>", "Sum", "up", ":", "pressure", "mmHg", "note", MARK]
    words += [f"w{i}" for i in range(30)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "causal":
            size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
            net: Any = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **size, **ends))
        else:
            size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
            more = {"decoder_start_token_id": 0, "vocab_size": len(words)}
            net = T5ForConditionalGeneration(T5Config(**size, **more, **ends))
            fast.model_max_length = positions
    net.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
