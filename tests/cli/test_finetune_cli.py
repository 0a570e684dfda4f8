"""`fairtune finetune` with and without a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit_cli import here
from kit_tiny import Tiny

from fairtune.experiment.gate import LEDGER
from fairtune.study.outcome import Outcome


def openings(out: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (out / LEDGER).read_text().splitlines()]


def card_of(tiny: Tiny, label: str) -> Path:
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    return outcome.tested[label].runs[0].folder / "recipe.json"


def test_the_same_arguments_print_the_stored_result(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tiny.copy(tmp_path / "out")
    words = ["finetune", "--study", "tiny", "--seeds", "2", "--out", mine.place.out]
    code, out, err = here(words, monkeypatch, capsys)
    assert code == 0, err
    assert "epoch" not in err
    for word in ("* search-1", "verdict: cannot tell", "opened 1 time(s)", "checkpoint: "):
        assert word in out, out
    assert len(openings(mine.place.out)) == 1
    folder = Path(out.split("checkpoint: ")[1].splitlines()[0])
    assert (folder / "model.safetensors").is_file()
    assert f"model card: {folder / 'README.md'}" in out
    assert "## Verdict: cannot tell" in (folder / "README.md").read_text()


def test_a_recipe_json_needs_nothing_else(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = card_of(tiny, "norm:all")
    words = ["finetune", "--mask", card, "--seeds", "1", "--out", tmp_path / "out"]
    code, out, err = here(words, monkeypatch, capsys)
    assert code == 0, err
    assert "everything from recipe.json" in out
    assert "opened 1 time(s)" in out
    (opening,) = openings(tmp_path / "out")
    assert opening["study"] is None
    assert opening["command"].startswith("fairtune finetune --mask")
    assert opening["digests"] == [json.loads(card.read_text())["digest"]]
    written = Path(out.split("model card: ")[1].splitlines()[0])
    assert "nothing was compared" in written.read_text()


@pytest.mark.parametrize("rows", ["train", "train+val"])
def test_a_bare_mask_takes_the_rest_from_a_recipe(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: str,
) -> None:
    card = card_of(tiny, "norm:all")
    words = ["finetune", "--mask", "attn:4-5", "--recipe", card, "--seeds", "1", "--on", rows]
    code, out, err = here([*words, "--out", tmp_path / "out"], monkeypatch, capsys)
    assert code == 0, err
    assert "mask attn:4-5; everything from recipe.json" in out
    assert ("worst_auc@sex" in err) == (rows == "train")
    folder = Path(out.split("checkpoint: ")[1].splitlines()[0])
    made = json.loads((folder / "recipe.json").read_text())
    old = json.loads(card.read_text())
    assert made["recipe"]["fit"]["rows"] == rows
    assert made["recipe"]["optim"]["lr"] == old["recipe"]["optim"]["lr"]
    assert {u.split(".")[1] for u in made["recipe"]["adaptation"]["mask"]} == {"4", "5"}
    assert json.loads((folder / "operating.json").read_text())["threshold"] is not None


def test_a_bare_mask_is_never_given_a_learning_rate(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = card_of(tiny, "linear_readout")
    words = ["finetune", "--mask", "attn:4-5", "--recipe", card, "--out", tmp_path / "out"]
    code, _, err = here(words, monkeypatch, capsys)
    assert code == 2
    assert "without a learning rate" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["select", "report", "evaluate"])
def test_torchrun_is_for_commands_that_train(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    code, _, err = here([command, "anything"], monkeypatch, capsys)
    assert code == 2
    assert "this command makes none" in err
    assert "finetune, search, worker" in err
