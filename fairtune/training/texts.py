"""Texts as a model reads them: token numbers, or what a frozen text tower makes of them."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune import store
from fairtune.config import digest
from fairtune.data.gatekeep import TestPass
from fairtune.data.prompts import ClassPrompts
from fairtune.data.table import Table
from fairtune.errors import DataError, StorageError
from fairtune.models.language import PADDED
from fairtune.models.tokenizer import Tokenizer
from fairtune.training.prefix import machine_of, tensor_hash
from fairtune.training.recipe import PROTOCOL, Recipe

if TYPE_CHECKING:
    from fairtune.training.ground import Ground

log = logging.getLogger(__name__)

SHELF = "text"
_FILE = "embeddings.npy"
_CHUNK = 128

Rows = NDArray[np.int64]


@dataclass(eq=False)
class Texts:
    """The texts of a ground's rows.

    Those of training and validation rows are read once; a test row's only with a pass for it.

    Attributes:
        ground: Data and model.
        tokenizer: The model's.
        cut: Training and validation texts that are longer than the model reads.
    """

    ground: Ground
    tokenizer: Tokenizer
    cut: int = 0
    _known: tuple[Tensor, Rows] | None = None
    _numbers: Tensor | None = None
    _embedded: dict[str, Tensor] = field(default_factory=dict)

    def tokens(self, rows: Rows, *, test_pass: TestPass | None = None) -> Tensor:
        """Return `(len(rows), length)` token numbers, `PADDED` behind the end of each text.

        Raises:
            StudyError: A test row without a pass.
            DataError: The data set has no texts.
        """
        held, slot = self._all()
        if (slot[rows] >= 0).all():
            return _trimmed(held[torch.from_numpy(slot[rows])])
        return self.of(self._read(rows, test_pass))

    def numbers(self, rows: Rows) -> Tensor:
        """Return `(len(rows),)` numbers of training or validation texts.

        They are the same where the model reads the same: what is cut away, or capitals that the
        tokenizer does not know, make no difference.
        """
        held, slot = self._all()
        if self._numbers is None:
            self._numbers = torch.unique(held, dim=0, return_inverse=True)[1]
        return self._numbers[torch.from_numpy(slot[rows])]

    def of(self, texts: Sequence[str]) -> Tensor:
        """Return `(len(texts), length)` token numbers of sentences."""
        return torch.from_numpy(self.tokenizer(texts))

    def embedded(self, recipe: Recipe, rows: Rows, *, test_pass: TestPass | None = None) -> Tensor:
        """Return the `(len(rows), d)` that the frozen text tower makes of the texts of `rows`.

        Those of training and validation rows are computed once, and kept in the cache.

        Raises:
            StudyError: A test row without a pass.
            Interrupted: There is a reason to leave.
        """
        held, slot = self._all()
        if not (slot[rows] >= 0).all():
            return self._computed(recipe, self.of(self._read(rows, test_pass)))
        name = recipe.fit.precision
        if name not in self._embedded:
            self._embedded[name] = self._kept(recipe, held)
        return self._embedded[name][torch.from_numpy(slot[rows])]

    def server(
        self, recipe: Recipe, trains: bool, *, test_pass: TestPass | None = None
    ) -> Callable[[Rows], Tensor]:
        """Return what gives a loader `Batch.text`: tokens where the text tower trains."""
        if trains:
            return lambda rows: self.tokens(rows, test_pass=test_pass)
        return lambda rows: self.embedded(recipe, rows, test_pass=test_pass)

    def _read(self, rows: Rows, test_pass: TestPass | None) -> list[str]:
        found = self.ground.pack.texts(rows, test_pass=test_pass)
        if found is None:
            raise DataError("the data set has no texts", where=self.ground.pack.table.spec.name)
        return found

    def _all(self) -> tuple[Tensor, Rows]:
        if self._known is None:
            pack = self.ground.pack
            rows = np.concatenate([pack.rows("train"), pack.rows("val")])
            slot = np.full(len(pack), -1, dtype=np.int64)
            slot[rows] = np.arange(len(rows))
            before = self.tokenizer.cut
            self._known = self.of(self._read(rows, None)), slot
            self.cut = self.tokenizer.cut - before
            if self.cut:
                log.warning(
                    "%d of %d texts are longer than the %d tokens that the model reads and are "
                    "cut at a word",
                    self.cut,
                    len(rows),
                    self.tokenizer.rule.limit,
                )
        return self._known

    def _kept(self, recipe: Recipe, tokens: Tensor) -> Tensor:
        """Return the embeddings of all known texts, from the cache where they are there."""
        if not self.ground.reuse:
            return self._computed(recipe, tokens)
        state = self.ground.backbone.language.text.state_dict()
        key = digest(
            {
                "tokens": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
                "tokenizer": self.tokenizer.sha,
                "tensors": {name: tensor_hash(tensor) for name, tensor in state.items()},
                "precision": recipe.fit.precision,
                "machine": machine_of(self.ground.device),
                "protocol": PROTOCOL,
            }
        )

        def make(folder: Path) -> None:
            np.save(folder / _FILE, self._computed(recipe, tokens).numpy(), allow_pickle=False)

        try:
            folder = store.get_or_make(
                SHELF,
                key,
                make,
                root=self.ground.pack.cache,
                cap_gib=self.ground.cap_gib,
                waiting=lambda: self.ground.told("waiting for texts that another process embeds"),
            )
            return torch.from_numpy(np.load(folder / _FILE, allow_pickle=False))
        except (StorageError, OSError, ValueError) as error:
            log.warning("embedded texts are not kept: %s", error)
            return self._computed(recipe, tokens)

    def _computed(self, recipe: Recipe, tokens: Tensor) -> Tensor:
        backbone, ground, parts = self.ground.backbone.eval(), self.ground, []
        for start in range(0, len(tokens), _CHUNK):
            ground.told("embedding texts", start, len(tokens))
            part = _trimmed(tokens[start : start + _CHUNK]).to(ground.device)
            # Not inference mode: what comes out goes into a step that trains.
            with torch.no_grad(), ground.autocast(recipe):
                parts.append(backbone.words(part).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0, backbone.language.joint_dim)


def prompts_of(table: Table, recipe: Recipe) -> ClassPrompts:
    """Return the sentences that say the classes: the dataset spec's, with the usage's templates.

    Raises:
        ConfigError: The data set has none for the target.
    """
    found = table.spec.prompts_of(table.target)
    own: tuple[str, ...] = getattr(recipe.usage, "templates", ())
    return dataclasses.replace(found, templates=own) if own else found


def _trimmed(tokens: Tensor) -> Tensor:
    """Return tokens without the columns at the end in which no text has one."""
    used = (tokens != PADDED).any(dim=0)
    return tokens[:, : int(used.sum())]
