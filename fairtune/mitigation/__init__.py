"""Bias-mitigation methods, one file each: they build Hooks, or they are fitted on predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    from fairtune.evaluation.predictions import Predictions
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks

MITIGATIONS: Registry[Config] = Registry(
    "mitigation", "fairtune.mitigation.methods", also=("fairtune.compat.mitigations",)
)

SLOTS = ("sampler", "head", "step", "average")
"""What at most one mitigation of a recipe may take."""


@runtime_checkable
class Mitigation(Protocol):
    """A bias-mitigation method that acts while a model is trained. Its fields are what is tuned.

    Attributes:
        paper: Where it was published.
        formula: What it does, in one line.
        slots: What it takes of `SLOTS`, and no other mitigation may.
        trains: Whether it acts on training; one that does not acts on predictions.
        mixes: Whether it can work on samples that are mixed of two (mixup, CutMix).
        clashes: Names of mitigations that would count the same thing twice.

    A member may say besides `follows` (it needs validation rows), `excludes` (fields of `optim`
    that do the same) and `costs`, in words, what a run with it costs more than steps.
    """

    paper: ClassVar[str]
    formula: ClassVar[str]
    slots: ClassVar[tuple[str, ...]]
    trains: ClassVar[bool]
    mixes: ClassVar[bool]
    clashes: ClassVar[tuple[str, ...]]

    @property
    def idle(self) -> tuple[str, ...]:
        """Fields that do not act beside the values of the others."""

    def build(self, context: Context) -> Hooks:
        """Return what acts on one run.

        Raises:
            DataError: The training rows have nothing that the method could act on.
        """


class Fitted(Protocol):
    """What a post-processing method found on the rows it was fitted on.

    Attributes:
        attribute: Whose groups it needs to know of every row it is applied to.
        lacking: Groups of these rows without a rule of their own, in some target; they, groups
            that were not among the rows, and rows of unknown group get that of all rows pooled.
    """

    @property
    def attribute(self) -> str:
        """The attribute."""

    @property
    def cut(self) -> float | None:
        """Where the scores it makes have to be cut; None leaves that to a rule."""

    @property
    def lacking(self) -> tuple[str, ...]:
        """The groups."""

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the groups with a rule of their own in every target."""

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the table with the scores that are to be used in place of the model's."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON, for `PostProcessing.restore`."""


@runtime_checkable
class PostProcessing(Protocol):
    """A bias-mitigation method that acts on predictions, after a run; see `mitigation.post`.

    Attributes:
        paper, formula, slots, trains, mixes, clashes: As of a `Mitigation`; `trains` is False.
        tasks: Kinds of label it is made for.
    """

    paper: ClassVar[str]
    formula: ClassVar[str]
    slots: ClassVar[tuple[str, ...]]
    trains: ClassVar[bool]
    mixes: ClassVar[bool]
    clashes: ClassVar[tuple[str, ...]]
    tasks: ClassVar[tuple[str, ...]]

    @property
    def idle(self) -> tuple[str, ...]:
        """Fields that do not act beside the values of the others."""

    def fit(self, predictions: Predictions) -> Fitted:
        """Return what is found on labelled predictions of one model.

        Raises:
            DataError: The rows are in fewer than two groups.
        """

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Fitted:
        """Return what `Fitted.to_json` wrote."""
