"""`fairtune worker`, and `fairtune search` that starts workers: in this process."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from kit_cli import here
from kit_tiny import study_fields, write_study

from fairtune.cli.work import leave
from fairtune.study.code import CODE, FORCED
from fairtune.study.ledger import Ledger
from fairtune.study.rows import SEARCH, Row, roots
from fairtune.study.worker import Exit, StopFlag

SMALL: dict[str, Any] = {
    "baselines": [],
    "confirm": {"top": 0, "seeds": 1},
    "budget": {"trials": 3},
}


class Words:
    """`fairtune WORDS`, on a study below a folder."""

    def __init__(self, base: Path, run: Any, **changes: Any) -> None:
        self.file = write_study(base / "in", **{**SMALL, **changes})
        self.out, self.url, self.run = base / "out", f"journal:{base / 'study.journal'}", run

    def search(self, *words: object) -> tuple[int, str, str]:
        return self.run(["search", self.file, "--out", self.out, "--storage", self.url, *words])

    def worker(self, *words: object) -> tuple[int, str, str]:
        place = ["--out", self.out, "--storage", self.url]
        return self.run(["worker", "--study", "tiny", *place, *words])

    def ledger(self) -> Ledger:
        return Ledger.open(self.url, "tiny")

    def rows(self) -> list[Row]:
        with self.ledger() as ledger:
            return ledger.rows(SEARCH)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda words: here(words, monkeypatch, capsys)


@pytest.fixture
def words(tmp_path: Path, run: Any) -> Words:
    return Words(tmp_path, run)


def test_a_study_is_made_here_and_run_by_whoever_gives_the_printed_command(words: Words) -> None:
    code, out, err = words.search("--launcher", "print", "--workers", "2")
    assert code == 0, err
    assert "# 2 workers; in the environment of each" in out
    assert words.rows() == []
    printed = shlex.split(next(line for line in out.splitlines() if " -m fairtune worker" in line))
    given = [*printed[4:], "--storage", words.url]
    code, out, err = words.run(["worker", *given, "--max-trials", "1"])
    assert code == 0, err
    assert "left: it has made as many runs as it may" in out
    assert [row.state for row in words.rows()] == ["complete"]
    code, out, err = words.run(["worker", *given, "--slot", "1", "--idle-exit"])
    assert code == 0, err
    assert "left: nothing is left to do" in out
    assert [row.state for row in words.rows()] == ["complete"] * 3
    assert len(roots(words.rows())) == 3


def test_a_worker_whose_time_is_over_says_start_me_again(tmp_path: Path, run: Any) -> None:
    words = Words(tmp_path, run, budget={"trials": 10_000})  # more than a second holds
    assert words.search("--launcher", "print")[0] == 0
    code, out, _ = words.worker("--time-budget", "1s")
    # It may have ended a run before; what it began it gave back.
    assert code == 75, out
    assert "stopped (the time is over)" in out
    assert "running" not in [row.state for row in words.rows()]


@pytest.mark.parametrize(
    ("reason", "code"), [("SIGINT", 130), ("SIGTERM", 75), ("SIGUSR1", 75), ("any other", 75)]
)
def test_what_a_worker_was_told_is_its_exit_code(
    reason: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    stop = StopFlag()
    stop.request(reason)
    with pytest.raises(typer.Exit) as caught:
        leave(Exit.STOPPED, stop, "it goes on")
    assert caught.value.exit_code == code
    assert capsys.readouterr().out == f"stopped ({reason}); it goes on\n"
    leave(Exit.DONE, stop, "it goes on")


def test_a_worker_has_to_be_told_its_study(words: Words) -> None:
    code, _, err = words.run(["worker", "--storage", words.url])
    assert code == 2
    assert "--study: which study?" in err


def test_a_study_that_is_not_there_is_said(words: Words, tmp_path: Path) -> None:
    code, _, err = words.worker()
    assert code == 2
    assert "Traceback" not in err
    assert not words.out.exists()
    assert words.search("--launcher", "print")[0] == 0
    code, _, err = words.run(["worker", "--study", "tinny", "--storage", words.url])
    assert code == 2
    assert "tinny" in err


@pytest.mark.parametrize("time", ["soon", "0s", "-1h"])
def test_a_time_that_is_none_is_refused(time: str, words: Words) -> None:
    code, _, err = words.worker(f"--time-budget={time}")
    assert code == 2
    assert "--time-budget: expected a length of time above zero" in err


def test_other_code_is_refused_and_forced_only_on_the_record(words: Words) -> None:
    assert words.search("--launcher", "print")[0] == 0
    with words.ledger() as ledger:
        stored = ledger.attrs()[CODE]
        ledger.set_attr(CODE, {**stored, "files": "of another day"})
    code, _, err = words.worker()
    assert code == 2
    assert "another version than the study began with" in err
    assert "of another day" in err
    assert words.rows() == []
    code, out, err = words.worker("--force", "--max-trials", "1")
    assert code == 0, err
    assert f"forced: fairtune's files {stored['files']}" in out
    with words.ledger() as ledger:
        (forced,) = [v for k, v in ledger.attrs().items() if k.startswith(FORCED)]
    assert forced["code"] == stored


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--with", "partition=gpu"], "a setting of a launcher, and there is none"),
        (["--launcher", "slurm", "--with", "patition=gpu"], "did you mean 'partition'?"),
        (["--launcher", "slrum"], "did you mean 'slurm'?"),
        (["--launcher", "slurm", "--with", "time=soon"], "a length of time"),
        (
            ["--launcher", "slurm", "--with", "partition"],
            "--with: an override is written PATH=VALUE",
        ),
        (["--launcher", "ray", "--with", "cpus=0"], "cpus"),
        (["--workers", "2", "--with", "restart=1"], "did you mean 'restarts'?"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_a_launcher_or_setting_that_is_wrong_makes_no_study(
    given: list[str], message: str, words: Words
) -> None:
    code, _, err = words.search(*given)
    assert code == 2
    assert message in err
    assert not Path(words.url.removeprefix("journal:")).exists()
    assert not words.out.exists()


@pytest.mark.parametrize("launcher", ["slurm", "print", "ray"])
@pytest.mark.parametrize("storage", [None, "local", "x.db", "sqlite:///x.db"])
def test_workers_elsewhere_need_a_storage_that_they_reach(
    launcher: str, storage: str | None, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(words.file.parent)
    at = [] if storage is None else ["--storage", storage]
    given = ["search", words.file, "--out", words.out, "--launcher", launcher, *at]
    code, _, err = words.run(given)
    assert code == 2
    assert "cannot reach a storage of this machine" in err
    assert "postgresql://USER@HOST/DATABASE" in err
    assert not words.out.exists()


def test_precision_is_not_measured_where_nothing_is_trained(tmp_path: Path, run: Any) -> None:
    recipe = study_fields()["recipe"]
    recipe["fit"] = {"precision": "auto"}
    words = Words(tmp_path, run, recipe=recipe)
    code, _, err = words.search("--launcher", "print")
    assert code == 2
    assert "recipe.fit.precision" in err
    assert words.search("--launcher", "print", "--set", "recipe.fit.precision=fp32")[0] == 0


def test_a_batch_file_is_shown_before_anything_is_submitted(words: Words) -> None:
    shown = ["--launcher", "slurm", "--workers", "8", "--with", "through=print"]
    code, out, err = words.search(*shown, "--with", "partition=gpu", "--with", "parallel=4")
    assert code == 0, err
    for line in ("#!/bin/bash", "#SBATCH --partition=gpu", "#SBATCH --array=0-7%4"):
        assert line in out.splitlines()
    assert "next: fairtune watch tiny" in out


def test_several_workers_are_refused_on_sqlite_before_anything_is_made(
    words: Words, tmp_path: Path
) -> None:
    code, _, err = words.run(
        ["search", words.file, "--out", words.out, "--workers", "2", "--storage",
         f"sqlite:///{tmp_path / 'x.db'}"]
    )  # fmt: skip
    assert code == 2
    assert "SQLite takes one worker" in err
    assert "fairtune merge" in err
    assert not (tmp_path / "x.db").exists()
