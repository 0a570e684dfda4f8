"""Universal input edits: one tensor that is added to every image before the model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from fairtune.editing.asks import Asks
    from fairtune.editing.edit import Edit
    from fairtune.editing.learned import Learned
    from fairtune.editing.scene import Scene
    from fairtune.editing.seen import Seen

EDITS: Registry[Config] = Registry(
    "edit", "fairtune.editing.edits", also=("fairtune.compat.edits",)
)
MODES: Registry[Config] = Registry(
    "edit mode", "fairtune.editing.modes", also=("fairtune.compat.edit_modes",)
)
OBJECTIVES: Registry[Config] = Registry("edit objective", "fairtune.editing.objectives")
FILES: Registry[Config] = Registry(
    "edit file", "fairtune.editing.files", also=("fairtune.compat.edit_files",)
)


@runtime_checkable
class EditRule(Protocol):
    """What a recipe says of its edit: none, one that is learned, or one that is there.

    Attributes:
        acts: Whether images are changed at all.
        queries: Most queries that making it may cost, heads apart; 0 where none is asked.
    """

    acts: ClassVar[bool]

    @property
    def queries(self) -> int:
        """Its budget."""

    @property
    def attribute(self) -> str | None:
        """The attribute that it is made to hide; None where it has none, or names none yet."""

    def attributed(self, default: str | None) -> Config:
        """Return the rule with `default` as its attribute where it acts on one and names none."""

    def pinned(self) -> Config:
        """Return the rule with what determines its edit as a hash, where that is a file."""

    def canonical(self) -> dict[str, Any]:
        """Return the fields that act, as JSON."""

    def asks(self, rows: int) -> Asks:
        """Return the most that making it asks of the model, learned on so many rows."""

    def check(self, scene: Scene) -> None:
        """Refuse a scene for which no edit can be made; asks the model for nothing.

        Raises:
            DataError, ModelError: See `make`.
        """

    def make(self, scene: Scene) -> Learned:
        """Return the edit for the training rows of `scene`.

        Raises:
            DataError: The attribute has one value among these rows.
            ModelError: The mode needs a gradient and the model has none, or an edit is of another
                model, image size or number of channels.
        """


@runtime_checkable
class EditObjective(Protocol):
    """What an edit is to do to a head that reads the attribute from embeddings. Lower is better.

    Attributes:
        paper: Where it was published.
        formula: What it does, in one line.
        head: Whether it reads the logits of the head that reads the attribute.
        labels: Whether it reads the labels of the target.
        task: Whether it reads the loss of the task, so that a task head is fitted too.
    """

    paper: ClassVar[str]
    formula: ClassVar[str]
    head: ClassVar[bool]
    labels: ClassVar[bool]
    task: ClassVar[bool]

    def loss(self, seen: Seen) -> Tensor:
        """Return the scalar loss of an edited batch; differentiable."""


class Asked(Protocol):
    """One training batch, asked about points: flat values `(d,)` of an edit."""

    def value(self, point: Tensor) -> float:
        """Return the loss of the batch under `point`: one query, a forward pass."""

    def gradient(self, point: Tensor) -> Tensor:
        """Return the gradient `(d,)` of that loss: one query, a forward and a backward pass."""

    def bounded(self, point: Tensor) -> Tensor:
        """Return the nearest point that the edit's bounds allow."""


class Optimiser(Protocol):
    """A search for a point, step by step; a step asks about one batch.

    Attributes:
        point: `(d,)` where it stands.
    """

    point: Tensor

    def step(self, asked: Asked) -> float:
        """Go one step; return the loss of the batch where that was asked, else NaN."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, the generator's state too."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the search that `state` is of would have."""


@runtime_checkable
class Mode(Protocol):
    """How an edit is searched. Its fields are what is tuned.

    Attributes:
        paper: Where it was published.
        formula: What a step does, in one line.
        gradient: Whether it needs the gradient of the model, so that no black box will do.
    """

    paper: ClassVar[str]
    formula: ClassVar[str]
    gradient: ClassVar[bool]

    @property
    def queries(self) -> int:
        """Queries of a step, exactly; 0 for a mode that asks nothing and makes no step."""

    def build(self, start: Tensor, steps: int, generator: torch.Generator) -> Optimiser:
        """Return the search.

        Args:
            start: `(d,)` float32 on the CPU, where it starts.
            steps: Steps that will be made.
            generator: Source of every random number.
        """


@runtime_checkable
class EditFile(Protocol):
    """A format that edits are read from.

    Attributes:
        suffixes: Endings of its files, e.g. `.safetensors`.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def read(self, path: Path) -> Edit:
        """Return the edit in `path`.

        Raises:
            ModelError: The file is damaged, unsafe or holds no edit.
        """
