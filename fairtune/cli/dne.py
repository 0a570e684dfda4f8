"""`fairtune dne`: probe attributes, learn an input edit, show what is in an edit's file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairtune.cli.data import Where
from fairtune.cli.models import Format
from fairtune.cli.options import DataRoot, Out

if TYPE_CHECKING:
    from fairtune.experiment.assessed import Assessment
    from fairtune.experiment.edit_recipe import Asked
    from fairtune.experiment.probing import Probed
    from fairtune.report.grid import Grid
    from fairtune.training.recipe import Recipe
    from fairtune.training.session import Session

MINIMUM = "n=20,positives=10,negatives=10"
EVERY = 10.0
"""Seconds without a line of progress at most."""

Dataset = Annotated[
    str | None, typer.Option("--dataset", help="A data set's name, or the path of its YAML file.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="A model's name, or the path of its YAML file.")
]
Target = Annotated[
    str | None, typer.Option("--target", help="Label rule; the first one when left out.")
]
Size = Annotated[
    int | None, typer.Option("--image-size", min=1, help="Side in pixels (default: the model's).")
]
Weights = Annotated[str, typer.Option("--weights", help="auto, none (random), or a file.")]
Card = Annotated[
    Path | None,
    typer.Option("--recipe", help="recipe.json that data and model are taken from instead."),
]


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    dne = typer.Typer(
        help="Input edits (debiased noise editing): probe attributes, learn an edit, show one.",
        no_args_is_help=True,
    )
    dne.command("probe")(probe)
    dne.command("learn")(learn)
    dne.command("show")(show)
    app.add_typer(dne, name="dne")


def probe(
    dataset: Dataset = None,
    model: Model = None,
    target: Target = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", help="Attribute or crossing A*B; all when left out."),
    ] = None,
    where: Where = None,
    image_size: Size = None,
    weights: Weights = "auto",
    recipe: Card = None,
    data_root: DataRoot = None,
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Say how well a linear head reads each attribute from the frozen model, on validation."""
    from fairtune.cli.live import stopping
    from fairtune.cli.models import print_json
    from fairtune.experiment.probing import probe_attributes
    from fairtune.study.worker import StopFlag

    asked = _asked(dataset, model, target, attribute, where, image_size, weights, recipe)
    plain, stop = asked.plain(), StopFlag()
    session = _session(data_root, stop)
    with stopping(stop):
        found = probe_attributes(plain, session, attribute or plain.data.attributes)
    if format_ is Format.JSON:
        print_json([one.to_json() for one in found])
    else:
        _print_probed(found)


def learn(
    to: Annotated[
        Path, typer.Option("--to", help="File of the edit (.safetensors); .html, .json beside it.")
    ],
    attribute: Annotated[
        str, typer.Option("--attribute", help="Attribute, or crossing A*B, that is to be hidden.")
    ],
    mode: Annotated[
        str,
        typer.Option("--mode", help="How it is searched: white, a black-box mode, or random."),
    ],
    dataset: Dataset = None,
    model: Model = None,
    target: Target = None,
    where: Where = None,
    image_size: Size = None,
    weights: Weights = "auto",
    recipe: Card = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=0, help="Budget: batches the model is asked.")
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the edit: lambda_sa=2, mode.white.lr=0.01."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Rows to assess it on: val, or test (is written down).")
    ] = "val",
    min_group: Annotated[
        str, typer.Option("--min-group", help="What a group must have to count.")
    ] = MINIMUM,
    show_images: Annotated[
        bool, typer.Option("--show-images", help="Show a few training images in the page.")
    ] = False,
    out: Out = None,
    data_root: DataRoot = None,
) -> None:
    """Learn one edit for all images on training rows, and assess it beside controls.

    Ctrl-C keeps the state of the search; the same command goes on.
    """
    from fairtune.cli.options import check_target
    from fairtune.errors import ConfigError
    from fairtune.evaluation.rules import GroupMinimum
    from fairtune.experiment.edits import check_name

    if split not in ("val", "test"):
        raise ConfigError("unknown rows", where="--split", found=split, allowed="val, test")
    minimum = GroupMinimum.parse(min_group)
    asked = _asked(dataset, model, target, [attribute], where, image_size, weights, recipe)
    fields = {"attribute": attribute} | ({} if queries is None else {"queries": queries})
    wanted = asked.edited(mode, fields, words or ())
    check_name(to)
    check_target(to, "--to")
    options = {"split": split, "minimum": minimum}
    _learn(wanted, to, options, show_images, out, data_root)


def _learn(
    wanted: Recipe,
    to: Path,
    options: dict[str, Any],
    show_images: bool,
    out: Path | None,
    data_root: list[Path] | None,
) -> None:
    from fairtune.cli.live import stopping
    from fairtune.cli.options import out_folder, this_command
    from fairtune.editing.stored import to_bytes
    from fairtune.experiment.assess import assess
    from fairtune.experiment.edits import learn_edit, pairs_of
    from fairtune.experiment.gate import Gate
    from fairtune.report.edit_page import write
    from fairtune.study.worker import StopFlag

    stop, gate = StopFlag(), Gate(out_folder(out))
    session = _session(data_root, stop)
    with stopping(stop):
        resolved = session.resolve(wanted)
        edit = learn_edit(resolved, session)
        found = assess(resolved, session, gate=gate, command=this_command(), **options)
        pairs = pairs_of(resolved, session) if show_images else ()
    page, numbers = write(found, to_bytes(edit), to, pairs)
    _print_assessed(found)
    print(f"edit: {to}\npage: {page}\nnumbers: {numbers}")
    print(f"next: fairtune finetune --study NAME --edit {to}")


def show(file: Annotated[Path, typer.Argument(help="File of an edit.")]) -> None:
    """Show what is in an edit's file: size, norms, and what is known of how it was made."""
    from fairtune.cli.models import print_table, table_of
    from fairtune.experiment.edits import described

    table = table_of("", "")
    for name, value in described(file):
        table.add_row(name, value)
    print_table(table)


def _asked(
    dataset: str | None,
    model: str | None,
    target: str | None,
    attributes: list[str] | None,
    where: list[str] | None,
    image_size: int | None,
    weights: str,
    recipe: Path | None,
) -> Asked:
    from fairtune.cli.data import where_of
    from fairtune.experiment.edit_recipe import Asked

    return Asked(
        dataset,
        model,
        target,
        tuple(attributes or ()),
        where_of(where),
        image_size,
        weights,
        recipe,
    )


def _session(data_root: list[Path] | None, stop: Any) -> Session:
    from fairtune.cli.options import open_session

    session = open_session(data_root)
    session.progress, session.poll = Steps(), stop.reason
    return session


class Steps:
    """Says how far something is: at its tenths, and where ten seconds have gone by."""

    def __init__(self) -> None:
        self._what, self._told = "", -1
        self._began, self._last, self._from = 0.0, 0.0, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take in how far `what`, and after a comma what is known of it, is."""
        now, name = time.monotonic(), what.partition(",")[0]
        if name != self._what:
            self._what, self._told = name, -1
            self._began, self._last, self._from = now, now, done
        tenth = 10 * done // max(1, total)
        if done == self._told or (
            tenth == 10 * self._told // max(1, total) and now - self._last < EVERY
        ):
            return
        self._told, self._last = done, now
        made = done - self._from
        left = f", {(now - self._began) / made * (total - done):.0f} s left" if made else ""
        print(f"{what}: {done}/{total}{left}", file=sys.stderr)


def _print_probed(found: list[Probed]) -> None:
    from fairtune.cli.models import print_table, table_of
    from fairtune.report.words import with_ends

    table = table_of("attribute", "train", "validation", "patients>", "AUC [95 %]", "reading")
    for one in found:
        counts = [", ".join(f"{k} {n}" for k, n in part.items()) for part in (one.train, one.val)]
        auc = with_ends(one.auc.value, one.auc.low, one.auc.high)
        table.add_row(one.attribute, *counts, str(one.patients), auc, one.reading)
    print_table(table)


def _print_assessed(found: Assessment) -> None:
    from fairtune.experiment.edit_words import few, sentences
    from fairtune.report import edit_grids

    released = edit_grids.published(found)
    grids = [edit_grids.reads(found), edit_grids.task(found), edit_grids.changes(found)]
    for grid in [*grids, *([] if released is None else [released])]:
        _print_grid(grid)
    for said in [*sentences(found), *few(found), *found.notes]:
        print(said)


def _print_grid(grid: Grid) -> None:
    from fairtune.cli.models import print_table, table_of

    print(grid.caption)
    first, *others = grid.columns
    table = table_of(first, *(f"{name}>" for name in others))
    for row in grid.rows:
        table.add_row(*(one.text for one in row))
    print_table(table)
    print()
