"""What a process keeps between runs: packed images, the pretrained backbone, features.

The second run of a process starts its first step at once: nothing is read, decoded or built again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fairtune.config import Settings, digest
from fairtune.data.pack import open_pack
from fairtune.data.spec import load_spec
from fairtune.data.table import Table, load_table
from fairtune.editing.attributes import nameless as unnamed_edit
from fairtune.mitigation.combine import unnamed
from fairtune.mitigation.post import wrong_task
from fairtune.models import load as load_model
from fairtune.models.backbone import build, describe
from fairtune.models.device import device_of
from fairtune.models.precision import FP32, choose
from fairtune.models.spec import ModelSpec
from fairtune.models.tokenizer import Tokenizer
from fairtune.models.tokenizer import load as load_tokenizer
from fairtune.models.units import Units
from fairtune.models.weights import Weights, resolve, verify
from fairtune.training.compiled import check_compiler
from fairtune.training.cuts import Expected
from fairtune.training.ground import Ground
from fairtune.training.observer import go_on, nobody
from fairtune.training.pins import (
    refuse_other,
    refuse_tf32,
    refuse_uncut,
    refuse_unread,
    refuse_unvalidated,
    resolve_mask,
)
from fairtune.training.recipe import Recipe
from fairtune.training.texts import prompts_of
from fairtune.training.usages import unnamed as unnamed_usage

log = logging.getLogger(__name__)

FEW_TOKENS = 256
"""Up to here a CPU uses plain attention: faster at 25 tokens, measured there only; the limit
bounds the memory that it takes for `(batch, heads, tokens, tokens)`."""


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
        poll: Reason to leave, or None; asked while something is prepared.
    """

    settings: Settings
    data_roots: Sequence[Path] = ()
    keeps_best: bool = False
    progress: Callable[[str, int, int], None] | None = None
    reuse: bool = True
    expected: Expected | None = None
    held: int = 1
    poll: Callable[[], str | None] = nobody
    _grounds: dict[str, Ground] = field(default_factory=dict)
    _specs: dict[str, ModelSpec] = field(default_factory=dict)
    _tables: dict[str, Table] = field(default_factory=dict)
    _weights: dict[str, Weights | None] = field(default_factory=dict)
    _tokenizers: dict[str, Tokenizer] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    @property
    def device(self) -> torch.device:
        """The device runs are made on."""
        return device_of(self.settings)

    def warn(self, words: str) -> None:
        """Log a warning, once for all runs of the session."""
        if words not in self._warned:
            self._warned.add(words)
            log.warning("%s", words)

    def table(self, recipe: Recipe, *, scored: bool = False) -> Table:
        """Return the table of the recipe's data; see `ground`."""
        part = recipe.data
        text = _text(recipe, scored)
        name = digest([part.dataset, part.target, part.attributes, part.where, text])
        if name not in self._tables:
            self._tables[name] = load_table(
                load_spec(part.dataset),
                target=part.target,
                attributes=part.attributes,
                roots=[*self.data_roots, *self.settings.data],
                where=part.where,
                text=text,
                cache=self.settings.cache,
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
        recipe = recipe.attributed(None)
        nameless = unnamed(recipe.mitigations)
        if nameless is not None:
            raise nameless
        if (nameless := unnamed_edit(recipe.rule)) is not None:
            raise nameless
        if (nameless := unnamed_usage(recipe.usage)) is not None:
            raise nameless
        ground = self.ground(recipe)
        if (fault := wrong_task(recipe.mitigations, ground.task)) is not None:
            raise fault
        spec, asked = ground.pack.table.spec, recipe.data
        if recipe.fit.augment == "medical":
            spec.ranges()
        else:
            asked = asked.model_copy(update={"augmentation": None})
        tokenizer = ground.tokenizer if recipe.reads else None
        model = recipe.model.model_copy(
            update={
                "image_size": self.image_size(recipe),
                "weights_sha": self._sha(recipe),
                "units": ground.units.hash,
                "tokenizer": None if tokenizer is None else tokenizer.sha,
            }
        )
        data = recipe.data.model_copy(
            update={
                "fingerprint": ground.pack.table.fingerprint,
                "split": ground.pack.table.split_hash,
                "augmentation": None if spec.augment is None else spec.augmentation,
                "prompts": spec.prompts_of(recipe.data.target).sha
                if recipe.usage.reads_prompts
                else None,
            }
        )
        for part, pinned in ((asked, data), (recipe.model, model)):
            refuse_other(part.to_json(), pinned.to_json())
        refuse_unread(recipe, ground.backbone.reads)
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
                "edit": recipe.rule.pinned(),
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

    def ground(self, recipe: Recipe, *, scored: bool = False) -> Ground:
        """Return data and model of `recipe`, opened at the first call.

        Args:
            recipe: The recipe.
            scored: Rows are scored alone: those without a text stay where scoring reads none.
        """
        size = self.image_size(recipe)
        part = recipe.data
        name = digest(
            [
                [part.dataset, part.target, part.attributes, part.where, _text(recipe, scored)],
                [recipe.model.name, size, recipe.model.weights],
            ]
        )
        if name not in self._grounds:
            spec = self.spec(recipe)
            weights = self.weights(recipe)  # what is missing is said before images are packed
            table = self.table(recipe, scored=scored)
            self._check_reading(recipe, table, scored)
            pack = open_pack(
                table,
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
        if recipe.reads and ground.tokenizer is None:
            ground.tokenizer = self._tokenizer(recipe)
        ground.reuse, ground.expected = self.reuse, self.expected
        ground.progress = self.progress
        ground.obey(self.poll)
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

    def _tokenizer(self, recipe: Recipe) -> Tokenizer:
        """Return the tokenizer of the recipe's model, read once."""
        name = recipe.model.name
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(self.spec(recipe), self.settings)
        return self._tokenizers[name]

    def _check_reading(self, recipe: Recipe, table: Table, scored: bool) -> None:
        """Refuse a usage that reads what the model or the data set does not have.

        Of rows that are scored alone the prompts are those of the run.
        """
        if not recipe.reads:
            return
        refuse_unread(recipe, self.spec(recipe).tokenizer is not None)
        self._tokenizer(recipe)
        if recipe.usage.reads_prompts and not scored:
            prompts_of(table, recipe)

    def _sha(self, recipe: Recipe) -> str:
        weights = self.weights(recipe)
        return "none" if weights is None else weights.sha

    def _packing(self, done: int, total: int) -> None:
        go_on(self.poll, "packing images")
        if self.progress is not None:
            self.progress("packing images", done, total)

    def _precision(self, ground: Ground, recipe: Recipe) -> str:
        if not ground.backbone.differentiable:
            return FP32  # an endpoint computes elsewhere, and each look at it costs
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


def _text(recipe: Recipe, scored: bool) -> bool:
    """Return whether a row without a text is of no use: pairs need theirs to train alone."""
    return recipe.usage.reads_text and not (scored and recipe.usage.pairs)
