"""The bench of adaptation methods runs, and its figures reach the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from measured import methods

HERE = Path(__file__).resolve().parent
TINY = ["--dataset", "nih-cxr-64", "--target", "abnormal", "--attribute", "sex"]
TINY += ["--model", "test_vit", "--image-size", "64", "--weights", "none", "--epochs", "1"]


@pytest.mark.slow
def test_methods_are_trained_and_shown(tmp_path: Path) -> None:
    out = tmp_path / "methods.json"
    command = [sys.executable, str(HERE / "methods.py"), *TINY, "--out", str(out)]
    subprocess.run([*command, "--only", "direct", "lora"], check=True, capture_output=True)
    found = json.loads(out.read_text())
    direct, lora = found["methods"]
    assert direct["method"] == "direct"
    assert 0 < lora["trainable"] < direct["trainable"]
    assert lora["lr"] in (3e-4, 1e-3, 3e-3)
    best = max(lora["auc_by_lr"].values())
    assert lora["seeds"][0]["auc"]["value"] == best
    taken = found["methods"][0]["seconds_per_epoch"]
    subprocess.run([*command, "--seconds"], check=True, capture_output=True)
    found = json.loads(out.read_text())
    assert 0 < found["methods"][0]["seconds_per_epoch"] != taken
    lines = methods(found)
    assert any("an epoch's seconds" in line for line in lines)
    (row,) = (line for line in lines if line.startswith("| `lora`"))
    assert f"{best:#.3g}" in row
    assert "nih-cxr-64" in "\n".join(lines)
