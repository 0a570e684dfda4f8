"""How well heads read attributes from the embeddings of a frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fairtune.data.values import IntArray
from fairtune.editing.probe import fit_probe, table_of
from fairtune.evaluation.predictions import Attribute
from fairtune.experiment.arms import PROBE_L2
from fairtune.experiment.assess import auc_of
from fairtune.experiment.assessed import Figure
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session


@dataclass(frozen=True)
class Probed:
    """How well a head reads an attribute of validation rows.

    Attributes:
        attribute: Attribute or crossing.
        train: Training rows by group, those of unknown group last.
        val: Validation rows likewise.
        patients: Validation patients of known group.
        auc: Of a linear head solved on training rows; of more than two groups the mean over
            groups of each against the rest.
    """

    attribute: str
    train: dict[str, int]
    val: dict[str, int]
    patients: int
    auc: Figure

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "reading": self.reading}

    @property
    def reading(self) -> str:
        """What the interval says, in one line."""
        if self.auc.low > 0.5:
            return "can be read: the AUC can be told from .5"
        if self.auc.high < 0.5:
            return "below .5: what reads it on training patients misleads on these"
        return "cannot be told from .5 on these patients"


def probe_attributes(recipe: Recipe, session: Session, attributes: Sequence[str]) -> list[Probed]:
    """Return what a head reads of each attribute or crossing; no test row is looked at.

    Raises:
        DataError: An attribute with fewer than two groups among training or validation rows.
    """
    resolved = session.resolve(recipe)
    ground = session.ground(resolved)
    return [_probed(ground, resolved, name) for name in attributes]


def _probed(ground: Ground, recipe: Recipe, name: str) -> Probed:
    rows, val = ground.fit_rows(recipe), ground.val_rows(recipe)
    fitted, read = (ground.pack.attribute(part, name) for part in (rows, val))
    probe = fit_probe(
        ground.features(recipe, rows),
        fitted.codes,
        fitted.names,
        attribute=name,
        l2=PROBE_L2,
        told=lambda: ground.told(f"fitting a head for {name}"),
    )
    patient = ground.pack.patient_codes[val]
    seen = ground.features(recipe, val)
    table = table_of(probe, seen, read.codes, read.names, patient)
    patients = len(np.unique(table.patient))
    return Probed(name, _counts(fitted), _counts(read), patients, auc_of(table))


def _counts(attribute: Attribute) -> dict[str, int]:
    codes: IntArray = attribute.codes
    found = {name: int((codes == code).sum()) for code, name in enumerate(attribute.names)}
    unknown = int((codes < 0).sum())
    return found | ({"unknown": unknown} if unknown else {})
