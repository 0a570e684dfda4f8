"""Notes with what finders find in them replaced by tags, and the record of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairtune.data.notes.output import check_output, make_folder, write_output
from fairtune.data.notes.presidio import Presidio, is_installed
from fairtune.data.notes.rules import LANGUAGE, Rules
from fairtune.data.notes.spans import Finder, Span, merged, tagged
from fairtune.data.notes.table import Notes
from fairtune.errors import ConfigError, DataError

FINDERS = ("presidio", "rules")
STATUS = (
    "not reviewed: tags stand where the recognisers found something; what they miss stays in the "
    "notes. Read a sample before anybody else does."
)

Told = Callable[[int, int], None]


def finders_of(
    names: Sequence[str], language: str, model: str | None, threshold: float
) -> list[Finder]:
    """Return the finders called `names`; for none, Presidio.

    Raises:
        ConfigError: A name is unknown, a finder cannot be used, or the options fit none of them.
    """
    unknown = [name for name in names if name not in FINDERS]
    if unknown:
        raise ConfigError("unknown finder", where="--with", found=unknown[0], allowed=FINDERS)
    if not names and not is_installed():
        raise ConfigError(
            "Presidio is not installed, and nothing says that rules are enough",
            where="--with",
            allowed=FINDERS,
            todo="pip install 'fairtune[notes]', or write --with rules: they find less",
        )
    chosen = tuple(dict.fromkeys(names)) or ("presidio",)
    if "rules" in chosen and language != LANGUAGE:
        raise ConfigError(
            "the rules are for English notes", where="--language", found=language, allowed=LANGUAGE
        )
    if "presidio" not in chosen and model is not None:
        raise ConfigError("only Presidio reads a spaCy model", where="--spacy-model", found=model)
    return [
        Presidio(language, model, threshold) if name == "presidio" else Rules() for name in chosen
    ]


def deidentify(
    notes: Notes, finders: Sequence[Finder], to: Path, told: Told = lambda done, total: None
) -> dict[str, Any]:
    """Write `notes` with tags to `to`; return the record that stands beside it.

    What several finders find is replaced once, and counted for the one whose tag is written.

    Args:
        notes: The notes.
        finders: What looks for what is to be replaced.
        to: CSV or TSV with identifiers, notes and the columns that are kept.
        told: Called after each note with the number of those done and of all.

    Raises:
        ConfigError: `to` is there already, is the source, or is no table.
        DataError: A finder fails on a note, which is named by its line.
        StorageError: `to` cannot be written.
    """
    check_output(to, notes.path)
    make_folder(to)
    texts: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()
    for row, text in enumerate(notes.texts):
        spans = merged([span for finder in finders for span in _found(finder, notes, row)])
        counts.update((span.by, span.tag) for span in spans)
        texts.append(tagged(text, spans))
        told(row + 1, len(notes))
    header, rows = notes.table(notes.text, texts)
    changed = sum(old != new for old, new in zip(notes.texts, texts, strict=True))
    record = {
        "command": "notes deidentify",
        "status": STATUS,
        "reviewed": False,
        "source": notes.source(),
        "found_by": [finder.facts() for finder in finders],
        "replaced": [
            {"by": by, "tag": tag, "count": count} for (by, tag), count in sorted(counts.items())
        ],
        "rows": {
            "all": len(notes),
            "changed": changed,
            "unchanged": len(notes) - changed - notes.empty,
            "empty": notes.empty,
        },
        "not_touched": [notes.id, *notes.kept],
    }
    return write_output(to, header, rows, record)


def _found(finder: Finder, notes: Notes, row: int) -> Sequence[Span]:
    try:
        return finder.find(notes.texts[row])
    except Exception as error:  # of another's code, whose message may hold what it was reading
        raise DataError(
            "the finder failed on a note",
            where=notes.where(row),
            found=type(error).__name__,
            todo=f"mend or leave out this row, or use another finder than "
            f"{finder.facts()['name']}",
        ) from None
