"""The Makefile: what it offers, and that only a finished install counts as one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
TEXT = (PROJECT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: (.*)$", TEXT, re.MULTILINE)[1].split()  # type: ignore[index]


def make(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run make in the project, away from the options of a make that runs the tests."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=PROJECT,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
    )


def test_help_is_the_default_and_lists_every_target() -> None:
    shown = make()
    assert shown.returncode == 0
    assert [line.split()[1] for line in shown.stdout.splitlines()] == TARGETS
    assert shown.stdout == make("help").stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned(target: str, tmp_path: Path) -> None:
    assert make("-n", target, f"VENV={tmp_path / 'venv'}").returncode == 0


def test_an_empty_venv_is_the_current_environment() -> None:
    plan = make("-n", "install", "VENV=", f"PYTHON={sys.executable}").stdout
    assert re.search(rf"^{re.escape(sys.executable)} -m pip install +-e", plan, re.MULTILINE)


def test_options_reach_pip_pytest_and_the_quickstart(tmp_path: Path) -> None:
    venv = f"VENV={tmp_path / 'venv'}"
    plan = make("-n", "test", venv, "PIP_ARGS=--no-index -c x.txt", "PYTEST_ARGS=-k store").stdout
    assert "pip install --no-index -c x.txt -e '.[test]'" in plan
    assert 'pytest -n 2 -m "not slow" -k store' in plan
    quick = make("-n", "quickstart", venv, "QUICK=1").stdout
    assert "--name quickstart-quick" in quick
    assert "fairtune report quickstart-quick" in quick
    assert "quickstart-quick" not in make("-n", "quickstart", venv).stdout


def test_an_interpreter_that_is_missing_is_named(tmp_path: Path) -> None:
    done = make("install", f"VENV={tmp_path / 'venv'}", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer; '/no/such/python' is missing" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
def test_a_killed_install_leaves_no_stamp(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    with subprocess.Popen(
        ["make", "install", f"VENV={venv}", f"PYTHON={sys.executable}"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "pip install" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
    assert "3 to 6 GB" in "".join(said)
    assert (venv / "bin" / "python").exists()
    assert not list(venv.glob(".fairtune/*"))
