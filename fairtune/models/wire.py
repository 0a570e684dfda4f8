"""How batches of images and of answers are written into the body of a request, and read.

Whoever reads trusts nothing: a body says its own size, which is compared with what is there
before an array is made, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import io
import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fairtune.errors import ModelError

Form = Literal["npy", "json"]
Array = NDArray[Any]

TYPES: dict[Form, str] = {"npy": "application/x-npy", "json": "application/json"}
IMAGES = "images"
_ROOM = 65_536
_NUMBER = {"npy": 8, "json": 32}


def packed(array: Array, form: Form, field: str) -> bytes:
    """Return the body of `array`: NumPy's format, or `{field: nested lists}`.

    Numbers are written so that they are read again bit for bit.
    """
    if form == "json":
        return json.dumps({field: array.tolist()}, separators=(",", ":")).encode()
    body = io.BytesIO()
    np.lib.format.write_array(body, np.ascontiguousarray(array), allow_pickle=False)
    return body.getvalue()


def most_bytes(numbers: int, form: Form) -> int:
    """Return the bytes that a body with so many numbers may have at most."""
    return _ROOM + numbers * _NUMBER[form]


def unpacked(body: bytes, form: Form, field: str) -> Array:
    """Return the array of a body.

    Raises:
        ModelError: It is damaged, or not what `form` and `field` say; `where` is not set.
    """
    return _of_json(body, field) if form == "json" else _of_npy(body)


def _of_npy(body: bytes) -> Array:
    held = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(held)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(held)
    except Exception as error:  # NumPy's reader of headers has many ways to fail
        raise ModelError(
            "the body is no array in NumPy's format",
            found=_start(body),
            allowed="what numpy.save writes",
        ) from error
    rest, count = body[held.tell() :], 1
    for length in shape:
        count *= int(length)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ModelError("the array does not hold numbers", found=str(dtype), allowed="float32")
    if len(rest) != count * dtype.itemsize:
        raise ModelError(
            "the array is cut off, or longer than it says",
            found=f"{len(rest)} bytes",
            allowed=f"{count * dtype.itemsize} bytes, for {dtype} of shape {tuple(shape)}",
        )
    flat = np.frombuffer(rest, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _of_json(body: bytes, field: str) -> Array:
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ModelError("the body is no JSON, or cut off", found=_start(body)) from None
    if not isinstance(found, dict) or field not in found:
        names = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ModelError(f"the JSON has no field '{field}'", found=names, allowed=field)
    try:
        made: Array = np.array(found[field])
    except ValueError:
        raise ModelError(
            f"the lists in '{field}' are of different lengths", allowed="one length for all"
        ) from None
    if made.dtype.kind not in "fiu":
        raise ModelError(
            f"'{field}' holds something else than numbers",
            found=str(made.dtype),
            allowed="numbers",
        )
    return made


def shown(body: bytes, most: int = 80) -> str:
    """Return the beginning of the first line of what somebody else wrote, if it is text."""
    text = body[: 4 * most].decode("utf-8", "replace").strip()
    line = text.splitlines()[0][:most] if text else ""
    # Control characters could write anything to a terminal.
    return line if line.isprintable() else ""


def _start(body: bytes) -> str:
    return shown(body) or f"{len(body)} bytes"
