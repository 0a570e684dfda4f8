"""Workers of a study run the same code, or say that they do not."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from kit_ledger import open_ledger

import fairtune
from fairtune.errors import FairtuneError
from fairtune.study import code
from fairtune.study.code import CODE, FORCED, check_code, code_here, forced_of


@pytest.fixture(autouse=True)
def _fresh() -> None:
    code_here.cache_clear()


def test_it_names_what_computes() -> None:
    found = code_here()
    assert found["fairtune"] == fairtune.__version__
    assert found["torch"] == importlib.metadata.version("torch")
    assert len(found["files"]) == 16


def test_a_changed_file_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_here()["files"]
    home = tmp_path / "fairtune"
    (home / "room").mkdir(parents=True)
    (home / "__init__.py").write_text("")
    (home / "room" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(code.fairtune, "__file__", str(home / "__init__.py"))
    seen = {before}
    for change in ("x = 2\n", "x = 3\n"):
        (home / "room" / "a.py").write_text(change)
        code_here.cache_clear()
        seen.add(code_here()["files"])
    (home / "room" / "a.py").rename(home / "room" / "b.py")
    code_here.cache_clear()
    seen.add(code_here()["files"])
    assert len(seen) == 4


def test_the_first_worker_says_what_the_study_runs(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        assert check_code(ledger) == []
        assert ledger.attrs()[CODE] == dict(code_here())
        assert check_code(ledger) == []


def test_other_code_is_refused_with_every_difference(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.set_attr(CODE, {**code_here(), "files": "0" * 16, "torch": "2.0"})
        with pytest.raises(FairtuneError) as caught:
            check_code(ledger)
        said = str(caught.value)
        assert "fairtune's files" in said
        assert "2.0" in said
        assert "--force" in said
        assert not any(name.startswith(FORCED) for name in ledger.attrs())


def test_force_is_recorded_under_the_workers_name(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.set_attr(CODE, {**code_here(), "files": "0" * 16})
        (line,) = check_code(ledger, force=True)
        assert "0" * 16 in line
        kept = ledger.attrs()[f"{FORCED}{ledger.worker}"]
        assert kept["code"] == dict(code_here())
        assert ledger.attrs()[CODE]["files"] == "0" * 16
        (said,) = forced_of(ledger.attrs())
        assert said.startswith(f"fairtune's files {code_here()['files']} (since 20")
        assert "torch" not in said
