"""FairTune's mask vectors: `.npy` files of 0 and 1 (Dutt et al., ICLR 2024).

The file says neither the model nor which module a bit means: that is its layout, the name of the
tuning method it was made with. The order of the bits is that of the `bits` space of that method.
In a model of several towers the bits are those of the image tower, which is all FairTune knows.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairtune import store
from fairtune.adaptation import ALIASES, SPACES, Mask
from fairtune.adaptation.spaces.bits import Bits
from fairtune.errors import FairtuneError, ModelError, did_you_mean
from fairtune.models.units import Units

_SHOWN = 5


def read_mask(path: Path, layout: str, units: Units) -> Mask:
    """Return the mask that FairTune's vector in `path` means in a model with `units`.

    Args:
        path: A `.npy` file; whole numbers, booleans or floats, all of them 0 or 1.
        layout: FairTune's tuning method, one of `ALIASES`.
        units: Units of the model the mask is for.

    Raises:
        ModelError: Unknown layout, a file that cannot be read or would run code, not a vector,
            another length than the layout has for this model, or a value that is not 0 or 1.
    """
    space = _space(layout, units)
    vector = _vector(path)
    names = list(space.dimensions(units))
    if len(vector) != len(names):
        fitting = [name for name in ALIASES if _length(name, units) == len(vector)]
        raise ModelError(
            f"the vector does not have the length of layout '{layout}' for this model",
            where=path,
            found=len(vector),
            allowed=f"{len(names)} values, for a model of {units.image_depth} blocks",
            todo=f"layouts of that length for this model: {', '.join(fitting) or 'none'}",
        )
    wrong = np.flatnonzero(~np.isin(vector, (0, 1)))
    if len(wrong):
        raise ModelError(
            "a mask vector holds 0 and 1 only",
            where=path,
            found=f"{vector[wrong[0]]} at position {wrong[0]}, {len(wrong)} such values in all",
            allowed="0, 1",
        )
    return space.decode(dict(zip(names, (vector == 1).tolist(), strict=True)), units)


def write_mask(path: Path, mask: Mask, layout: str, units: Units) -> None:
    """Write `mask` as the int8 vector that FairTune reads with `--mask_path`.

    Args:
        path: File to write, whole or not at all.
        mask: A mask that the layout can say.
        layout: FairTune's tuning method, one of `ALIASES`.
        units: Units of the model the mask is for.

    Raises:
        ModelError: Unknown layout, or a mask that it cannot say.
        StorageError: The file cannot be written.
    """
    space = _space(layout, units)
    params = space.encode(mask, units)
    if params is None:
        raise _unsayable(space, mask, layout, units)
    buffer = io.BytesIO()
    np.save(buffer, np.array(list(params.values()), dtype=np.int8), allow_pickle=False)
    store.write_atomic(path, buffer.getvalue())


def _space(layout: str, units: Units) -> Bits:
    if layout not in ALIASES:
        raise ModelError(
            "unknown FairTune tuning method",
            found=layout,
            allowed=list(ALIASES),
            todo=did_you_mean(layout, ALIASES),
        )
    space = SPACES.parse(ALIASES[layout])
    assert isinstance(space, Bits)
    tower = units.image_tower
    return space if tower is None else _within(space, tower)


def _within(space: Bits, tower: str) -> Bits:
    """Return the space on the types of one tower."""
    types = ("+".join(f"{tower}.{part}" for part in kind.split("+")) for kind in space.types)
    always = (f"{tower}.{item}" for item in space.always)
    return Bits(types=tuple(types), always=tuple(always), blocks=space.blocks)


def _length(layout: str, units: Units) -> int | None:
    try:
        return len(_space(layout, units).dimensions(units))
    except FairtuneError:
        return None  # the layout names a type that this model does not have


def _vector(path: Path) -> NDArray[Any]:
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
    except OSError as error:
        raise ModelError(
            "cannot read the mask vector", where=path, found=error.strerror or str(error)
        ) from None
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ModelError(
            "not a .npy vector of numbers, or damaged; a file that holds Python objects could "
            "run code and is never opened",
            where=path,
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            todo="if you trust it, load it yourself and save it with numpy.save as int8",
        ) from None
    if not isinstance(loaded, np.ndarray) or loaded.ndim != 1:
        shape = loaded.shape if isinstance(loaded, np.ndarray) else type(loaded).__name__
        raise ModelError("the file holds no vector", where=path, found=shape, allowed="shape (n,)")
    if loaded.dtype.kind not in "biuf":
        raise ModelError(
            "a mask vector holds 0 and 1 only", where=path, found=str(loaded.dtype), allowed="0, 1"
        )
    return loaded


def _unsayable(space: Bits, mask: Mask, layout: str, units: Units) -> ModelError:
    chosen = set(mask.units)
    missing = sorted(space.switches(units).fixed - chosen)
    said = set(space.decode(space.within(mask, units), units).units)
    if missing:
        why, names = "the layout always trains units that the mask leaves frozen", missing
    else:
        why, names = (
            "the mask trains units that no bit of the layout means alone",
            sorted(chosen - said),
        )
    able = [
        name
        for name in ALIASES
        if _length(name, units) is not None and _space(name, units).encode(mask, units) is not None
    ]
    return ModelError(
        why,
        where=f"layout '{layout}'",
        found=_some(names),
        todo=f"layouts that can say this mask: {', '.join(able) or 'none; keep recipe.json'}",
    )


def _some(names: Sequence[str]) -> list[str]:
    more = len(names) - _SHOWN
    return [*names[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
