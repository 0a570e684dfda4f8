"""CLIP's tokenizer, made of the vocabulary that comes with the package open_clip_torch.

Byte pairs of lower-cased words (Radford et al., ICML 2021). The package itself is not imported:
of it only the file is read.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairtune.errors import ModelError

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_START, _END = "<start_of_text>", "<end_of_text>"
# Of the pairs in the file CLIP uses so many: 49,152 tokens less 256 bytes, each of them also as
# the end of a word, and the two special ones.
_PAIRS = 49152 - 256 - 2
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def content(spec: ModelSpec) -> bytes:
    """Return the vocabulary's file.

    Raises:
        ModelError: The package is not installed, or has no such file.
    """
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None or importlib.util.find_spec("ftfy") is None:
        raise ModelError(
            f"model '{spec.name}' needs the package open_clip_torch",
            where=f"model '{spec.name}' (tokenizer.kind)",
            found="open_clip",
            todo="pip install 'fairtune[clip]', or name a tokenizer.json: kind: json",
        )
    try:
        return (Path(found.origin).parent / _FILE).read_bytes()
    except OSError as error:
        raise ModelError(
            "the vocabulary of open_clip_torch cannot be read",
            where=f"model '{spec.name}' (tokenizer.kind)",
            found=f"{_FILE}: {error.strerror}",
            todo="install open_clip_torch anew, or name a tokenizer.json: kind: json",
        ) from None


def made(content: bytes) -> Any:
    """Return a tokenizer of the package tokenizers that gives CLIP's token numbers."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    lines = gzip.decompress(content).decode().split("\n")[1 : _PAIRS + 1]
    pairs = [(first, second) for first, second in (line.split() for line in lines)]
    alphabet = _alphabet()
    words = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *(a + b for a, b in pairs)]
    numbers = {word: i for i, word in enumerate([*words, _START, _END])}
    out = Tokenizer(
        models.BPE(vocab=numbers, merges=pairs, end_of_word_suffix="</w>", fuse_unk=False)
    )
    out.normalizer = normalizers.Lowercase()
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    out.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        special_tokens=[(word, numbers[word]) for word in (_START, _END)],
    )
    return out


def cleaned(text: str) -> str:
    """Return a text as CLIP reads it: its encoding mended, HTML's entities replaced."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _alphabet() -> list[str]:
    """Return the 256 characters that stand for bytes, in the order of their token numbers.

    Bytes that print stand for themselves and come first; the others are the characters from 256
    on (GPT-2's table).
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    shown += range(ord("®"), ord("ÿ") + 1)
    hidden = sum(byte not in shown for byte in range(256))
    return [chr(code) for code in (*shown, *range(256, 256 + hidden))]
