"""Edits as fairtune writes them: safetensors with metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.editing import FILES
from fairtune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from fairtune.editing.edit import Edit


@FILES.register("safetensors")
class SafetensorsEdit(Config):
    """A safetensors file with the tensor `edit`, and size, clamp and origin as metadata."""

    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def read(self, path: Path) -> Edit:
        """Return the edit in `path`.

        Raises:
            ModelError: The file is damaged or holds no edit.
        """
        from safetensors import safe_open

        from fairtune.editing.edit import Edit
        from fairtune.editing.stored import ABOUT, VALUE

        try:
            with safe_open(path, "pt") as opened:
                value = opened.get_tensor(VALUE).float()
                known = json.loads(opened.metadata()[ABOUT])
            size, clamp, about = int(known["image_size"]), known["clamp"], dict(known["about"])
        except Exception as error:
            # safetensors raises errors of its own for files that are cut off or of other tensors.
            raise ModelError(
                "the file holds no edit of fairtune, or is damaged",
                where=path,
                found=str(error).splitlines()[0] if str(error) else type(error).__name__,
                allowed="what `fairtune dne learn` writes",
            ) from None
        return Edit(value, size, clamp is True, about)
