"""A real wheel in a folder that pip takes as its only index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from fairtune.models.sources.wheel import Wheel


def indexed(content: bytes, member: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """Put a wheel of one file into `folder`, the only index from now on; return its source."""
    folder.mkdir()
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"tiny_weights/{member}", content)
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('code of a wheel was run')")
        info = "tiny_weights-1.0.dist-info/"
        archive.writestr(
            info + "METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(info + "RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(
        package="tiny-weights", version="1.0", sha256=sha, member=f"tiny_weights/{member}"
    )
