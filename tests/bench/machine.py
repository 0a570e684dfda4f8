"""On what and with what a measurement was made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
VERSIONS = ("fairtune", "torch", "timm", "numpy", "pandas", "optuna", "scikit-learn")


def surroundings(script: str = "run.py") -> dict[str, Any]:
    """Return command, machine, commit and versions."""
    # A path of this machine is nobody's business.
    words = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]
    return {
        "command": " ".join([f"python tests/bench/{script}", *words]),
        "machine": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.system(),
            "load": round(os.getloadavg()[0], 2),
        },
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS},
        },
    }


def cpu() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the commit that was measured, `+` behind it when files differ; None without git."""
    found, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return None if found is None else found + ("+" if changed else "")


def _git(*words: str) -> str | None:
    try:
        asked = subprocess.run(
            ["git", *words], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()
