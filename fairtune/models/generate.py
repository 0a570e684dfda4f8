"""A text model of this machine: a causal or sequence-to-sequence network of transformers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fairtune.config import Config, Settings
from fairtune.data.notes.journal import Answer
from fairtune.data.notes.summarize import Refused
from fairtune.errors import ModelError
from fairtune.store import file_sha256

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja")
_WORDS = ("tokenizer.json", "vocab.json", "vocab.txt")
_NO_LIMIT = 10**6
_WHERE = "--model"


class Local(Config):
    """A model in a folder or on a model hub, and how it is asked.

    Attributes:
        model: Folder with configuration, safetensors and tokenizer, or its name on the hub.
        max_new_tokens: Most tokens of an answer.
        temperature: Of the draws of tokens, from the whole distribution; 0 for the likeliest.
        seed: Of the draws; each note has random numbers of its own, by its place in the table.
    """

    model: Annotated[str, Field(min_length=1)]
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0
    seed: int = 0

    def build(self, settings: Settings) -> LocalModel:
        """Return the model; nothing is loaded yet."""
        return LocalModel(self, settings)


class LocalModel:
    """Asks a model of transformers about one note at a time. No code of the model is run.

    Args:
        asked: What it is and how it is asked.
        settings: Whether a hub may be asked, and the device.
    """

    def __init__(self, asked: Local, settings: Settings) -> None:
        self.asked, self._settings = asked, settings
        self._net: Any = None
        self._tokenizer: Any = None
        self._reads = _NO_LIMIT

    def chosen(self) -> dict[str, Any]:
        """Return the model's name and what it is asked with."""
        asked, folder = self.asked, Path(self.asked.model)
        return {
            "kind": "transformers",
            "name": folder.resolve().name if folder.is_dir() else asked.model,
            "max_new_tokens": asked.max_new_tokens,
            "temperature": asked.temperature,
            "seed": asked.seed,
        }

    def prepared(self) -> dict[str, Any]:
        """Load tokenizer and network; return architecture and the SHA-256 of every file read.

        Raises:
            ModelError: transformers or a file is missing, or the model writes no text.
        """
        if importlib.util.find_spec("transformers") is None:
            raise ModelError(
                "the package transformers is not installed",
                where=_WHERE,
                todo="pip install 'fairtune[clip]', or name an --endpoint",
            )
        folder = self._folder()
        files = sorted(path for path in folder.iterdir() if path.suffix in _READ)
        if not any(path.suffix == ".safetensors" for path in files):
            raise ModelError(
                "the model's folder has no weights as safetensors", where=_WHERE, found=folder
            )
        # transformers would make up a tokenizer without words.
        if not any(path.name in _WORDS or path.suffix == ".model" for path in files):
            raise ModelError(
                "the model's folder has no tokenizer",
                where=_WHERE,
                found=folder,
                allowed=[*_WORDS, "a file ending in .model"],
            )
        self._load(folder)
        return {
            "architecture": type(self._net).__name__,
            "files": {path.name: file_sha256(path) for path in files},
        }

    def answer(self, note: str, ask: Callable[[str], str], row: int) -> Answer:
        """Return the answer to one note, cut at a word to what the model can read.

        Raises:
            Refused: Not even the prompt alone can be read.
            ModelError: The model fails.
        """
        import torch

        fitting = self._fitting(note, ask)
        read = self._tokens(ask(fitting))
        try:
            with torch.inference_mode(), torch.random.fork_rng(self._devices()):
                torch.manual_seed(_seed(self.asked.seed, row))
                written = self._written(torch.tensor([read], device=self._net.device))
        except torch.OutOfMemoryError:
            raise ModelError(
                "the model does not fit into memory", where=_WHERE, todo="take a smaller one"
            ) from None
        except Exception as error:  # of another's code, whose message may hold what it was reading
            raise ModelError(
                "the model fails on a note", where=_WHERE, found=type(error).__name__
            ) from None
        text: str = self._tokenizer.decode(written, skip_special_tokens=True)
        whole = len(written) < self.asked.max_new_tokens or written[-1] in self._ends()
        return Answer(
            text,
            ended="stop" if whole else "length",
            note_cut=fitting != note,
            tokens_in=len(read),
            tokens_out=len(written),
        )

    def _folder(self) -> Path:
        if Path(self.asked.model).is_dir():
            return Path(self.asked.model)
        from huggingface_hub import snapshot_download

        offline = self._settings.offline
        try:
            found = snapshot_download(
                self.asked.model, allow_patterns=_FILES, local_files_only=offline
            )
        except Exception as error:  # the client, and so its exceptions, differ by version
            raise ModelError(
                "there is no such folder, and the model hub has no such model"
                + (" in its cache, and is switched off" if offline else " or cannot be reached"),
                where=_WHERE,
                found=f"{self.asked.model} ({type(error).__name__})",
                todo="name a folder with config.json, safetensors and tokenizer",
            ) from None
        return Path(found)

    def _load(self, folder: Path) -> None:
        import torch
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForSeq2SeqLM,
            AutoTokenizer,
        )

        from fairtune.models.device import device_of

        device = device_of(self._settings)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            made: Any = kind.from_pretrained(
                folder,
                output_loading_info=True,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32 if device.type == "cpu" else "auto",
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
            raise ModelError(
                "transformers cannot load this as a model that writes text",
                where=f"{_WHERE} {self.asked.model}",
                found=(str(error).splitlines() or [type(error).__name__])[0],
                todo="name a causal or sequence-to-sequence model with its tokenizer",
            ) from None
        net, told = made
        if told["missing_keys"]:
            # transformers would draw them at random.
            raise ModelError(
                "the weights are not all of the model's",
                where=f"{_WHERE} {self.asked.model}",
                found=f"without {sorted(told['missing_keys'])[0]}",
            )
        self._net = net.to(device).eval()
        self._reads = self._limit(config)

    def _limit(self, config: Any) -> int:
        """Return the tokens that a prompt may have."""
        known = [
            getattr(config, "max_position_embeddings", None),
            getattr(config, "n_positions", None),
            self._tokenizer.model_max_length,
        ]
        limit = min(int(n) for n in (*known, _NO_LIMIT) if n is not None)
        if not config.is_encoder_decoder and limit < _NO_LIMIT:
            limit -= self.asked.max_new_tokens
        if limit < 1:
            raise ModelError(
                "an answer would leave no room for a note",
                where="--max-new-tokens",
                found=self.asked.max_new_tokens,
                allowed=f"fewer than {limit + self.asked.max_new_tokens}",
            )
        return limit

    def _fitting(self, note: str, ask: Callable[[str], str]) -> str:
        """Return the note, or its first words with which the prompt is not too long."""
        if len(self._tokens(ask(note))) <= self._reads:
            return note
        words = note.split()
        fits, none = 0, len(words)
        while none - fits > 1:
            middle = (fits + none) // 2
            fitting = len(self._tokens(ask(" ".join(words[:middle])))) <= self._reads
            fits, none = (middle, none) if fitting else (fits, middle)
        if fits == 0:
            raise Refused(
                "the prompt alone is longer than the model can read",
                f"more than {self._reads} tokens",
                "shorten --prompt or lower --max-new-tokens",
            )
        return " ".join(words[:fits])

    def _tokens(self, question: str) -> list[int]:
        if getattr(self._tokenizer, "chat_template", None):
            messages = [{"role": "user", "content": question}]
            question = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
            found = self._tokenizer(question, add_special_tokens=False, verbose=False)
        else:
            found = self._tokenizer(question, verbose=False)
        tokens: list[int] = found["input_ids"]
        return tokens

    def _written(self, read: Any) -> list[int]:
        draws: dict[str, Any] = {"do_sample": False}
        if self.asked.temperature > 0:
            heat = self.asked.temperature
            draws = {"do_sample": True, "temperature": heat, "top_k": 0, "top_p": 1.0}
        out = self._net.generate(
            input_ids=read,
            attention_mask=read.new_ones(read.shape),
            max_new_tokens=self.asked.max_new_tokens,
            num_beams=1,
            pad_token_id=next(iter(self._ends()), 0),
            **draws,
        )[0]
        begin = 1 if self._net.config.is_encoder_decoder else read.shape[1]
        written: list[int] = out[begin:].tolist()
        return written

    def _devices(self) -> list[Any]:
        """Return the devices besides the CPU whose random numbers are drawn."""
        return [self._net.device] if self._net.device.type == "cuda" else []

    def _ends(self) -> list[int]:
        """Return the tokens that end an answer."""
        found = self._net.generation_config.eos_token_id
        if found is None:
            return []
        return list(found) if isinstance(found, list | tuple) else [int(found)]


def _seed(seed: int, row: int) -> int:
    """Return the seed of one note's draws: the same whichever notes are asked about before it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row}".encode()).digest()[:8]) >> 1
