"""What stands before the first block that trains, computed once and read by every run.

With an input that is the same in every pass, frozen leading blocks give the same activations in
every epoch of every run. They are kept as one file in the cache, addressed by row of the pack:
training and validation rows, never a test row. With fixed augmented copies there is a file of the
training rows for each copy, and one of the validation rows. A run that starts from them gives the
numbers that it would have given without, on a CPU bit for bit: what differs in rounding is not
used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune import store
from fairtune.config import digest
from fairtune.data.medical import augmentation
from fairtune.errors import StorageError
from fairtune.models.backbone import JOINT, Cut
from fairtune.training.cuts import Cost, Cuts, Expected, choose
from fairtune.training.prefix_file import CHUNK, RESERVE, ROWS, Compute, mapped, write
from fairtune.training.ranks import current
from fairtune.training.recipe import PROTOCOL, Recipe

if TYPE_CHECKING:
    from fairtune.data.augment import Augment
    from fairtune.models.net import Net
    from fairtune.training.ground import Ground

log = logging.getLogger(__name__)

SHELF = "prefixes"
_CAP_SHARE = 0.5
_CLOSE = 1e-2
_EQUAL, _NEAR, _OTHER = "equal", "near", "other"

Rows = NDArray[np.int64]
Serve = Callable[[Rows, int | None], Tensor]


@dataclass(frozen=True, eq=False)
class Prefix:
    """What stands before block `cut`, for some training and validation rows.

    Attributes:
        cut: Block it stands before; None for pooled features `(rows, dim)`, `JOINT` for what is
            compared with texts.
        folder: Where it is stored.
        held: `(rows, ...)`, memory-mapped.
        slot: `(pack rows,)` place of each row of the pack in `held`, -1 for rows not held.
        compute: Returns the same for some rows from their images, not from the file.
        device: Where runs are made.
    """

    cut: Cut
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
        train: What stands there of training rows, by fixed copy; one without fixed copies, none
            for the image.
        val: What stands there of validation rows; None for the image.
    """

    cut: int
    why: str
    train: tuple[Prefix, ...] = ()
    val: Prefix | None = None

    def server(self, batch_size: int | None, *, scored: bool = False) -> Serve | None:
        """Return what serves the batches of a loader, None when it is to serve images.

        Processors round a product of few rows in another way than one of many. A batch that is
        not full is therefore computed from its images: it is what it would have been.

        Args:
            batch_size: Rows of a full batch; None for the validation rows of the official split
                in ascending order, which were computed in the batches in which they are scored.
            scored: Serves rows that are scored, which are never augmented. Those that are not
                held, of fixed copies the training rows as they are, are computed.
        """
        if self.val is None:
            return None
        copies = (self.val,) if scored else self.train

        def serve(rows: Rows, copy: int | None) -> Tensor:
            held = copies[copy or 0]
            few = batch_size is not None and len(rows) < batch_size
            if few or not held.has(rows):
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
        parts = _parts(ground, recipe)
        held, found = zip(*(_agreeing(ground, recipe, cut, part) for part in parts), strict=True)
    except (StorageError, OSError) as error:
        log.warning("frozen blocks are computed anew in every pass: %s", error)
        return Start(0, f"the cache cannot be used: {error}")
    if _OTHER in found or (ground.device.type == "cpu" and set(found) != {_EQUAL}):
        return Start(0, "batches of this size are rounded in another way than the kept ones")
    why = f"starts at block {cut}, of which what is before is kept"
    return Start(cut, why, held[: max(1, len(held) - 1)], held[-1])


def _agreeing(ground: Ground, recipe: Recipe, cut: int, part: _Part) -> tuple[Prefix, str]:
    """Return a file and how it agrees with what is computed; made again if it does not."""
    prefix = opened(ground, recipe, cut, part)
    found = _agreement(prefix, recipe, ground, part)
    if found == _OTHER:
        log.warning("%s does not hold what it should: it is made again", prefix.folder)
        shutil.rmtree(prefix.folder, ignore_errors=True)
        ground.prefixes.pop(prefix.folder.name, None)
        prefix = opened(ground, recipe, cut, part)
        found = _agreement(prefix, recipe, ground, part)
    return prefix, found


def chosen(ground: Ground, recipe: Recipe, first: int) -> Cuts:
    """Return the cuts whose activations are kept, for all runs that are expected, or for this."""
    expected = ground.expected or Expected({first: 1.0}, recipe.optim.epochs)
    copies = _copies(recipe)
    name = digest([recipe.fit.precision, expected.epochs, copies, sorted(expected.starts.items())])
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


@dataclass(frozen=True, eq=False)
class _Part:
    """What is in one file.

    Attributes:
        copy: Which fixed copy of the images; None for the images as they are.
        train: Rows that are served in any order.
        val: Rows that are served in ascending order.
    """

    copy: int | None
    train: Rows
    val: Rows


def _parts(ground: Ground, recipe: Recipe) -> list[_Part]:
    """Return the files of a run: one, or one per fixed copy and then one of what is scored.

    They are of all rows that runs like it may be fitted on, so that fractions share them, and
    folds too: a row that one fold is validated on is trained on by the others.
    """
    train, val = (ground.pack.rows(name) for name in ("train", "val"))
    every, none = np.sort(np.concatenate([train, val])), val[:0]
    folded = recipe.data.fold is not None
    if not _copies(recipe):
        return [_Part(None, every, none) if folded else _Part(None, train, val)]
    fitted = every if folded or recipe.fit.rows == "train+val" else train
    scored = _Part(None, every, none) if folded else _Part(None, none, val)
    return [*(_Part(copy, fitted, none) for copy in range(recipe.fit.copies)), scored]


def opened(ground: Ground, recipe: Recipe, cut: Cut, part: _Part | None = None) -> Prefix:
    """Return what is kept before `cut` (see `Prefix`), made if nobody has yet.

    Raises:
        StorageError: The disk is full or the cache cannot be written.
    """
    if part is None:
        part = _Part(None, ground.pack.rows("train"), ground.pack.rows("val"))
    edit = ground.edit(recipe)
    augment = None if part.copy is None else [repr(_augment(ground, recipe)), part.copy]
    key = digest(
        {
            "pack": ground.pack.key,
            "rows": [part.train.tolist(), part.val.tolist()],
            "copy": augment,
            "view": [ground.spec.mean, ground.spec.std],
            "edit": None if edit is None else edit.sha,
            "tensors": ground.tensor_digest(cut),
            "cut": cut,
            "precision": recipe.fit.precision,
            "machine": machine_of(ground.device),
            "tokens": ground.backbone.plain,
            "protocol": PROTOCOL,
        }
    )
    if key in ground.prefixes:
        return ground.prefixes[key]
    compute = _computer(ground, recipe, cut, part.copy)

    def make(folder: Path) -> None:
        write(folder, part.train, part.val, compute, ground.told, whole=not isinstance(cut, int))

    root, cap, told = ground.pack.cache, ground.cap_gib, ground.told
    folder = store.get_or_make(
        SHELF,
        key,
        make,
        root=root,
        cap_gib=cap,
        waiting=lambda: told("waiting for frozen blocks that another process computes"),
    )
    slot = np.full(len(ground.pack), -1, dtype=np.int64)
    rows = np.load(folder / ROWS)
    slot[rows] = np.arange(len(rows))
    made = Prefix(cut, folder, mapped(folder), slot, compute, ground.device)
    ground.prefixes[key] = made
    return made


def pooled(
    ground: Ground, recipe: Recipe, rows: Rows, cut: Literal["joint"] | None = None
) -> Tensor | None:
    """Return kept features `(len(rows), ...)`, see `Prefix`; None when they cannot be had."""
    if not ground.reuse:
        return None
    try:
        prefix = opened(ground, recipe, cut)
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
    if recipe.edited and ground.expected is not None and ground.expected.edited:
        return "no other run has this edit"
    if recipe.fit.augment != "none" and not recipe.fit.copies:
        return f"augmentation '{recipe.fit.augment}' changes the images"
    if recipe.optim.mixup > 0 or recipe.optim.cutmix > 0:
        return "mixup and cutmix change the images"
    return None


def _copies(recipe: Recipe) -> int:
    """Return how many fixed copies of the training rows a run of `recipe` sees; 0 for none."""
    return 0 if recipe.fit.augment == "none" else recipe.fit.copies


def _augment(ground: Ground, recipe: Recipe) -> Augment | None:
    return augmentation(recipe.fit.augment, ground.pack.table.spec)


def _computer(ground: Ground, recipe: Recipe, cut: Cut, copy: int | None) -> Compute:
    """Return rows -> what stands before `cut`, from their images."""
    augment = None if copy is None else _augment(ground, recipe)
    none = ground.pack.rows("val")[:0]
    edit, copies = ground.edit(recipe), recipe.fit.copies
    loader = ground.loader(none, CHUNK, edit=edit, augment=augment, copies=copies)
    backbone = ground.backbone

    def compute(rows: Rows) -> Tensor:
        backbone.eval()
        # Not inference mode: what comes out goes into a suffix that trains.
        with torch.no_grad(), ground.autocast(recipe):
            image = loader.image(rows, copy)
            if cut is None:
                return backbone.embed(image)
            return backbone.joint(image) if cut == JOINT else backbone.front(image, cut)

    return compute


def _agreement(prefix: Prefix, recipe: Recipe, ground: Ground, part: _Part) -> str:
    """Return how a batch computed from its images compares with what is kept of its rows."""
    found = _EQUAL
    if part.copy is not None or not _copies(recipe):
        found = _of_batch(prefix, ground, ground.fit_rows(recipe), recipe.optim.batch_size)
    if recipe.data.fold is None or part.copy is not None or found != _EQUAL:
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
    compute = _computer(ground, recipe.unedited(), depth, None)  # none is made to time a pass
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        hidden = compute(rows).cpu()
        seconds.append(time.perf_counter() - began)
    root = ground.pack.folder
    free = min(shutil.disk_usage(root).free - RESERVE, _CAP_SHARE * ground.cap_gib * 2**30)
    train, val = (len(ground.pack.rows(name)) for name in ("train", "val"))
    made = sum(len(part.train) + len(part.val) for part in _parts(ground, recipe))
    size = hidden[0].numel() * hidden.element_size()
    block = min(seconds) / len(rows) / depth
    return Cost(train + val, made, epochs, block, size, max(0.0, free))


def machine_of(device: torch.device) -> list[str | int]:
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
