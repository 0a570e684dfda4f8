"""The edit and its controls, fitted on training rows: what is then asked about other rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fairtune.data.gatekeep import TestPass
from fairtune.data.values import IntArray
from fairtune.editing.cohort import Cohort
from fairtune.editing.edit import Edit
from fairtune.editing.heads import task_head, utility_weights
from fairtune.editing.probe import Probe, fit_probe
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.experiment import assessed
from fairtune.experiment.early import fit_early
from fairtune.experiment.tables import probabilities
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe
from fairtune.usage.readout import fit

Floats = NDArray[np.float64]
Head = tuple[Floats, Floats]
"""Weight `(outputs, dim)` and bias `(outputs,)`."""

PROBE_L2 = 1e-2
"""Penalty of heads that read the attribute, as learned edits have it: the task's own may be
too strong for a head that is to find what is there."""

BATCH = 128
"""Images that are embedded at once."""


@dataclass(eq=False)
class Sight:
    """How an arm sees images: the embedding of each, under its edit or none.

    Attributes:
        ground: Data and model.
        recipe: Its precision and data; of no edit.
        edit: What is added to every image; None for nothing.
        batches: How many batches the model was asked about for what was given out.
    """

    ground: Ground
    recipe: Recipe
    edit: Edit | None
    batches: int = 0
    _held: dict[bytes, Floats] = field(default_factory=dict)

    def __call__(self, rows: IntArray, test_pass: TestPass | None = None) -> Floats:
        """Return `(rows, dim)` embeddings.

        Raises:
            StudyError: A test row without a pass.
        """
        key = rows.tobytes()
        if key not in self._held:
            self.batches += -(-len(rows) // BATCH)
            if self.edit is None:
                found = self.ground.features(self.recipe, rows, test_pass=test_pass)
            else:
                found = self._edited(rows, test_pass)
            self._held[key] = found
        return self._held[key]

    def _edited(self, rows: IntArray, test_pass: TestPass | None) -> Floats:
        ground = self.ground
        ground.backbone.eval()
        loader = ground.loader(rows, BATCH, edit=self.edit, test_pass=test_pass)
        parts = []
        with torch.inference_mode(), ground.autocast(self.recipe):
            for batch in loader.epoch(shuffle=False):
                ground.told("embedding edited images")
                parts.append(ground.backbone.embed(batch.image).float().cpu())
        return np.asarray(torch.cat(parts).numpy().astype(np.float64))


@dataclass(frozen=True, eq=False)
class Fitted:
    """An arm whose heads are fitted.

    Attributes:
        name: See `assessed.Arm`.
        words: What it is.
        sight: How it sees images.
        head: Its task head.
        retrained: The head that reads the attribute, fitted on what it sees.
    """

    name: str
    words: str
    sight: Sight
    head: Head
    retrained: Probe

    def task(self, rows: IntArray, test_pass: TestPass | None = None) -> Predictions:
        """Return what its task head says of rows."""
        weight, bias = self.head
        logits = (self.sight(rows, test_pass) @ weight.T + bias).astype(np.float32)
        ground = self.sight.ground
        score = probabilities(logits, ground.task)
        return ground.pack.predictions(rows, score, test_pass=test_pass)


@dataclass(frozen=True, eq=False)
class Fitting:
    """The training rows that all arms are fitted on.

    Attributes:
        ground: Data and model.
        recipe: Resolved, without edit.
        rows: Training rows.
        attribute: Groups of these rows.
    """

    ground: Ground
    recipe: Recipe
    rows: IntArray
    attribute: Attribute

    @classmethod
    def of(cls, ground: Ground, recipe: Recipe, attribute: str) -> Fitting:
        """Return the training rows of `recipe` with the groups of an attribute or crossing."""
        rows = ground.fit_rows(recipe)
        return cls(ground, recipe.unedited(), rows, ground.pack.attribute(rows, attribute))

    @property
    def told(self) -> Callable[[], None]:
        """What heads call while they are solved; it may raise `Interrupted`."""
        return lambda: self.ground.told("fitting the heads of an assessment")

    def sight(self, edit: Edit | None) -> Sight:
        """Return how images are seen under an edit, or as they are."""
        return Sight(self.ground, self.recipe, edit)

    def probe(self, sight: Sight) -> Probe:
        """Return the head that reads the attribute from what `sight` gives."""
        a = self.attribute
        return fit_probe(
            sight(self.rows), a.codes, a.names, attribute=a.name, l2=PROBE_L2, told=self.told
        )

    def plain(self, sight: Sight) -> Head:
        """Return the task head as a recipe with an empty mask has it."""
        ground, optim = self.ground, self.recipe.optim
        weight, bias, _ = fit(
            sight(self.rows),
            ground.labels(self.rows),
            ground.task,
            ground.outputs,
            optim.l2,
            balance=optim.class_weights == "balanced",
            smoothing=optim.label_smoothing,
            told=self.told,
        )
        return weight, bias

    def reweighted(self, sight: Sight) -> Head:
        """Return the task head for which every class of every group has the same weight."""
        ground, a = self.ground, self.attribute
        label = ground.labels(self.rows)
        cohort = Cohort(self.rows, a.codes, a.names, label, int((a.codes < 0).sum()))
        weights = utility_weights(cohort)
        return task_head(
            sight(self.rows), label, ground.task, ground.outputs, self._l2, weights, self.told
        )

    def early(self, sight: Sight) -> tuple[Head, int]:
        """Return the task head that is stopped early, and after how many steps."""
        ground = self.ground
        patient = ground.pack.patient_codes[self.rows]
        found = fit_early(
            sight(self.rows),
            ground.labels(self.rows),
            ground.task,
            ground.outputs,
            patient,
            told=self.told,
        )
        return (found.weight, found.bias), found.steps

    @property
    def _l2(self) -> float:
        return self.recipe.optim.l2


def noise_like(edit: Edit, seed: int = 0) -> Edit:
    """Return random noise on the grid of an edit, of its L2 norm and clamp."""
    generator = torch.Generator().manual_seed(seed)
    drawn = Edit(torch.randn(edit.value.shape, generator=generator), edit.image_size, edit.clamp)
    scale = edit.norms()["l2"] / drawn.norms()["l2"]
    return Edit(drawn.value * scale, edit.image_size, edit.clamp)


def fitted(fitting: Fitting, edit: Edit) -> tuple[Probe, list[Fitted]]:
    """Return the head fitted on unedited images, and the arms in the order of a table."""
    plain = fitting.sight(None)
    frozen = fitting.probe(plain)
    early, steps = fitting.early(plain)
    arms = [Fitted(assessed.NONE, "no edit", plain, fitting.plain(plain), frozen)]
    for name, words, seen in (
        (assessed.EDIT, "the edit on every image", edit),
        (
            assessed.RANDOM,
            "Gaussian noise on the same grid, of the same L2 norm; one draw (seed 0)",
            noise_like(edit),
        ),
    ):
        sight = fitting.sight(seen)
        arms.append(Fitted(name, words, sight, fitting.plain(sight), fitting.probe(sight)))
    words = "no edit; every class of every group has the same weight in the fit of the task head"
    arms.append(Fitted(assessed.REWEIGHTED, words, plain, fitting.reweighted(plain), frozen))
    words = (
        f"no edit; the task head is trained by gradient steps and kept after {steps}, where the "
        "loss on 20 % of the training patients, held out for that, was lowest"
    )
    arms.append(Fitted(assessed.EARLY, words, plain, early, frozen))
    return frozen, arms
