"""Every launcher of the registry, and those that start nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairtune.config import Config
from fairtune.config.registry import name_of, written
from fairtune.errors import FairtuneError
from fairtune.study.launch import LAUNCHERS, Crew, Launcher
from fairtune.study.launch.crew import goes_on, in_words
from fairtune.study.launch.logs import last_words
from fairtune.study.worker import StopFlag

URL = "postgresql://me:secret@host/db"


@pytest.mark.parametrize("name", LAUNCHERS.names())
def test_a_launcher_is_a_declaration_that_launches(name: str) -> None:
    made: Any = LAUNCHERS.parse(name)
    assert isinstance(made, Config)
    assert isinstance(made, Launcher)
    assert name_of(made) == name
    assert LAUNCHERS.parse(written(made)) == made
    assert isinstance(made.elsewhere, bool)
    described = type(made).__doc__ or ""
    assert [field for field in type(made).model_fields if f" {field}: " not in described] == []


@pytest.mark.parametrize("name", LAUNCHERS.names())
def test_a_setting_with_a_typo_is_answered(name: str) -> None:
    fields = list(LAUNCHERS.get(name).model_fields)
    wrong = f"{fields[0]}x" if fields else "workers"
    with pytest.raises(FairtuneError) as caught:
        LAUNCHERS.parse({name: {wrong: 1}})
    assert wrong in str(caught.value)
    assert not fields or f"did you mean '{fields[0]}'?" in str(caught.value)


def test_names() -> None:
    assert LAUNCHERS.names() == ["local", "print", "ray", "slurm"]
    with pytest.raises(FairtuneError, match="unknown launcher") as caught:
        LAUNCHERS.parse("slrum")
    assert caught.value.todo == "did you mean 'slurm'?"


def test_print_shows_the_command_and_hides_the_password() -> None:
    crew = Crew("tiny", URL, Path("x"), 3, ["--out=/a b"], processes=2, python="/usr/bin/python3")
    told: list[str] = []
    launcher: Any = LAUNCHERS.parse("print")
    assert launcher.launch(crew, StopFlag(), told.append, lambda: None) is False
    assert told[-1] == (
        "/usr/bin/python3 -m fairtune worker --study=tiny '--out=/a b' --gpus-per-run=2"
    )
    assert "export FAIRTUNE_STORAGE=..." in told
    assert "secret" not in "\n".join(told)


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (75, False), (130, False), (2, False), (1, True), (-9, True)]
)
def test_only_a_worker_that_died_is_started_again(code: int, again: bool) -> None:
    assert goes_on(code, 0, 1) is again
    assert not goes_on(code, 1, 1)


def test_exit_codes_in_words() -> None:
    assert in_words(-9) == "killed by SIGKILL"
    assert in_words(2) == "left with exit code 2"


def test_last_words_are_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == ""
    log.write_text("".join(f"{n} {'x' * 100}\n" for n in range(1000)) + "é\n")
    assert last_words(log).splitlines()[-1] == "é"
    assert len(last_words(log).splitlines()) == 8
