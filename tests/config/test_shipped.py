"""The shipped `configs/` and `studies/`: found beside the package and inside a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fairtune.config import shipped
from fairtune.config.yaml12 import read
from fairtune.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]


def test_a_working_tree_uses_its_own_folders() -> None:
    assert shipped.root("configs") == PROJECT / "configs"
    assert shipped.root("studies") == PROJECT / "studies"


def test_an_absent_folder_is_a_fault_of_the_installation() -> None:
    with pytest.raises(ConfigError, match="missing from this installation"):
        shipped.root("fairtune-absent")


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_every_shipped_file_is_found_and_read(kind: str) -> None:
    names = shipped.names(kind)
    assert names
    assert names == sorted(names)
    for name in names:
        assert isinstance(read(shipped.find(kind, name)).data, dict)


def test_every_shipped_study_is_named_like_its_file() -> None:
    paths = sorted(shipped.root("studies").rglob("*.yaml"))
    assert paths
    for path in paths:
        assert read(path).data["name"] == path.stem


def test_an_unknown_name_is_answered_with_all_known() -> None:
    known = shipped.names("models")
    with pytest.raises(ConfigError, match="unknown model") as caught:
        shipped.find("models", known[0] + "x")
    assert caught.value.todo == f"did you mean '{known[0]}'?"
    assert list(caught.value.allowed)[:-1] == known  # type: ignore[call-overload]


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\n")
    assert shipped.find("datasets", str(path)) == path
    with pytest.raises(ConfigError, match="no such file"):
        shipped.find("datasets", str(tmp_path / "absent.yml"))


@pytest.mark.slow
def test_a_wheel_carries_them(tmp_path: Path) -> None:
    # As a front end does it: in a process whose working folder is the project.
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        wheel.extractall(tmp_path / "site")
    ask = (
        "import json, fairtune; from fairtune.config import shipped;"
        "print(fairtune.__file__); print(shipped.root('configs'));"
        "print(sorted(str(p.relative_to(shipped.root(n))) for n in ('configs', 'studies')"
        " for p in shipped.root(n).rglob('*') if p.is_file()))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    module, configs, files = asked.stdout.splitlines()
    site = tmp_path / "site" / "fairtune"
    assert Path(module) == site / "__init__.py"
    assert Path(configs) == site / "_shipped" / "configs"
    assert (site / "py.typed").is_file()
    here = sorted(
        str(path.relative_to(PROJECT / name))
        for name in ("configs", "studies")
        for path in (PROJECT / name).rglob("*")
        if path.is_file()
    )
    assert files == str(here)
