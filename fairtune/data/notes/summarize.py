"""Notes summed up by a text model, row by row, so that a stop costs the row on its way at most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fairtune.data.notes.journal import Answer, Journal, alone
from fairtune.data.notes.output import check_output, make_folder, write_output
from fairtune.data.notes.prompt import Prompt, shortened
from fairtune.data.notes.table import Notes
from fairtune.errors import ConfigError, DataError, Interrupted

COLUMN = "summary"
LETTERS_A_TOKEN = 4
_REFUSED_AT_FIRST = 3
STATUS = "not reviewed: what a model writes can be wrong, and can tell who a note is about"

Told = Callable[[int, int], None]
Leaks = Literal["yes", "no", "unknown"]


class Refused(Exception):
    """A model will not answer to one note, which is no fault of the others.

    Args:
        what: One sentence; no text of the note.
        found: What was found.
        todo: What to do about it.
    """

    def __init__(self, what: str, found: object = None, todo: str | None = None) -> None:
        super().__init__(what)
        self.what, self.found, self.todo = what, found, todo


class TextModel(Protocol):
    """Answers to notes."""

    def chosen(self) -> dict[str, Any]:
        """Return what was chosen by the user and determines the answers, as JSON values."""

    def prepared(self) -> dict[str, Any]:
        """Get ready to answer; return what else determines the answers, as JSON values."""

    def answer(self, note: str, ask: Callable[[str], str], row: int) -> Answer:
        """Return the answer to one note.

        Args:
            note: The note.
            ask: Makes of a note, or of its beginning, what the model is asked.
            row: Number of the note, for random numbers of its own.

        Raises:
            Refused: This note is not answered.
            ModelError: No note is.
        """


@dataclass(frozen=True)
class Asked:
    """What is asked of a text model.

    Attributes:
        prompt: With a place for the note.
        characters: Most characters of a summary.
        text_leaks_label: Whether whoever wrote the prompt, or the notes, told the model the label
            or asked for it; not known unless the user says so.
        refused: `stop` or `empty`: what becomes of notes that the model refuses.
    """

    prompt: Prompt
    characters: int = 180
    text_leaks_label: Leaks = "unknown"
    refused: Literal["stop", "empty"] = "stop"

    def ask(self, note: str) -> str:
        """Return what is asked about one note."""
        return self.prompt.filled(note, self.characters)


@dataclass(frozen=True)
class Plan:
    """What a call would do.

    Attributes:
        rows: Notes of the table.
        empty: Those without a word, which nobody is asked about.
        answered: Those that are answered already.
        left: Those to be asked about.
        tokens_in: Tokens of all prompts that are left, by their length.
        tokens_out: Most tokens of the answers.
    """

    rows: int
    empty: int
    answered: int
    left: int
    tokens_in: int
    tokens_out: int


def journal_path(to: Path) -> Path:
    """Return where answers are kept until the output `to` is whole."""
    return to.with_name(f"{to.name}.journal")


def plan(notes: Notes, model: TextModel, asked: Asked, to: Path, *, restart: bool = False) -> Plan:
    """Return what `summarize` would do; nothing is asked, loaded or written.

    Raises:
        ConfigError: `summarize` would refuse it before it asks for anything.
    """
    journal = _fitting(notes, model.chosen(), asked, to, restart)
    known = journal.answers if journal else {}
    full = [row for row, text in enumerate(notes.texts) if text.strip()]
    left = [row for row in full if row not in known]
    letters = sum(len(asked.ask(notes.texts[row])) for row in left)
    most = int(model.chosen()["max_new_tokens"])
    return Plan(
        rows=len(notes),
        empty=notes.empty,
        answered=len(full) - len(left),
        left=len(left),
        tokens_in=math.ceil(letters / LETTERS_A_TOKEN),
        tokens_out=most * len(left),
    )


def summarize(
    notes: Notes,
    model: TextModel,
    asked: Asked,
    to: Path,
    *,
    restart: bool = False,
    told: Told = lambda done, total: None,
) -> dict[str, Any]:
    """Write a summary of every note to `to`; return the record that stands beside it.

    Every answer is kept in a journal beside `to` before the next note is asked about. The same
    call after a stop asks about no note that is answered. The journal goes when `to` is whole.

    Args:
        notes: The notes.
        model: Who answers.
        asked: What is asked.
        to: CSV or TSV with identifiers, summaries and the columns that are kept.
        restart: Begin anew: answers and an output that are there are given up.
        told: Called with the number of notes that are done and of all, at first and after each.

    Raises:
        ConfigError: The answers there are, are to something else, or `to` cannot be written.
        DataError: The model refused notes; all others are kept.
        ModelError: The model cannot be asked or loaded.
        Interrupted: Ctrl-C; what was answered is kept.
        StorageError: The disk is full.
    """
    # Before the model is loaded: a slip of the pen must not cost minutes.
    _fitting(notes, model.chosen(), asked, to, restart)
    notes.table(COLUMN, notes.texts)
    make_folder(to)
    with alone(to):
        identity = _identity(notes, {**model.chosen(), **model.prepared()}, asked)
        journal = None if restart else _checked(Journal.read(journal_path(to)), identity)
        if journal is None:
            journal = Journal.begin(journal_path(to), identity)
        _ask_all(notes, model, asked, journal, told)
        record = _write(notes, identity, asked, journal, to)
        journal.remove()
    return record


def _fitting(
    notes: Notes, chosen: Mapping[str, Any], asked: Asked, to: Path, restart: bool
) -> Journal | None:
    journal = None if restart else Journal.read(journal_path(to))
    check_output(to, notes.path, replaces=restart or journal is not None)
    return _checked(journal, _identity(notes, chosen, asked))


def _identity(notes: Notes, model: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """Return all that determines the summaries, by the name under which it is refused."""
    return {
        "source": notes.sha256,
        "--text": notes.text,
        "--id": notes.id,
        "--prompt": asked.prompt.template,
        "--max-characters": asked.characters,
        **{f"model.{name}": value for name, value in model.items()},
    }


def _checked(journal: Journal | None, identity: Mapping[str, Any]) -> Journal | None:
    differing = journal.differing(identity) if journal else []
    if journal is not None and differing:
        raise ConfigError(
            "the summaries that are there were made otherwise",
            where=journal.path,
            found=f"another {', '.join(differing)}",
            allowed="what they were made with",
            todo="write the command as it was, name another output, or write --restart: every "
            "note is then asked about again",
        )
    return journal


def _ask_all(notes: Notes, model: TextModel, asked: Asked, journal: Journal, told: Told) -> None:
    """Ask about every note without an answer.

    Raises:
        DataError: Notes were refused, and may not be left empty.
    """
    refusals: dict[int, Refused] = {}
    left = [r for r, text in enumerate(notes.texts) if text.strip() and r not in journal.answers]
    told(len(notes) - len(left), len(notes))
    try:
        with journal.writing() as writer:
            for done, row in enumerate(left, len(notes) - len(left) + 1):
                try:
                    writer.add(row, model.answer(notes.texts[row], asked.ask, row))
                except Refused as refusal:
                    refusals[row] = refusal
                # It is then the request that is at fault, and not each of the notes.
                if len(refusals) >= _REFUSED_AT_FIRST and not journal.answers:
                    break
                told(done, len(notes))
            if refusals and (asked.refused == "stop" or not journal.answers):
                raise _refused(notes, refusals, bool(journal.answers))
            for row in refusals:
                writer.add(row, Answer("", ended="refused"))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped with {len(journal.answers):,} answers, which are kept; "
            "the same command goes on"
        ) from None


def _refused(notes: Notes, refusals: Mapping[int, Refused], kept: bool) -> DataError:
    first = next(iter(refusals.values()))
    places = [notes.where(row) for row in refusals]
    shown = ", ".join(places[:10]) + (f" and {len(places) - 10} more" if places[10:] else "")
    todo = "check --model and --limit-as: no note was ever answered"
    if kept:
        todo = "shorten or mend these notes, or write --refused empty: their summaries stay empty"
    return DataError(
        f"{first.what}{' (all others are answered, and kept)' if kept else ''}",
        where=shown,
        found=first.found,
        todo=first.todo or todo,
    )


def _write(
    notes: Notes, identity: Mapping[str, Any], asked: Asked, journal: Journal, to: Path
) -> dict[str, Any]:
    none = Answer("", ended="no note")
    answers = [journal.answers.get(row, none) for row in range(len(notes))]
    cut = [shortened(answer.text, asked.characters) for answer in answers]
    header, rows = notes.table(COLUMN, [text for text, _ in cut])
    record = {
        "command": "notes summarize",
        "status": STATUS,
        "reviewed": False,
        "text_leaks_label": asked.text_leaks_label,
        "source": notes.source(),
        "model": {
            name.removeprefix("model."): value
            for name, value in identity.items()
            if name.startswith("model.")
        },
        "prompt": asked.prompt.template,
        "max_characters": asked.characters,
        "rows": {
            "all": len(notes),
            "empty_note": notes.empty,
            "summary": sum(bool(text) for text, _ in cut),
            "empty_answer": sum(not t and a.ended != "no note" for (t, _), a in zip(cut, answers)),
            "cut_at_max_characters": sum(was for _, was in cut),
            "note_cut": sum(answer.note_cut for answer in answers),
        },
        "ended": dict(sorted(Counter(answer.ended for answer in answers).items())),
        "tokens": {
            "in": sum(answer.tokens_in for answer in answers),
            "out": sum(answer.tokens_out for answer in answers),
        },
    }
    return write_output(to, header, rows, record)
