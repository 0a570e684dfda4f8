"""What a process keeps between runs: packed images, the pretrained backbone, features.

The second run of a process starts its first step at once: nothing is read, decoded or built again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fairtune.adaptation import Mask
from fairtune.config import Settings, digest
from fairtune.data.augment import Augment
from fairtune.data.batch import Batch, Loader
from fairtune.data.gatekeep import TestPass
from fairtune.data.pack import Pack, open_pack
from fairtune.data.spec import load_spec
from fairtune.data.table import Table, load_table
from fairtune.mitigation.combine import unnamed
from fairtune.mitigation.post import wrong_task
from fairtune.models import load as load_model
from fairtune.models.backbone import Backbone, build, describe
from fairtune.models.net import Net
from fairtune.models.precision import choose
from fairtune.models.spec import ModelSpec
from fairtune.models.split import Through
from fairtune.models.units import Units
from fairtune.models.weights import Weights, resolve, verify
from fairtune.training.compiled import check_compiler
from fairtune.training.cuts import Cuts, Expected
from fairtune.training.pins import (
    refuse_other,
    refuse_tf32,
    refuse_uncut,
    refuse_unvalidated,
    resolve_mask,
)
from fairtune.training.prefix import Prefix, pooled, tensor_hash
from fairtune.training.recipe import Recipe
from fairtune.training.rows import rows_of
from fairtune.usage import Output, Task

FEW_TOKENS = 256
"""Up to here a CPU uses plain attention: faster at 25 tokens, measured there only; the limit
bounds the memory that it takes for `(batch, heads, tokens, tokens)`."""

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(eq=False)
class Ground:
    """Data and model of a recipe, ready to train on.

    Attributes:
        pack: Decoded images and their table.
        backbone: Pretrained network on the device; every tensor frozen.
        units: Its units.
        spec: Its model spec.
        device: Where it lies.
        cap_gib: Cap of the cache.
        reuse: Whether what frozen blocks compute is kept.
        expected: Runs from which the cuts to keep are chosen; None: each run by itself.
        progress: Called with what is being computed, done and total.
        prefixes, cuts, checked: What `training.prefix` has opened, chosen and compared.
        lowered: Frozen tensors in bf16, by name; see `training.lowered`.
        compiled: Compiled blocks by kind; see `training.compiled`.
    """

    pack: Pack
    backbone: Backbone
    units: Units
    spec: ModelSpec
    device: torch.device
    cap_gib: float = 50.0
    reuse: bool = True
    expected: Expected | None = None
    progress: Callable[[str, int, int], None] | None = None
    prefixes: dict[str, Prefix] = field(default_factory=dict)
    cuts: dict[str, Cuts] = field(default_factory=dict)
    checked: dict[str, str] = field(default_factory=dict)
    lowered: dict[str, nn.Parameter] = field(default_factory=dict)
    compiled: dict[Hashable, Through] = field(default_factory=dict)
    _tensors: dict[str, str] = field(default_factory=dict)
    _features: dict[str, Floats] = field(default_factory=dict)
    _rows: dict[str, tuple[Rows, Rows]] = field(default_factory=dict)
    _hashes: list[str] | None = None

    @property
    def task(self) -> Task:
        """Kind of label."""
        return self.pack.table.task

    @property
    def outputs(self) -> int:
        """Columns of the score: 1 for binary, else classes or targets."""
        return 1 if self.task == "binary" else len(self.pack.table.classes)

    def fit_rows(self, recipe: Recipe) -> Rows:
        """Return the rows the recipe is fitted on, in ascending order.

        Raises:
            DataError: Too few patients for its folds, or for its fraction of them.
        """
        return rows_of(self.pack, recipe, self._rows)[0]

    def val_rows(self, recipe: Recipe) -> Rows:
        """Return the validation rows; none when the recipe is fitted on them."""
        return rows_of(self.pack, recipe, self._rows)[1]

    def labels(self, rows: Rows) -> NDArray[np.int64]:
        """Return the labels of `rows`."""
        return self.pack.labels(rows)

    def patient_hashes(self, rows: Rows) -> list[str]:
        """Return the keyed hash of the patient of every row."""
        if self._hashes is None:
            self._hashes = self.pack.patient_hashes()
        return [self._hashes[row] for row in rows]

    def mask(self, recipe: Recipe) -> Mask:
        """Return the mask of a resolved recipe."""
        names = recipe.adaptation.mask
        return Mask(()) if recipe.solved or isinstance(names, str) else Mask(names)

    def tensor_digest(self, cut: int | None) -> str:
        """Return the digest of the tensors before block `cut`; None for all of them."""
        found = self.backbone.before(cut)
        for name in found.keys() - self._tensors.keys():
            self._tensors[name] = tensor_hash(found[name])
        return digest({name: self._tensors[name] for name in sorted(found)})

    def loader(
        self,
        rows: Rows,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Augment | None = None,
        copies: int = 0,
        serve: Callable[[Rows, int | None], torch.Tensor] | None = None,
        test_pass: TestPass | None = None,
    ) -> Loader:
        """Return a loader of `rows` that normalises as the model expects."""
        return Loader(
            self.pack,
            rows,
            batch_size=batch_size,
            mean=self.spec.mean,
            std=self.spec.std,
            device=self.device,
            generator=torch.Generator().manual_seed(seed),
            augment=augment,
            copies=copies,
            serve=serve,
            test_pass=test_pass,
        )

    def forward(self, recipe: Recipe) -> Callable[[Net, Batch], Output]:
        """Return `(net, batch) -> Output` of the recipe's usage."""
        usage, task = recipe.usage, self.task
        return lambda net, batch: usage.forward(net, batch, task)

    def autocast(self, recipe: Recipe) -> AbstractContextManager[object]:
        """Return the autocast context of the recipe's precision; fp32 master weights stay.

        Whether products are rounded to TF32 holds for the backward pass too, which is outside
        the context.
        """
        if self.device.type == "cuda":
            rounded = recipe.fit.precision == "tf32"
            torch.set_float32_matmul_precision("high" if rounded else "highest")
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=recipe.fit.precision == "bf16"
        )

    def features(self, recipe: Recipe, rows: Rows, *, test_pass: TestPass | None = None) -> Floats:
        """Return `(rows, dim)` frozen features; of training and validation rows kept for all.

        Raises:
            StudyError: A test row without a pass.
        """
        if not len(rows):
            return np.empty((0, self.backbone.dim))
        self.pack.labels(rows, test_pass=test_pass)  # what was computed before is locked too
        if recipe.data.drawn and test_pass is None:
            return self._of_all(recipe, rows)
        name = digest([recipe.fit.precision, rows.tolist()])
        if name not in self._features:
            kept = pooled(self, recipe, rows)
            found = self._embedded(recipe, rows, test_pass) if kept is None else kept.float()
            self._features[name] = found.cpu().numpy().astype(np.float64)
        return self._features[name]

    def _of_all(self, recipe: Recipe, rows: Rows) -> Floats:
        """Return features of drawn rows, computed in the batches of all: rounded as they are."""
        official = recipe.of_data(fold=None, fraction=1.0)
        splits = [self.pack.rows(name) for name in ("train", "val")]
        place = np.empty(len(self.pack), dtype=np.int64)
        place[np.concatenate(splits)] = np.arange(sum(map(len, splits)))
        return np.concatenate([self.features(official, split) for split in splits])[place[rows]]

    def _embedded(self, recipe: Recipe, rows: Rows, test_pass: TestPass | None) -> torch.Tensor:
        self.backbone.eval()
        loader = self.loader(rows, 128, test_pass=test_pass)
        with torch.inference_mode(), self.autocast(recipe):
            parts = [
                self.backbone.embed(batch.image).float() for batch in loader.epoch(shuffle=False)
            ]
        return torch.cat(parts)


@dataclass(eq=False)
class Session:
    """Opens what recipes need, once.

    Args:
        settings: Cache folder, device, offline switch.
        data_roots: Folders searched for data sets, before those of the settings.
        keeps_best: Keep a copy of the weights at every epoch an observer asks to keep; needed
            when the epoch rule is not `last`.
        progress: Called with what is being prepared, done and total.
        reuse: Keep what frozen leading blocks compute for later passes, runs and processes.
        expected: Runs that will be made, from which it is chosen what is kept.
        held: Data sets with their models that are kept open; as many as runs are made together.
    """

    settings: Settings
    data_roots: Sequence[Path] = ()
    keeps_best: bool = False
    progress: Callable[[str, int, int], None] | None = None
    reuse: bool = True
    expected: Expected | None = None
    held: int = 1
    _grounds: dict[str, Ground] = field(default_factory=dict)
    _specs: dict[str, ModelSpec] = field(default_factory=dict)
    _tables: dict[str, Table] = field(default_factory=dict)
    _weights: dict[str, Weights | None] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device runs are made on."""
        named = self.settings.device
        if named is not None:
            return torch.device(named)
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator

    def table(self, recipe: Recipe) -> Table:
        """Return the table of the recipe's data."""
        part = recipe.data
        name = digest([part.dataset, part.target, part.attributes, part.where])
        if name not in self._tables:
            self._tables[name] = load_table(
                load_spec(part.dataset),
                target=part.target,
                attributes=part.attributes,
                roots=[*self.data_roots, *self.settings.data],
                where=part.where,
            )
        return self._tables[name]

    def resolve(self, recipe: Recipe) -> Recipe:
        """Return `recipe` with every hash pinned, the mask as unit names, precision measured.

        A mitigation that names no attribute acts on that of the data, where there is one alone.

        Raises:
            ConfigError: The augmentation `medical` of a data set that declares no ranges, a
                mitigation of which nothing says on which attribute it acts, or one that follows
                the validation loss where no rows are left to validate on.
            DataError: The data are not those the recipe was pinned to, too few for it, or of a
                task that a post-processing is not made for.
            ModelError: Weights or units are not those the recipe was pinned to, or the model or
                this machine cannot do what `fit` asks for.
        """
        if len(recipe.data.attributes) == 1:
            recipe = recipe.attributed(recipe.data.attributes[0])
        nameless = unnamed(recipe.mitigations)
        if nameless is not None:
            raise nameless
        ground = self.ground(recipe)
        if (fault := wrong_task(recipe.mitigations, ground.task)) is not None:
            raise fault
        spec, asked = ground.pack.table.spec, recipe.data
        if recipe.fit.augment == "medical":
            spec.ranges()
        else:
            asked = asked.model_copy(update={"augmentation": None})
        model = recipe.model.model_copy(
            update={
                "image_size": self.image_size(recipe),
                "weights_sha": self._sha(recipe),
                "units": ground.units.hash,
            }
        )
        data = recipe.data.model_copy(
            update={
                "fingerprint": ground.pack.table.fingerprint,
                "split": ground.pack.table.split_hash,
                "augmentation": None if spec.augment is None else spec.augmentation,
            }
        )
        for part, pinned in ((asked, data), (recipe.model, model)):
            refuse_other(part.to_json(), pinned.to_json())
        refuse_uncut(recipe, ground.backbone.depth)
        refuse_tf32(recipe, self.device)
        if recipe.fit.compile == "blocks":
            check_compiler(self.device)
        precision: str = recipe.fit.precision
        if precision == "auto":
            precision = self._precision(ground, recipe)
        resolved = recipe.model_copy(
            update={
                "data": data,
                "model": model,
                "adaptation": recipe.adaptation.on(
                    resolve_mask(recipe, ground.units).units, ground.units
                ),
                "fit": recipe.fit.model_copy(update={"precision": precision}),
            }
        )
        refuse_unvalidated(resolved, len(ground.val_rows(resolved)))
        return resolved

    def image_size(self, recipe: Recipe) -> int:
        """Return the image size the recipe means."""
        size = recipe.model.image_size
        return self.spec(recipe).side(size)

    def units(self, recipe: Recipe) -> Units:
        """Return the units of the recipe's model."""
        return describe(self.spec(recipe), self.image_size(recipe))

    def spec(self, recipe: Recipe) -> ModelSpec:
        """Return the model spec of the recipe, read once."""
        name = recipe.model.name
        if name not in self._specs:
            self._specs[name] = load_model(name)
        return self._specs[name]

    def ground(self, recipe: Recipe) -> Ground:
        """Return data and model of `recipe`, opened at the first call."""
        size = self.image_size(recipe)
        part = recipe.data
        name = digest(
            [
                [part.dataset, part.target, part.attributes, part.where],
                [recipe.model.name, size, recipe.model.weights],
            ]
        )
        if name not in self._grounds:
            spec = self.spec(recipe)
            weights = self.weights(recipe)  # what is missing is said before images are packed
            pack = open_pack(
                self.table(recipe),
                image_size=size,
                cache=self.settings.cache,
                cap_gib=self.settings.cache_gib,
                progress=self._packing,
            )
            backbone = build(spec, size, weights).to(self.device)
            backbone.requires_grad_(False)
            if self.device.type == "cpu" and backbone.tokens <= FEW_TOKENS:
                backbone.plain_attention()
            # As a rule one at a time: what goes on to another model must not hold both.
            while len(self._grounds) >= self.held:
                del self._grounds[next(iter(self._grounds))]
            units, cap = describe(spec, size), self.settings.cache_gib
            self._grounds[name] = Ground(pack, backbone, units, spec, self.device, cap)
        ground = self._grounds[name]
        ground.reuse, ground.expected = self.reuse, self.expected
        ground.progress = self.progress
        return ground

    def weights(self, recipe: Recipe) -> Weights | None:
        """Return the recipe's pretrained weights, None for `none`."""
        name = f"{recipe.model.name} {recipe.model.weights}"
        if name not in self._weights:
            self._weights[name] = resolve(
                self.spec(recipe),
                recipe.model.weights,
                self.settings,
                expected=recipe.model.weights_sha,
            )
        found = self._weights[name]
        if recipe.model.weights_sha is not None and found is not None:
            verify(found, recipe.model.weights_sha)
        return found

    def _sha(self, recipe: Recipe) -> str:
        weights = self.weights(recipe)
        return "none" if weights is None else weights.sha

    def _packing(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress("packing images", done, total)

    def _precision(self, ground: Ground, recipe: Recipe) -> str:
        size = self.image_size(recipe)
        image = torch.zeros(recipe.optim.batch_size, ground.spec.channels, size, size)
        image = image.to(ground.device)

        def step(dtype: torch.dtype) -> Callable[[], None]:
            def run() -> None:
                with torch.autocast(
                    ground.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16
                ):
                    ground.backbone.embed(image)

            return run

        return choose(ground.device, step)
