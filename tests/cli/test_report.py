"""`fairtune report` from the command line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from fairtune.cli.report import register
from fairtune.errors import FairtuneError

APP = typer.Typer()
register(APP)
RUN = CliRunner()


def kit() -> ModuleType:
    """The study kit of the report's own tests."""
    path = Path(__file__).parent.parent / "report" / "kit_study.py"
    spec = importlib.util.spec_from_file_location("kit_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("kit_study", module)
    spec.loader.exec_module(sys.modules["kit_study"])
    return sys.modules["kit_study"]


def run(*words: str) -> str:
    done = RUN.invoke(APP, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_report_is_written_where_it_says(tmp_path: Path) -> None:
    study = kit()
    study.search(tmp_path / "out", study.Made(trials=4, top=0))
    out = str(tmp_path / "out")
    said = run("tiny", "--out", out).strip()
    assert said == str(tmp_path / "out" / "tiny" / "report.html")
    assert Path(said).read_text().startswith("<!DOCTYPE html>")
    assert len(list((tmp_path / "out" / "tiny").glob("report*"))) == 1
    named = tmp_path / "elsewhere" / "figures.csv"
    words = ("tiny", "--out", out, "--format", "csv", "--to", str(named))
    assert run(*words).strip() == str(named)
    assert named.read_text().startswith("recipe,split,metric,")
    for watts in ("0", "200"):
        with pytest.raises(FairtuneError, match="a draw above 0 W"):
            run(*words, "--watts", watts)
    with pytest.raises(FairtuneError, match="there is none yet"):
        run("tiny", "--out", out, "--format", "card")
    with pytest.raises(FairtuneError, match="names a folder"):
        run("tiny", "--out", out, "--to", str(tmp_path))


def test_an_unknown_study_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(FairtuneError, match="no such study"):
        run("nothing", "--out", str(tmp_path))
