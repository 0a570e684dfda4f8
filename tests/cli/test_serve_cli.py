"""`fairtune serve-embeddings` as a process, and the other commands on an endpoint."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from kit import tiny_fields
from kit_cli import here, process
from kit_endpoints import DIM, GENEROUS, SIDE, Answer, Scripted, health, wait_for, written
from kit_tiny import write_study

from fairtune.config.yaml12 import loads
from fairtune.models.registries import LOADERS
from fairtune.study.ledger import Ledger
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, SEARCH


@pytest.mark.slow
def test_the_command_says_how_to_ask_it_and_ends_when_told(tmp_path: Path) -> None:
    # Slow: the command is a process with torch in it.
    words = ["serve-embeddings", "test_vit", "--weights", "none", "--image-size", SIDE]
    child = process([*words, "--host", "0.0.0.0"], FAIRTUNE_CACHE=str(tmp_path))
    assert child.stdout is not None
    said = [child.stdout.readline()]
    wait_for(lambda: said.append(child.stdout.readline()) or "https" in said[-1])  # type: ignore
    block = "".join(said[2:-1])
    asked = LOADERS.parse(loads(block).data["loader"])
    assert (asked.dim, asked.version) == (DIM, f"test_vit random {SIDE} px")
    assert "asks for no token" in said[-1]
    here = f"http://127.0.0.1:{asked.url.rsplit(':', 1)[1]}"
    assert health(here)["model"] == "test_vit"
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=GENEROUS)
    assert child.returncode == 130
    assert "the server has ended" in err


@pytest.mark.slow
def test_a_search_that_waits_for_an_endpoint_leaves_when_told(tmp_path: Path) -> None:
    # Slow: the search is a process of its own.
    with Scripted(Answer(code=503, headers={"Retry-After": "500"})) as script:
        recipe = tiny_fields(model={"name": str(written(tmp_path, script.url))}, optim={})
        study = write_study(
            tmp_path,
            recipe={**recipe, "adaptation": {"mask": "none"}},
            space={"optim.l2": {"float": [1e-3, 1.0], "log": True}},
            baselines=["linear_readout"],
        )
        child = process(["search", study, "--out", tmp_path / "out"])
        wait_for(lambda: bool(script.asked))
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=GENEROUS)
        assert child.returncode == 75, err
        assert len(script.asked) == 1
    with Ledger.open(Place(tmp_path / "out", "tiny").url, "tiny") as ledger:
        rows = [*ledger.rows(BASELINE), *ledger.rows(SEARCH)]
    assert [(row.state, row.reason) for row in rows] == [("failed", "stopped")]


def test_a_wrong_model_size_or_port_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["test_vitt"], "did you mean 'test_vit'"),
        (["test_vit", "--image-size", 33, "--weights", "none"], "multiples of 16"),
        (["test_vit"], "no weights for model"),
        (["test_vit", "--weights", "none", "--token-env", "NO_SUCH_TOKEN"], "is not set"),
        (["test_vit", "--weights", "none", "--host", "no.such.host.invalid"], "--host"),
    ):
        code, out, err = here(["serve-embeddings", *words], monkeypatch, capsys)
        assert (code, out) == (2, "")
        assert said in err


def test_commands_about_models_ask_an_endpoint_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Scripted(Answer()) as script:
        model = written(tmp_path, script.url)
        code, out, _ = here(["models", "units", model], monkeypatch, capsys)
        assert (code, out.split(" is ")[1]) == (
            0,
            "an endpoint: it has nothing that a mask could switch\n",
        )
        code, out, _ = here(["models", "units", model, "--format", "json"], monkeypatch, capsys)
        assert (code, '"total": 0' in out) == (0, True)
        code, _, err = here(["models", "units", model, "--type", "norm"], monkeypatch, capsys)
        assert (code, "has no units" in err) == (2, True)
        code, out, _ = here(["models", "pull", model], monkeypatch, capsys)
        assert (code, "endpoint of far" in out) == (0, True)
        assert not script.asked
