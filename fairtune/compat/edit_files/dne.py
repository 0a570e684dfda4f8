"""The edits that the code of debiased noise editing saves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from fairtune.config import Config
from fairtune.editing import FILES
from fairtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from fairtune.editing.edit import Edit

KEY = "noise"


@FILES.register("dne")
class DneFile(Config):
    """A `.pt` with the state dict {noise: (side, side)}: `dne_layer.pt` or `noise_layer.pt`.

    It is added to all channels of images in [0, 1], which that code never cuts to [0, 1]. The file
    says neither of which model nor for which attribute it was made.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".pt",)

    def read(self, path: Path) -> Edit:
        """Return the edit in `path`; no code of the file is run.

        Raises:
            ModelError: The file is damaged, would run code, or holds anything else.
        """
        from fairtune.editing.edit import Edit

        value = _noise(_loaded(path), path).float().unsqueeze(0).contiguous()
        about = {"origin": "a file of DNE's released code; model and attribute are unknown"}
        return Edit(value, int(value.shape[-1]), clamp=False, about=about)


def _loaded(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises errors of many kinds for files that are cut off, or hold more than tensors.
        lines = str(error).splitlines()
        raise _refused(path, lines[0] if lines else type(error).__name__) from None


def _noise(content: Any, path: Path) -> Tensor:
    import torch

    if not isinstance(content, dict) or set(content) != {KEY}:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise _refused(path, found)
    value = content[KEY]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise _refused(path, type(value).__name__)
    if value.ndim != 2 or value.shape[0] != value.shape[1] or not value.numel():
        raise _refused(path, tuple(value.shape))
    return value


def _refused(path: Path, found: object) -> ModelError:
    return ModelError(
        "the file is no edit of DNE's released code, or is damaged",
        where=path,
        found=found,
        allowed="a state dict with one square matrix of floats called 'noise', and nothing else",
        todo="give `dne_layer.pt` or `noise_layer.pt` as that code saves it",
    )
