"""What a text model is asked, and how its answer becomes a summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairtune.errors import ConfigError

NOTE, CHARACTERS = "{note}", "{characters}"
DEFAULT = (
    "Summarise the clinical note below in one sentence of at most {characters} characters. Keep "
    "findings, measurements, symptoms and treatment as the note states them. Add nothing that it "
    "does not state, and leave out names, dates, places and numbers of records. Answer with the "
    "sentence alone.\n\nNote:\n{note}"
)
"""Asks for no diagnosis: a summary that was told what to look for tells it to whoever reads it."""


@dataclass(frozen=True)
class Prompt:
    """A text with a place for the note.

    Attributes:
        template: The text, with `{note}` and perhaps `{characters}`, the length of a summary.
    """

    template: str

    def filled(self, note: str, characters: int) -> str:
        """Return what is asked about one note."""
        before, after = self.template.replace(CHARACTERS, str(characters)).split(NOTE)
        return f"{before}{note}{after}"


def read_prompt(given: str | None) -> Prompt:
    """Return the prompt that `--prompt` gives: a file, or the text itself; None for the default.

    Raises:
        ConfigError: It has no place for the note, or several, or the file cannot be read.
    """
    if given is None:
        return Prompt(DEFAULT)
    text = given if NOTE in given else _of_file(Path(given))
    count = text.count(NOTE)
    if count != 1:
        raise ConfigError(
            "the prompt needs one place for the note",
            where="--prompt",
            found=f"{count} times {NOTE}",
            allowed=f"a file with {NOTE}, or a text with it",
            todo=f"write {NOTE} where the note is to stand",
        )
    return Prompt(text)


def _of_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError("the prompt is not UTF-8 text", where=f"--prompt {path}") from None
    except (OSError, ValueError):
        raise ConfigError(
            "the prompt is neither a file that can be read nor a text with a place for the note",
            where="--prompt",
            allowed=f"a file with {NOTE}, or a text with it",
            todo=f"write {NOTE} where the note is to stand",
        ) from None


def shortened(text: str, characters: int) -> tuple[str, bool]:
    """Return an answer on one line, cut back to whole words, and whether it was cut.

    A first word that is longer than `characters` is cut itself.
    """
    line = " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())
    if len(line) <= characters:
        return line, False
    kept = line[: characters + 1].rpartition(" ")[0] or line[:characters]
    return kept.rstrip(), True
