"""Every environment variable, read in one place."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

import fairtune
from fairtune.config import Settings, settings
from fairtune.config.settings import devices_named, threads_here
from fairtune.errors import ConfigError


def test_without_variables_the_defaults_hold() -> None:
    found = settings({})
    assert found == Settings(
        data=(),
        cache=Path.home() / ".cache" / "fairtune",
        cache_gib=50.0,
        out=Path("results"),
        storage=None,
        offline=False,
        device=None,
    )


def test_every_variable_is_read() -> None:
    found = settings(
        {
            "FAIRTUNE_DATA": os.pathsep.join(["~/one", "", "/two"]),
            "FAIRTUNE_CACHE": "~/cache",
            "FAIRTUNE_CACHE_GIB": "1.5",
            "FAIRTUNE_OUT": "~/out",
            "FAIRTUNE_STORAGE": "sqlite:///x.db",
            "FAIRTUNE_OFFLINE": "1",
            "FAIRTUNE_DEVICE": "cpu",
            "FAIRTUNE_STUDY": "ham",
            "FAIRTUNE_RUNS": "s3://bucket/runs",
        }
    )
    home = Path.home()
    assert found == Settings(
        data=(home / "one", Path("/two")),
        cache=home / "cache",
        cache_gib=1.5,
        out=home / "out",
        storage="sqlite:///x.db",
        offline=True,
        device="cpu",
        study="ham",
        runs="s3://bucket/runs",
    )


def test_common_variables_stand_in() -> None:
    found = settings(
        {"XDG_CACHE_HOME": "/xdg", "OPTUNA_STORAGE": "sqlite:///o.db", "HF_HUB_OFFLINE": "1"}
    )
    assert found.cache == Path("/xdg/fairtune")
    assert found.storage == "sqlite:///o.db"
    assert found.offline


def test_our_own_variable_wins() -> None:
    found = settings(
        {
            "XDG_CACHE_HOME": "/xdg",
            "FAIRTUNE_CACHE": "/ours",
            "OPTUNA_STORAGE": "sqlite:///o.db",
            "FAIRTUNE_STORAGE": "sqlite:///f.db",
        }
    )
    assert found.cache == Path("/ours")
    assert found.storage == "sqlite:///f.db"


def test_an_empty_variable_counts_as_absent() -> None:
    names = ["DATA", "CACHE", "CACHE_GIB", "OUT", "STORAGE", "OFFLINE", "DEVICE"]
    assert settings({f"FAIRTUNE_{name}": "" for name in names}) == settings({})


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_a_cap_that_is_no_number_above_0_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="number above 0") as caught:
        settings({"FAIRTUNE_CACHE_GIB": text})
    assert caught.value.where == "environment FAIRTUNE_CACHE_GIB"
    assert caught.value.found == text


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("TRUE", True), (" yes ", True), ("0", False), ("off", False)]
)
def test_flags(text: str, value: bool) -> None:
    assert settings({"FAIRTUNE_OFFLINE": text}).offline is value


def test_a_flag_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 0 or 1") as caught:
        settings({"FAIRTUNE_OFFLINE": "maybe"})
    assert caught.value.where == "environment FAIRTUNE_OFFLINE"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRTUNE_DEVICE", "cuda:3")
    assert settings().device == "cuda:3"


def test_the_docstring_names_every_field_and_variable() -> None:
    doc = Settings.__doc__ or ""
    assert all(f"{field.name}:" in doc for field in fields(Settings))
    source = Path(fairtune.__file__).with_name("config").joinpath("settings.py").read_text()
    assert set(re.findall(r'"(FAIRTUNE_\w+)"', source)) == set(
        re.findall(r"`(FAIRTUNE_\w+)`", doc)
    )


def test_no_other_module_reads_a_variable_of_ours() -> None:
    package = Path(fairtune.__file__).parent
    reading = re.compile(r"os\.(getenv\(|environ(\.get\(|\[))[\"'](FAIRTUNE|OPTUNA)_")
    readers = [
        f"{path.relative_to(package)}: {found.group()}"
        for path in package.rglob("*.py")
        for found in reading.finditer(path.read_text())
    ]
    assert readers == []


def test_processes_are_those_of_torchrun() -> None:
    assert settings({"WORLD_SIZE": "4", "LOCAL_RANK": "1"}).processes == 1
    found = settings({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert (found.processes, found.local_rank) == (4, 1)


def test_threads_are_a_share_unless_the_user_chose() -> None:
    assert threads_here(3, {}) == {"OMP_NUM_THREADS": "3"}
    assert threads_here(3, {"OMP_NUM_THREADS": "1"}) == {"OMP_NUM_THREADS": "1"}


def test_devices_are_named_as_the_environment_names_them() -> None:
    assert devices_named(2, {}) == ("0", "1")
    assert devices_named(2, {"CUDA_VISIBLE_DEVICES": "3, MIG-aa"}) == ("3", "MIG-aa")
    assert devices_named(0, {"CUDA_VISIBLE_DEVICES": ""}) == ()
