"""`--runs`: commands on a machine whose results folder is empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit_cli import files, here
from kit_tiny import Tiny, write_study

from fairtune.experiment.runs import Runs
from fairtune.study.outcome import Outcome

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def shared(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A URL where the runs of the tiny study are."""
    base = tmp_path_factory.mktemp("shared")
    mine, url = tiny.copy(base / "one"), (base / "runs").as_uri()
    runs = Runs.at(mine.place.out, url)
    for done in mine.place.out.glob("runs/*/*/DONE"):
        assert runs.get(done.parent.name) is not None
    return url


def test_what_reads_runs_reads_them_from_there(
    tiny: Tiny, shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    away = ["--out", tmp_path / "two", "--storage", tiny.place.url]
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    key = outcome.tested[outcome.pick].deploy
    said = {}
    for name, words in {
        "select": ["select", "tiny", "--rule", "1se"],
        "report": ["report", "tiny", "--format", "md"],
        "export": ["export", "tiny", "--tables", "groups"],
    }.items():
        code, out, err = here([*words, *away, "--runs", shared], monkeypatch, capsys)
        assert (code, err) == (0, ""), err
        said[name] = out
    monkeypatch.setenv("FAIRTUNE_RUNS", shared)
    evaluate = ["evaluate", key, "--dataset", "nih-cxr-64", "--metric", "auc"]
    code, out, err = here([*evaluate, "--out", tmp_path / "three"], monkeypatch, capsys)
    assert code == 0, err
    assert "frozen on validation" in out
    monkeypatch.delenv("FAIRTUNE_RUNS")
    code, _, err = here([*evaluate, "--out", tmp_path / "four"], monkeypatch, capsys)
    assert code == 2
    assert "no finished run here" in err
    words = ["select", "tiny", "--rule", "1se", "--out", tiny.place.out]
    assert said["select"] == here(words, monkeypatch, capsys)[1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://me:hunter2@bucket/runs", "holds no credentials"),
        ("results/runs", "not a URL of a folder"),
    ],
)
def test_a_wrong_url_is_one_message_before_anything_is_made(
    url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    study = write_study(tmp_path)
    before = files(tmp_path)
    for words in (
        ["search", study, "--out", tmp_path / "out"],
        ["doctor"],
        ["predict", "0" * 32, study],
    ):
        code, out, err = here([*words, "--runs", url], monkeypatch, capsys)
        assert code in (1, 2)
        assert said in " ".join((out + err).split())
        assert "hunter2" not in out + err
        assert "Traceback" not in err
    assert files(tmp_path) == before
