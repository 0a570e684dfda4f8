"""What torchrun leaves with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fairtune.study.launch.crew import REQUEUE as WANTED
from fairtune.training.torchrun import REQUEUE, code_of


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ({0: 75, 1: -15}, 75),
        ({0: 2, 1: 2}, 2),
        ({0: 130, 1: 1}, 130),
        ({0: 75, 1: -9}, 1),
        ({0: -6, 1: -15}, 1),
        ({1: 2}, 1),
        ({0: -15, 1: -15}, 1),
    ],
)
def test_the_first_process_says_it_unless_one_died(codes: dict[int, int], code: int) -> None:
    assert code_of(codes) == code


def test_the_code_is_that_of_workers() -> None:
    assert REQUEUE == WANTED


@pytest.mark.slow  # two processes that import torch
@pytest.mark.parametrize("code", [0, 75])
def test_it_leaves_with_the_code_of_the_first(code: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import os, sys\nsys.exit({code} if os.environ['RANK'] == '0' else 0)\n")
    words = ["-m", "fairtune.training.torchrun", "--standalone", "--nproc-per-node", "2"]
    assert subprocess.run([sys.executable, *words, str(program)], timeout=120).returncode == code
