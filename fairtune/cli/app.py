"""The `fairtune` command: one module per command group, and the one place where errors end."""

from __future__ import annotations

import importlib
import io
import pkgutil
import sys
from typing import Annotated

import typer

import fairtune
from fairtune import cli
from fairtune.errors import ConfigError, FairtuneError

_HIDDEN = {"app", "crew", "data_texts", "live", "options", "work"}


def build() -> typer.Typer:
    """Return the application with every command group registered."""
    app = typer.Typer(
        name="fairtune",
        help="Search how to adapt a pretrained medical-imaging model, scored by validation "
        "fairness; confirm, retrain and test the pick once.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for info in sorted(pkgutil.iter_modules(cli.__path__), key=lambda i: i.name):
        if info.name not in _HIDDEN:
            importlib.import_module(f"fairtune.cli.{info.name}").register(app)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(fairtune.__version__)
        raise typer.Exit


SHARED = ("finetune", "search", "worker")
"""Commands whose runs the processes of torchrun can share."""


def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and leave.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Search how to adapt a pretrained medical-imaging model, scored by validation fairness."""
    from fairtune.config.settings import launched

    command, (processes, _) = context.invoked_subcommand, launched()
    if processes > 1 and command not in SHARED:
        raise ConfigError(
            "torchrun shares the batches of a run, and this command makes none",
            where=f"fairtune {command}",
            found=f"{processes} processes",
            allowed=SHARED,
            todo="start it without torchrun",
        )


def main() -> None:
    """Run the command line; a fault the user can mend is one message and exit code 2."""
    # A log that is followed, or killed, must not miss its last lines.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    try:
        build()()
    except FairtuneError as error:
        print(f"fairtune: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("fairtune: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
