"""Data and model of a recipe, opened once and shared by all runs on them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fairtune.adaptation import Mask
from fairtune.config import digest
from fairtune.data.augment import Augment
from fairtune.data.batch import Batch, Loader
from fairtune.data.gatekeep import TestPass
from fairtune.data.pack import Pack
from fairtune.data.prompts import ClassPrompts
from fairtune.editing.edit import Edit
from fairtune.models.backbone import JOINT, Backbone, Cut
from fairtune.models.net import Net
from fairtune.models.spec import ModelSpec
from fairtune.models.split import Through
from fairtune.models.tokenizer import Tokenizer
from fairtune.models.units import Units
from fairtune.training.cuts import Cuts, Expected
from fairtune.training.edits import Made, made_for
from fairtune.training.observer import go_on, nobody
from fairtune.training.prefix import Prefix, pooled, tensor_hash
from fairtune.training.recipe import Recipe
from fairtune.training.rows import rows_of
from fairtune.training.texts import Texts, prompts_of
from fairtune.usage import Output, Question, Task

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
        poll: Reason to leave, or None; asked while something is computed.
        prefixes, cuts, checked: What `training.prefix` has opened, chosen and compared.
        lowered: Frozen tensors in bf16, by name; see `training.lowered`.
        compiled: Compiled blocks by kind; see `training.compiled`.
        edits: Edits by key; see `training.edits`.
        tokenizer: Of a model that reads texts; None where no recipe reads any.
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
    poll: Callable[[], str | None] = nobody
    prefixes: dict[str, Prefix] = field(default_factory=dict)
    cuts: dict[str, Cuts] = field(default_factory=dict)
    checked: dict[str, str] = field(default_factory=dict)
    lowered: dict[str, nn.Parameter] = field(default_factory=dict)
    compiled: dict[Hashable, Through] = field(default_factory=dict)
    edits: dict[str, Made] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    _tensors: dict[str, str] = field(default_factory=dict)
    _features: dict[str, Floats] = field(default_factory=dict)
    _rows: dict[str, tuple[Rows, Rows]] = field(default_factory=dict)
    _hashes: list[str] | None = None
    _texts: Texts | None = None

    @property
    def task(self) -> Task:
        """Kind of label."""
        return self.pack.table.task

    @property
    def outputs(self) -> int:
        """Columns of the score: 1 for binary, else classes or targets."""
        return 1 if self.task == "binary" else len(self.pack.table.classes)

    @property
    def texts(self) -> Texts:
        """The texts of the rows, as the model reads them."""
        if self._texts is None:
            assert self.tokenizer is not None
            self._texts = Texts(self, self.tokenizer)
        return self._texts

    def question(self, recipe: Recipe, prompts: ClassPrompts | None = None) -> Question:
        """Return what a recipe asks of every image.

        Args:
            recipe: The recipe.
            prompts: What classes are called, in place of the data set's own.

        Raises:
            ConfigError: It needs prompts, and the data set has none for its target.
        """
        if not recipe.usage.reads_prompts:
            return Question(self.task, self.outputs)
        found = prompts or prompts_of(self.pack.table, recipe)
        sentences = found.sentences()
        owner = torch.tensor([number for number, _ in sentences])
        tokens = self.texts.of([sentence for _, sentence in sentences])
        return Question(self.task, self.outputs, tokens, owner)

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

    def tensor_digest(self, cut: Cut) -> str:
        """Return the digest of the tensors before `cut`, see `Backbone.before`."""
        found = self.backbone.before(cut)
        for name in found.keys() - self._tensors.keys():
            self._tensors[name] = tensor_hash(found[name])
        return digest({name: self._tensors[name] for name in sorted(found)})

    def obey(self, poll: Callable[[], str | None]) -> None:
        """Ask `poll` from now on for a reason to leave, also while an endpoint is waited for."""
        self.poll = poll
        self.backbone.obeys(poll)

    def told(self, what: str, done: int = 0, total: int = 0) -> None:
        """Tell whoever shows progress how far `what` is, if anything can be told.

        Raises:
            Interrupted: There is a reason to leave.
        """
        go_on(self.poll, what)
        if self.progress is not None and total:
            self.progress(what, done, total)

    def edit(self, recipe: Recipe) -> Edit | None:
        """Return the edit of `recipe`, made where nobody has yet; None for images as they are.

        Raises:
            DataError, ModelError: It cannot be made.
        """
        made = made_for(self, recipe)
        return None if made is None else made.edit

    def unnormalised(self, rows: Rows) -> Loader:
        """Return a loader of `rows` that leaves images in [0, 1], without edit."""
        channels = len(self.spec.mean)
        zeros, ones = (0.0,) * channels, (1.0,) * channels
        return Loader(
            self.pack,
            rows,
            batch_size=128,
            mean=zeros,
            std=ones,
            device=self.device,
            resident=False,
        )

    def loader(
        self,
        rows: Rows,
        batch_size: int,
        *,
        edit: Edit | None,
        seed: int = 0,
        augment: Augment | None = None,
        copies: int = 0,
        serve: Callable[[Rows, int | None], torch.Tensor] | None = None,
        text: Callable[[Rows], torch.Tensor] | None = None,
        text_id: Callable[[Rows], torch.Tensor] | None = None,
        test_pass: TestPass | None = None,
    ) -> Loader:
        """Return a loader of `rows` that edits, then normalises as the model expects."""
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
            view=None if edit is None else edit.on(self.device),
            serve=serve,
            text=text,
            text_id=text_id,
            test_pass=test_pass,
        )

    def forward(self, recipe: Recipe) -> Callable[[Net, Batch], Output]:
        """Return `(net, batch) -> Output` of the recipe's usage, of what a step is made of."""
        usage, task = recipe.usage, self.task
        return lambda net, batch: usage.forward(net, batch, task)

    def scorer(self, recipe: Recipe) -> Callable[[Net, Batch], Output]:
        """Return `(net, batch) -> Output` of the recipe's usage, with the logits to store."""
        usage, task = recipe.usage, self.task
        return lambda net, batch: usage.score(net, batch, task)

    def scored_text(
        self, recipe: Recipe, net: Net, *, test_pass: TestPass | None = None
    ) -> Callable[[Rows], torch.Tensor] | None:
        """Return what gives a loader the texts of scored rows; None where none are read."""
        if not recipe.usage.reads_text or recipe.usage.pairs:
            return None
        return self.texts.server(recipe, net.backbone.text_trains, test_pass=test_pass)

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

    def features(
        self,
        recipe: Recipe,
        rows: Rows,
        *,
        joint: bool = False,
        test_pass: TestPass | None = None,
    ) -> Floats:
        """Return frozen features of images; of training and validation rows kept for all.

        Args:
            recipe: Whose data, edit and precision.
            rows: Rows of the pack.
            joint: Return what is compared with texts, `(rows, d)` or `(rows, queries, d)`, in
                place of the `(rows, dim)` embeddings.
            test_pass: Needed when `rows` has a test row.

        Raises:
            StudyError: A test row without a pass.
        """
        if not len(rows):
            return np.empty((0, self.backbone.language.joint_dim if joint else self.backbone.dim))
        self.pack.labels(rows, test_pass=test_pass)  # what was computed before is locked too
        edit = None if not recipe.edited else self.edit(recipe)
        # An edit of drawn rows is none of the official ones.
        if recipe.data.drawn and test_pass is None and edit is None:
            return self._of_all(recipe, rows, joint)
        sha = None if edit is None else edit.sha
        name = digest([recipe.fit.precision, rows.tolist(), sha, joint])
        if name not in self._features:
            kept = pooled(self, recipe, rows, JOINT if joint else None)
            if kept is None:
                kept = self._embedded(recipe, rows, joint, test_pass)
            found = kept.float()
            self._features[name] = found.cpu().numpy().astype(np.float64)
        return self._features[name]

    def seen(self, recipe: Recipe, rows: Rows, *, test_pass: TestPass | None = None) -> Floats:
        """Return `(rows, ...)` frozen features as a head of the recipe's usage sees them.

        Raises:
            StudyError: A test row without a pass.
        """
        parts, sees = [], recipe.usage.sees
        if "image" in sees:
            parts.append(self.features(recipe, rows, test_pass=test_pass))
        if "joint" in sees:
            parts.append(self.features(recipe, rows, joint=True, test_pass=test_pass))
        if "text" in sees:
            found = self.texts.embedded(recipe, rows, test_pass=test_pass)
            parts.append(found.numpy().astype(np.float64))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _of_all(self, recipe: Recipe, rows: Rows, joint: bool) -> Floats:
        """Return features of drawn rows, computed in the batches of all: rounded as they are."""
        official = recipe.of_data(fold=None, fraction=1.0)
        splits = [self.pack.rows(name) for name in ("train", "val")]
        place = np.empty(len(self.pack), dtype=np.int64)
        place[np.concatenate(splits)] = np.arange(sum(map(len, splits)))
        found = [self.features(official, split, joint=joint) for split in splits]
        return np.concatenate(found)[place[rows]]

    def _embedded(
        self, recipe: Recipe, rows: Rows, joint: bool, test_pass: TestPass | None
    ) -> torch.Tensor:
        self.backbone.eval()
        loader = self.loader(rows, 128, edit=self.edit(recipe), test_pass=test_pass)
        of = self.backbone.joint if joint else self.backbone.embed
        with torch.inference_mode(), self.autocast(recipe):
            parts = []
            for batch in loader.epoch(shuffle=False):
                self.told("computing features")
                parts.append(of(batch.image).float())
        return torch.cat(parts)
