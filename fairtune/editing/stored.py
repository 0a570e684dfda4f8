"""Edits as files: written as safetensors, read from every known format."""

from __future__ import annotations

import json
from pathlib import Path

from fairtune.editing import FILES, EditFile
from fairtune.editing.edit import Edit
from fairtune.errors import ModelError

VALUE, ABOUT = "edit", "fairtune"


def to_bytes(edit: Edit) -> bytes:
    """Return an edit as safetensors: the tensor `edit`, and what is known of it as metadata."""
    from safetensors.torch import save

    about = {"image_size": edit.image_size, "clamp": edit.clamp, "about": dict(edit.about)}
    metadata = {ABOUT: json.dumps(about, sort_keys=True, allow_nan=False)}
    content: bytes = save({VALUE: edit.value.contiguous()}, metadata=metadata)
    return content


def read_edit(path: Path) -> Edit:
    """Return the edit in a file of any known format, told by the end of its name.

    Raises:
        ModelError: No such file, an unknown format, or a file without an edit.
    """
    if not path.is_file():
        raise ModelError("no such edit file", found=str(path))
    known: list[str] = []
    for name in FILES:
        reader = FILES.parse(name)
        assert isinstance(reader, EditFile)
        known += reader.suffixes
        if path.name.endswith(reader.suffixes):
            return reader.read(path)
    raise ModelError("not a format of edits", found=path.name, allowed=sorted(known))
