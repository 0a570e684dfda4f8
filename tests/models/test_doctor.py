from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from safetensors.torch import save_file

from fairtune.config import Settings, settings
from fairtune.models import load, weights
from fairtune.models.doctor import Check, examine, package


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def machine(folder: Path, **more: str) -> Settings:
    return settings(
        {
            "FAIRTUNE_CACHE": str(folder / "cache"),
            "FAIRTUNE_OUT": str(folder / "out"),
            "FAIRTUNE_OFFLINE": "1",
            **more,
        }
    )


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_bare_machine_gets_warnings_that_say_what_to_do(tmp_path: Path) -> None:
    checks = examine(machine(tmp_path))
    found = by_name(checks)
    assert found["Python"].state == found["packages"].state == found["device"].state == "ok"
    assert f"torch {importlib.metadata.version('torch')}" in found["packages"].detail
    assert found["data"].state == "warn"
    dinov2 = found["weights vit_small_dinov2"]
    assert dinov2.state == "warn"
    assert "switched off" in dinov2.detail
    assert "does not offer it" in dinov2.detail
    assert "127.0.0.1" not in dinov2.detail
    assert dinov2.todo == "fairtune models pull vit_small_dinov2 --from FILE"
    reads = found["tokenizer dinov2s_minilm"]
    assert reads.state == "warn"
    assert reads.todo == "fairtune models pull dinov2s_minilm"
    assert all(check.todo for check in checks if check.state != "ok")
    assert not [check for check in checks if check.state == "fail"]


def test_a_place_for_shared_runs_is_written_and_read_back(tmp_path: Path) -> None:
    url = (tmp_path / "shared").as_uri()
    found = by_name(examine(machine(tmp_path, FAIRTUNE_RUNS=url)))["runs"]
    assert (found.state, found.detail) == ("ok", f"{url} can be written and read back")
    assert not list((tmp_path / "shared").iterdir())
    (tmp_path / "file").write_text("in the way")
    for runs, said in (
        ((tmp_path / "file").as_uri(), "cannot write"),
        ("s3://me:secret@bucket/runs", "holds no credentials"),
    ):
        found = by_name(examine(machine(tmp_path, FAIRTUNE_RUNS=runs)))["runs"]
        assert found.state == "fail"
        assert said in found.detail
        assert "secret" not in found.detail
        assert found.todo
    assert "runs" not in by_name(examine(machine(tmp_path)))


def test_faults_of_the_settings_fail(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    roots = f"{tmp_path / 'data'}:{tmp_path / 'nodata'}"
    checks = examine(machine(tmp_path, FAIRTUNE_DATA=roots, FAIRTUNE_DEVICE="cuda:99"))
    states = [(check.name, check.state) for check in checks if check.name in ("data", "device")]
    assert states == [("device", "fail"), ("data", "ok"), ("data", "fail")]


def test_cached_weights_and_a_full_cache_are_seen(tmp_path: Path) -> None:
    spec = load("tf_efficientnet_lite0")
    file = tmp_path / "w.safetensors"
    save_file(spec.seeded(64, 0).state_dict(), file)
    here = machine(tmp_path, FAIRTUNE_CACHE_GIB="0.0135")
    weights.pull(spec, here, file)
    found = by_name(examine(here))
    assert found["weights tf_efficientnet_lite0"] == Check(
        "weights tf_efficientnet_lite0", "ok", "cached, from file w.safetensors"
    )
    assert found["cache size"].state == "warn"


def test_packages_are_held_against_their_least_version() -> None:
    have = importlib.metadata.version("torch")
    assert package("torch", "2.0") == Check("torch", "ok", have)
    assert package("torch", "99.1").state == "fail"
    assert package("no-such-package", "1.0").detail == "not installed"
