"""`fairtune notes`: tags for identifiers in clinical notes, summaries by a text model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fairtune.data.notes.summarize import TextModel

Table = Annotated[
    Path, typer.Argument(metavar="NOTES", help="CSV, TSV (UTF-8, also .gz) or parquet.")
]
Text = Annotated[str, typer.Option("--text", metavar="COLUMN", help="Column with the notes.")]
Id = Annotated[str, typer.Option("--id", metavar="COLUMN", help="Column that tells rows apart.")]
To = Annotated[
    Path,
    typer.Option("--to", metavar="FILE", help="CSV or TSV to write; its record stands beside."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep-column", help="Hand this column on as it is; repeatable."),
]


class Leaks(StrEnum):
    """Whether a text was written by somebody who knew the label."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class OnRefusal(StrEnum):
    """What becomes of a note that the model refuses."""

    STOP = "stop"
    EMPTY = "empty"


class LimitAs(StrEnum):
    """What an endpoint calls the most tokens of an answer."""

    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    notes = typer.Typer(
        help="Replace identifiers in clinical notes by tags; sum notes up by a text model.",
        no_args_is_help=True,
    )
    notes.command("deidentify")(deidentify)
    notes.command("summarize")(summarize)
    app.add_typer(notes, name="notes")


def deidentify(
    notes: Table,
    text: Text,
    id_: Id,
    to: To,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="presidio|rules",
            help="What finds identifiers; both may be given (default: presidio).",
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="Of the notes.")] = "en",
    spacy_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FOLDER|none",
            help="By which Presidio finds names and places (default for English: en_core_web_lg).",
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Presidio's score from which a piece is replaced.")
    ] = 0.3,
    keep_column: Keep = None,
) -> None:
    """Replace what recognisers find in notes by tags such as <DATE>.

    What they miss stays: read a sample. Identifiers in other columns are not touched.
    """
    from fairtune.cli.live import interruptible, packing
    from fairtune.data.notes.deidentify import deidentify as run
    from fairtune.data.notes.deidentify import finders_of
    from fairtune.data.notes.output import check_output
    from fairtune.data.notes.table import read_notes

    check_output(to, notes)
    with interruptible():
        table = read_notes(notes, text, id_, keep_column or ())
        finders = finders_of(with_ or (), language, spacy_model, threshold)
        record = run(table, finders, to, lambda done, all_: packing("notes", done, all_))
    _print_replaced(record, to)


def summarize(
    notes: Table,
    text: Text,
    id_: Id,
    to: To,
    model: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", help="Text model, here or at the endpoint.")
    ],
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Ask here, at /v1/chat/completions, not on this machine."
        ),
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Environment variable with the endpoint's bearer token."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|TEXT", help="What is asked, with {note} where the note stands."
        ),
    ] = None,
    max_characters: Annotated[
        int, typer.Option(min=1, help="Longer summaries are cut at a word, and counted.")
    ] = 180,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, help="Of the draws of tokens; 0 takes the likeliest.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws; endpoints need not heed it.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for one request to the endpoint.")
    ] = 120.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Times a request is made again that got no answer.")
    ] = 5,
    limit_as: Annotated[
        LimitAs, typer.Option(help="What the endpoint calls the most tokens of an answer.")
    ] = LimitAs.MAX_TOKENS,
    refused: Annotated[
        OnRefusal, typer.Option(help="Summaries of notes that the model refuses: stop, or empty.")
    ] = OnRefusal.STOP,
    leaks_label: Annotated[
        Leaks,
        typer.Option(help="Whether the model was told or asked for the label; it is recorded."),
    ] = Leaks.UNKNOWN,
    keep_column: Keep = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Give up summaries that are there; ask anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show rows and tokens; ask for nothing.")
    ] = False,
) -> None:
    """Write a summary of each note, by a model of transformers or an OpenAI-compatible endpoint.

    Stopped or killed, the same command goes on after the last answer. An endpoint reads the notes:
    see that it may.
    """
    from fairtune.cli.live import interruptible, packing
    from fairtune.data.notes.prompt import read_prompt
    from fairtune.data.notes.summarize import Asked, plan
    from fairtune.data.notes.summarize import summarize as run
    from fairtune.data.notes.table import read_notes

    asked = Asked(read_prompt(prompt), max_characters, leaks_label.value, refused.value)
    fields = {
        "model": model,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    far = {
        "token_env": token_env,
        "timeout": timeout,
        "retries": retries,
        "limit_as": limit_as.value,
    }
    writer = _writer(endpoint, fields, far)
    table = read_notes(notes, text, id_, keep_column or ())
    if dry_run:
        _print_plan(plan(table, writer, asked, to, restart=restart))
        return
    with interruptible():
        record = run(
            table,
            writer,
            asked,
            to,
            restart=restart,
            told=lambda done, all_: packing("notes", done, all_),
        )
    _print_summarized(record, to)


def _writer(endpoint: str | None, fields: dict[str, Any], far: dict[str, Any]) -> TextModel:
    from fairtune.config import parse, settings
    from fairtune.errors import ConfigError

    if endpoint is not None:
        from fairtune.models.chat import Chat

        return parse(Chat, {"endpoint": endpoint, **fields, **far}).build()
    if far["token_env"] is not None:
        raise ConfigError(
            "a token is sent to an endpoint alone", where="--token-env", todo="write --endpoint"
        )
    from fairtune.models.generate import Local

    return parse(Local, fields).build(settings())


def _print_replaced(record: dict[str, Any], to: Path) -> None:
    from fairtune.cli.models import print_table, table_of

    rows = record["rows"]
    print(
        f"{rows['all']:,} notes: something replaced in {rows['changed']:,}, nothing in "
        f"{rows['unchanged']:,}, {rows['empty']:,} empty"
    )
    if record["replaced"]:
        table = table_of("found by", "tag", "replaced>")
        for line in record["replaced"]:
            table.add_row(line["by"], line["tag"], f"{line['count']:,}")
        print_table(table)
    for finder in record["found_by"]:
        print(f"{finder['name']} does not look for:")
        for missed in finder["not_looked_for"]:
            print(f"  {missed}")
    print(f"not touched: column {', '.join(record['not_touched'])}")
    print(record["status"])
    print(f"written: {to} and {to.name}.json")


def _print_plan(plan: Any) -> None:
    print(
        f"{plan.rows:,} notes: {plan.empty:,} empty, {plan.answered:,} answered, "
        f"{plan.left:,} left"
    )
    print(
        f"about {plan.tokens_in:,} tokens to read (4 letters to a token), "
        f"at most {plan.tokens_out:,} to write"
    )


def _print_summarized(record: dict[str, Any], to: Path) -> None:
    rows = record["rows"]
    print(
        f"{rows['all']:,} notes: {rows['summary']:,} summaries, "
        f"{rows['empty_note']:,} empty notes, {rows['empty_answer']:,} empty answers"
    )
    print(
        f"cut at {record['max_characters']} letters: {rows['cut_at_max_characters']:,}; ended by "
        f"--max-new-tokens: {record['ended'].get('length', 0):,}; notes cut to what the model "
        f"reads: {rows['note_cut']:,}"
    )
    print(f"text_leaks_label: {record['text_leaks_label']}")
    print(record["status"])
    print(f"written: {to} and {to.name}.json")
