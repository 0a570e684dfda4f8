"""`fairtune evaluate`, `predict` and `models export` on a run folder."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from kit_cli import here
from kit_tiny import Tiny

from fairtune.study.outcome import Outcome

Run = Callable[..., str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def one(*words: object) -> str:
        code, out, err = here(words, monkeypatch, capsys)
        assert code == 0, err
        return out

    return one


@pytest.fixture
def folder(tiny: Tiny) -> Path:
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    return tiny.view.runs.folder(outcome.tested["search-1"].deploy)


def test_evaluate_prints_both_thresholds_and_counts_openings(
    ran: Run, folder: Path, tmp_path: Path
) -> None:
    words = ["evaluate", folder, "--dataset", "nih-cxr-64", "--out", tmp_path, "--metric", "auc"]
    out = ran(*words)
    for word in ("0 rows left out", "opened 0 time(s)", "frozen on validation", "cross-fitted"):
        assert word in out
    rows = json.loads(ran(*words, "--format", "json"))
    assert {"metric", "attribute", "group", "value", "low", "high", "n", "positives"} == set(
        rows[0]
    )
    table = list(csv.DictReader(io.StringIO(ran(*words, "--format", "csv"))))
    assert len(table) == len(rows)
    assert "None" not in out
    for count in (1, 2):
        assert f"opened {count} time(s)" in ran(*words, "--attribute", "sex")


def test_predict_reads_files_folders_and_tables(
    ran: Run, tiny: Tiny, folder: Path, tmp_path: Path
) -> None:
    table = tiny.session.ground(tiny.view.base).pack.table
    names = sorted(table.frame["image"].iloc[:3])
    images = tmp_path / "images"
    with zipfile.ZipFile(table.folder / "nih_cxr_64.zip") as file:
        file.extractall(images, names)
    listing = images / "list.csv"
    listing.write_text("image,x\n" + "".join(f"{name},1\n" for name in names))
    printed = [
        list(csv.DictReader(io.StringIO(ran("predict", folder, *given))))
        for given in ([images], [listing], [images / name for name in names])
    ]
    assert printed[0] == printed[1] == printed[2]
    assert [Path(row["image"]).name for row in printed[0]] == names
    assert all(0 <= float(row["score"]) <= 1 for row in printed[0])
    assert {row["positive"] for row in printed[0]} <= {"True", "False"}
    to = tmp_path / "new" / "scores.csv"
    assert "3 images" in ran("predict", folder, images, "--to", to)
    assert list(csv.DictReader(io.StringIO(to.read_text()))) == printed[0]


def test_export_says_how_to_load_it(ran: Run, folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "new" / "model.safetensors"
    out = ran("models", "export", folder, "--to", to)
    assert to.is_file()
    assert "timm.create_model('test_vit', num_classes=1, img_size=32)" in out


@pytest.mark.parametrize(
    ("fmt", "words"), [("onnx", "unknown format"), ("peft", "only a model whose units all train")]
)
def test_an_export_that_cannot_be_is_one_message(
    folder: Path,
    tmp_path: Path,
    fmt: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["models", "export", folder, "--to", tmp_path / "adapter", "--format", fmt]
    code, _, err = here(asked, monkeypatch, capsys)
    assert code == 2
    assert words in " ".join(err.split())
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()
