"""The command line as a process of its own, and in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fairtune.cli.app import main

FAIRTUNE = [sys.executable, "-m", "fairtune.cli.app"]


def process(words: Sequence[object], **env: str) -> subprocess.Popen[str]:
    """Start `fairtune WORDS` on one thread of the CPU."""
    own = {"OMP_NUM_THREADS": "1", "FAIRTUNE_DEVICE": "cpu", "PYTHONUNBUFFERED": "1", **env}
    return subprocess.Popen(
        [*FAIRTUNE, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **own},
    )


def here(
    words: Sequence[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run `fairtune WORDS` in this process; return exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["fairtune", *map(str, words)])
    monkeypatch.setenv("FAIRTUNE_DEVICE", "cpu")
    capsys.readouterr()
    try:
        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    out = capsys.readouterr()
    return code, out.out, out.err


def files(folder: Path) -> set[str]:
    """Return every file below `folder` but lock files."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)) for p in found if not p.name.endswith(".lock")}
