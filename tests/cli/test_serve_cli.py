"""`fairtune serve-embeddings` as a process, and the other commands on an endpoint."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from kit_cli import here, process
from kit_endpoints import DIM, GENEROUS, SIDE, Answer, Scripted, health, wait_for, written

from fairtune.config.yaml12 import loads
from fairtune.models.registries import LOADERS


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
