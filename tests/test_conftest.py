"""The marker `needs` and the services behind it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairtune.config import settings

TRIAL = """
import pytest

@pytest.mark.needs("package-index")
def test_absent():
    pass

@pytest.mark.needs("unicorn")
def test_unknown():
    pass
"""


def run_in(folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run one marked test where no package index can be reached."""
    here = Path(__file__).resolve().parent
    (folder / "conftest.py").write_text((here / "conftest.py").read_text())
    (folder / "test_trial.py").write_text(TRIAL)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    needs(what): x\n")
    cut_off = {
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": str(folder / "nothing"),
    }
    environ = {**os.environ, **cut_off, **extra}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "."]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


def test_an_absent_need_skips_with_its_reason_and_an_unknown_one_is_refused(
    tmp_path: Path,
) -> None:
    done = run_in(tmp_path, CI="")
    assert "1 skipped" in done.stdout
    assert "needs package-index: no package index can be reached" in done.stdout
    assert "needs('unicorn') is unknown; known: " in done.stdout


def test_an_absent_need_fails_in_ci(tmp_path: Path) -> None:
    done = run_in(tmp_path, CI="true")
    assert done.returncode == 1
    assert "needs package-index: no package index can be reached" in done.stdout
    assert "skipped" not in done.stdout


def test_tests_do_not_touch_the_users_folders(tmp_path: Path) -> None:
    now = settings()
    home = Path.home()
    assert now.offline
    assert now.out == tmp_path / "results"
    assert not now.cache.is_relative_to(home / ".cache")
    assert now.storage is None


@pytest.mark.needs("postgres")
def test_postgres_url_is_a_live_server(postgres_url: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(postgres_url)
    try:
        with engine.connect() as connection:
            version = connection.execute(sqlalchemy.text("select version()")).scalar_one()
    finally:
        engine.dispose()
    assert "PostgreSQL" in version


@pytest.mark.needs("shared-data")
def test_shared_data_holds_metadata_tables(shared_data: Path) -> None:
    assert list(shared_data.rglob("*.csv"))
