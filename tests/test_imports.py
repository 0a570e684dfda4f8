"""What must not be loaded: torch takes seconds, and most commands never need it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fairtune

PACKAGE = Path(fairtune.__file__).parent
HEAVY = {"torch", "torchvision", "timm", "optuna", "pandas", "scipy", "plotly", "sqlalchemy"}
TORCH = {"torch", "torchvision", "timm"}
# Rooms and modules in which torch may not be loaded, however far away the import stands.
WITHOUT_TORCH = (
    "errors",
    "store",
    "remote",
    "config",
    "evaluation",
    "study.ledger",
    "study.phases",
    "study.worker",
    "study.space",
    "study.select",
    "study.follow",
    "study.tend",
    "study.zombies",
    "study.enqueue",
    "study.merge",
    "study.audit",
    "report",
)
ROOMS = [name for name in WITHOUT_TORCH if list(PACKAGE.glob(name.replace(".", "/") + "*"))]
HELP = """
import contextlib, io, json, sys
from fairtune.cli.app import main

for words in json.loads(sys.argv[1]):
    sys.argv = ["fairtune", *words, "--help"]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            main()
    except SystemExit as exit:
        code = exit.code
    loaded = sorted({name.split(".")[0] for name in sys.modules})
    print(json.dumps([words, code, "Usage:" in shown.getvalue(), loaded]))
"""
IMPORT = """
import importlib, json, sys

for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    print(json.dumps([name, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def answers(code: str, argument: object) -> list[Any]:
    """Run `code` in a fresh interpreter; return every line that it printed, read as JSON."""
    command = [sys.executable, "-c", code, json.dumps(argument)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def commands() -> list[list[str]]:
    """Return every command and every group, as the words that are typed."""
    import typer.main

    from fairtune.cli.app import build

    def walk(command: Any, words: list[str]) -> list[list[str]]:
        inside = getattr(command, "commands", {})
        return [words, *(w for name, c in inside.items() for w in walk(c, [*words, name]))]

    return walk(typer.main.get_command(build()), [])


def modules(room: str) -> list[str]:
    """Return every module of `room`, itself first."""
    base = PACKAGE.joinpath(*room.split("."))
    if base.with_suffix(".py").is_file():
        return [f"fairtune.{room}"]
    paths = sorted(path.relative_to(PACKAGE).with_suffix("") for path in base.rglob("*.py"))
    names = [".".join(("fairtune", *(p for p in path.parts if p != "__init__"))) for path in paths]
    return sorted(names)


def test_every_help_is_light() -> None:
    known = commands()
    assert len(known) > 3
    found = answers(HELP, known)
    assert [words for words, *_ in found] == known
    assert [words for words, code, usage, _ in found if code != 0 or not usage] == []
    # One process asks for all: what a command loads is there from then on, so look at the first.
    heavy = [("fairtune", *words, HEAVY & set(loaded)) for words, _, _, loaded in found]
    assert [row for row in heavy if row[-1]][:1] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_numbers_and_files_loads_no_torch(room: str) -> None:
    names = modules(room)
    assert names
    found = [(name, TORCH & set(loaded)) for name, loaded in answers(IMPORT, names)]
    assert [row for row in found if row[-1]][:1] == []


def test_the_package_itself_is_light() -> None:
    ((_, loaded),) = answers(IMPORT, ["fairtune"])
    assert (HEAVY | {"numpy", "pydantic", "yaml"}) & set(loaded) == set()
