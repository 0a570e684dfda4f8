"""What stands before the first block that trains, computed once and read by every run.

With an input that is the same in every pass, frozen leading blocks give the same activations in
every epoch of every run. They are kept as one file in the cache, addressed by row of the pack:
training and validation rows, never a test row. A run that starts from them gives the numbers that
it would have given without, on a CPU bit for bit: what differs in rounding is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune import store
from fairtune.config import digest
from fairtune.errors import StorageError
from fairtune.training.cuts import Cost, Cuts, Expected, choose
from fairtune.training.ranks import current
from fairtune.training.recipe import PROTOCOL, Recipe

if TYPE_CHECKING:
    from fairtune.models.net import Net
    from fairtune.training.session import Ground

log = logging.getLogger(__name__)

SHELF = "prefixes"
CHUNK = 128
_HELD, _ROWS, _META = "hidden.bin", "rows.npy", "hidden.json"
_CAP_SHARE = 0.5
_RESERVE = 2**30
_CLOSE = 1e-2
_EQUAL, _NEAR, _OTHER = "equal", "near", "other"

Rows = NDArray[np.int64]
Compute = Callable[[Rows], Tensor]


@dataclass(frozen=True, eq=False)
class Prefix:
    """What stands before block `cut`, for every training and validation row.

    Attributes:
        cut: Block it stands before; None for pooled features `(rows, dim)`.
        folder: Where it is stored.
        held: `(rows, ...)`, memory-mapped.
        slot: `(pack rows,)` place of each row of the pack in `held`, -1 for rows not held.
        compute: Returns the same for some rows from their images, not from the file.
        device: Where runs are made.
    """

    cut: int | None
    folder: Path
    held: Tensor
    slot: Rows
    compute: Compute
    device: torch.device

    def has(self, rows: Rows) -> bool:
        """Tell whether all of `rows` are held."""
        return bool((self.slot[rows] >= 0).all())

    def take(self, rows: Rows) -> Tensor:
        """Return what is held of `rows`, `(len(rows), ...)`, on the CPU."""
        return self.held.index_select(0, torch.from_numpy(self.slot[rows]))


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run starts to compute.

    Attributes:
        cut: Block before which it starts; 0 for the image.
        why: Why there, in words.
        prefix: What stands there; None for the image.
    """

    cut: int
    why: str
    prefix: Prefix | None = None

    def server(self, batch_size: int | None = None) -> Compute | None:
        """Return what serves the batches of a loader, None when it is to serve images.

        Processors round a product of few rows in another way than one of many. A training batch
        that is not full is therefore computed from its images: it is what it would have been.

        Args:
            batch_size: Rows of a full batch; None for the validation rows of the official split
                in ascending order, which were computed in the batches in which they are scored.
        """
        held = self.prefix
        if held is None:
            return None

        def serve(rows: Rows) -> Tensor:
            if batch_size is not None and len(rows) < batch_size:
                return held.compute(rows)
            taken = held.take(rows)
            if held.device.type == "cuda":
                return taken.pin_memory().to(held.device, non_blocking=True)
            return taken.to(held.device)

        return serve


def start_of(net: Net, recipe: Recipe, ground: Ground) -> Start:
    """Return where a run of `recipe` with `net` starts; a cache that fails never fails a run."""
    first = net.backbone.first_trained
    why = _not_reused(recipe, ground, first)
    if why is not None:
        return Start(0, why)
    try:
        cuts = chosen(ground, recipe, first)
        cut = cuts.below(first)
        if not cut:
            return Start(0, f"what is before block {first} is not worth a file")
        prefix = opened(ground, recipe, cut)
        found = _agreement(prefix, recipe, ground)
        if found == _OTHER:
            log.warning("%s does not hold what it should: it is made again", prefix.folder)
            shutil.rmtree(prefix.folder, ignore_errors=True)
            ground.prefixes.pop(prefix.folder.name, None)
            prefix = opened(ground, recipe, cut)
            found = _agreement(prefix, recipe, ground)
    except (StorageError, OSError) as error:
        log.warning("frozen blocks are computed anew in every pass: %s", error)
        return Start(0, f"the cache cannot be used: {error}")
    if found != _EQUAL and (ground.device.type == "cpu" or found == _OTHER):
        return Start(0, "batches of this size are rounded in another way than the kept ones")
    return Start(cut, f"starts at block {cut}, of which what is before is kept", prefix)


def chosen(ground: Ground, recipe: Recipe, first: int) -> Cuts:
    """Return the cuts whose activations are kept, for all runs that are expected, or for this."""
    expected = ground.expected or Expected({first: 1.0}, recipe.optim.epochs)
    name = digest([recipe.fit.precision, expected.epochs, sorted(expected.starts.items())])
    if name not in ground.cuts:
        cost = _measured(ground, recipe, expected.epochs)
        ground.cuts[name] = choose(expected.starts, cost)
        log.info("prefix cuts %s", json.dumps(ground.cuts[name].to_json()))
    return ground.cuts[name]


def kept_cuts(ground: Ground, recipe: Recipe) -> dict[str, Any]:
    """Return, for logs, the cuts kept for runs like `recipe` with the numbers behind them."""
    depth = ground.backbone.depth
    why = _not_reused(recipe, ground, depth)
    return {"cuts": [], "why": why} if why else chosen(ground, recipe, depth).to_json()


def opened(ground: Ground, recipe: Recipe, cut: int | None) -> Prefix:
    """Return what is kept before block `cut` (None: pooled features), made if nobody has yet.

    Raises:
        StorageError: The disk is full or the cache cannot be written.
    """
    train, val = _held_rows(ground, recipe)
    key = digest(
        {
            "pack": ground.pack.key,
            "rows": [train.tolist(), val.tolist()],
            "view": [ground.spec.mean, ground.spec.std],
            "edit": None,
            "tensors": ground.tensor_digest(cut),
            "cut": cut,
            "precision": recipe.fit.precision,
            "machine": _machine(ground.device),
            "tokens": ground.backbone.plain,
            "protocol": PROTOCOL,
        }
    )
    if key in ground.prefixes:
        return ground.prefixes[key]
    compute = _computer(ground, recipe, cut)

    def make(folder: Path) -> None:
        _make(folder, train, val, compute, ground.progress, whole=cut is None)

    folder = store.get_or_make(SHELF, key, make, root=ground.pack.cache, cap_gib=ground.cap_gib)
    slot = np.full(len(ground.pack), -1, dtype=np.int64)
    rows = np.load(folder / _ROWS)
    slot[rows] = np.arange(len(rows))
    made = Prefix(cut, folder, _mapped(folder), slot, compute, ground.device)
    ground.prefixes[key] = made
    return made


def _held_rows(ground: Ground, recipe: Recipe) -> tuple[Rows, Rows]:
    """Return rows that are to be computed among many, and rows to be computed as they are scored.

    A row that one fold is validated on is trained on by the others, so it belongs to the former;
    all folds share one file.
    """
    train, val = (ground.pack.rows(name) for name in ("train", "val"))
    if recipe.data.fold is None:
        return train, val
    return np.sort(np.concatenate([train, val])), val[:0]


def pooled(ground: Ground, recipe: Recipe, rows: Rows) -> Tensor | None:
    """Return kept pooled features `(len(rows), dim)`, None when they cannot be had."""
    if not ground.reuse:
        return None
    try:
        prefix = opened(ground, recipe, None)
    except (StorageError, OSError) as error:
        log.warning("features are not kept: %s", error)
        return None
    return prefix.take(rows) if prefix.has(rows) else None


def _not_reused(recipe: Recipe, ground: Ground, first: int) -> str | None:
    if not ground.reuse:
        return "reuse is switched off"
    if not current().alone:
        return "processes that share a batch round it in another way"
    if not ground.backbone.depth:
        return "this network cannot be cut behind a block"
    if first == 0:
        return "the stem or the first block trains"
    if recipe.fit.augment != "none":
        return f"augmentation '{recipe.fit.augment}' changes the images"
    if recipe.optim.mixup > 0 or recipe.optim.cutmix > 0:
        return "mixup and cutmix change the images"
    return None


def _computer(ground: Ground, recipe: Recipe, cut: int | None) -> Compute:
    """Return rows -> what stands before block `cut`, from their images."""
    loader = ground.loader(ground.pack.rows("val")[:0], CHUNK)
    backbone = ground.backbone

    def compute(rows: Rows) -> Tensor:
        backbone.eval()
        # Not inference mode: what comes out goes into a suffix that trains.
        with torch.no_grad(), ground.autocast(recipe):
            image = loader.image(rows)
            return backbone.embed(image) if cut is None else backbone.front(image, cut)

    return compute


def _make(
    folder: Path,
    train: Rows,
    val: Rows,
    compute: Compute,
    progress: Callable[[str, int, int], None] | None,
    *,
    whole: bool,
) -> None:
    rows = np.concatenate([train, val])
    shape: list[int] = []
    kind = "float32"
    with (folder / _HELD).open("wb") as file:
        done = 0
        for asked, new in (*_chunks(train, full=not whole), *_chunks(val, full=False)):
            hidden = compute(asked)[-new:].cpu().contiguous()
            if not shape:
                shape, kind = [len(rows), *hidden.shape[1:]], str(hidden.dtype).split(".")[1]
                _check_room(folder, math.prod(shape) * hidden.element_size())
            # Written, not mapped: a full disk is then an error, where a map would kill us.
            file.write(hidden.view(torch.uint8).numpy().tobytes())
            done += new
            if progress is not None:
                progress("computing frozen blocks", done, len(rows))
    np.save(folder / _ROWS, rows)
    (folder / _META).write_text(json.dumps({"shape": shape, "dtype": kind}))


def _chunks(rows: Rows, *, full: bool) -> Iterator[tuple[Rows, int]]:
    """Yield rows to compute and how many of them, from the end, are new.

    With `full` the last chunk reaches back, so that every row is computed among many.
    """
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        asked = rows[max(0, start + len(part) - CHUNK) : start + CHUNK] if full else part
        yield asked, len(part)


def _mapped(folder: Path) -> Tensor:
    meta = json.loads((folder / _META).read_text())
    shape, dtype = meta["shape"], getattr(torch, meta["dtype"])
    size = math.prod(shape)
    flat = torch.from_file(str(folder / _HELD), shared=False, size=size, dtype=dtype)
    return flat.view(shape)


def _agreement(prefix: Prefix, recipe: Recipe, ground: Ground) -> str:
    """Return how a batch computed from its images compares with what is kept of its rows."""
    found = _of_batch(prefix, ground, ground.fit_rows(recipe), recipe.optim.batch_size)
    if recipe.data.fold is None or found != _EQUAL:
        return found
    return _of_batch(prefix, ground, ground.val_rows(recipe), CHUNK)


def _of_batch(prefix: Prefix, ground: Ground, rows: Rows, size: int) -> str:
    if len(rows) < size:
        return _EQUAL  # no batch is full, so none is served
    name = f"{prefix.folder.name} {size}"
    if name not in ground.checked:
        sample = np.random.default_rng(0).choice(rows, size, replace=False)
        kept, anew = prefix.take(sample), prefix.compute(sample).cpu()
        near = torch.allclose(kept.float(), anew.float(), rtol=_CLOSE, atol=_CLOSE)
        ground.checked[name] = _EQUAL if torch.equal(kept, anew) else _NEAR if near else _OTHER
    found = ground.checked[name]
    if found == _OTHER:
        del ground.checked[name]
    return found


def _measured(ground: Ground, recipe: Recipe, epochs: int) -> Cost:
    """Return what a pass costs, by timing one chunk of rows."""
    rows = ground.pack.rows("train")[:CHUNK]
    depth = ground.backbone.depth
    compute = _computer(ground, recipe, depth)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        hidden = compute(rows).cpu()
        seconds.append(time.perf_counter() - began)
    root = ground.pack.folder
    free = min(shutil.disk_usage(root).free - _RESERVE, _CAP_SHARE * ground.cap_gib * 2**30)
    count = len(ground.pack.rows("train")) + len(ground.pack.rows("val"))
    size = hidden[0].numel() * hidden.element_size()
    return Cost(count, epochs, min(seconds) / len(rows) / depth, size, max(0.0, free))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _RESERVE:
        raise StorageError(
            "the disk is too full to keep what frozen blocks compute",
            where=folder.parent,
            found=f"{free // 2**20} MiB free",
            allowed=f"at least {(needed + _RESERVE) // 2**20} MiB",
        )


def _machine(device: torch.device) -> list[str | int]:
    """Return what rounding depends on besides the network."""
    if device.type == "cuda":
        return [torch.__version__, torch.cuda.get_device_name(device)]
    capability = torch.backends.cpu.get_cpu_capability()
    return [torch.__version__, device.type, capability, torch.get_num_threads()]


def tensor_hash(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's values."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    raw = flat.view(torch.uint8) if flat.numel() else flat
    return hashlib.sha256(raw.numpy().tobytes()).hexdigest()
