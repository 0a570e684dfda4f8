"""An edit that is learned: debiased noise editing, white-box or black-box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.config.model import carried
from fairtune.config.registry import Among
from fairtune.editing import EDITS, MODES, OBJECTIVES, EditObjective, Mode
from fairtune.errors import ConfigError
from fairtune.evaluation.objectives import ATTRIBUTE

if TYPE_CHECKING:
    from fairtune.editing.asks import Asks
    from fairtune.editing.learned import Learned
    from fairtune.editing.scene import Scene

Name = Annotated[str, pydantic.Field(pattern=f"^{ATTRIBUTE.pattern}$")]
Count = Annotated[int, pydantic.Field(ge=0)]

UNSEARCHED = ("attribute", "mode", "seed", "channels", "noise_resolution", "clamp", "linf")
"""Fields that act where nothing is searched."""


@EDITS.register("dne")
class Dne(Config):
    """Add to every image one edit e, learned on training rows.

    It minimises, over batches,

        lambda_sa * objective(g(f(x + e))) + utility_weight * mean w_i CE_i + lambda_reg * size(e)

    with f the frozen model, g a linear head that reads the attribute from its embedding, CE_i the
    loss of a linear task head and w_i = 1 / (K C P(y_i, a_i)), of mean 1: every class of every
    group has the same say. Heads are solved on the embeddings of the training rows, and anew on
    edited ones every `refit_every` steps. e is bounded by `linf` after every step. The edit is
    the last point of the search; of a mode that keeps an incumbent, that.

    Jin et al. (Debiased noise editing, MICCAI 2024) minimise -lambda_1 CE + lambda_reg ||e||_2
    against one head (`objective: neg_ce`, `regulariser: l2`, `clamp: false`, `init_std: 0`).
    Deviations of the defaults: an objective with a lower bound, an edited image stays in [0, 1],
    the size is the mean square of a pixel, which knows no number of pixels. Training images are
    taken in passes, every row once, and neither moments nor order begin anew with a pass.

    Attributes:
        attribute: What is hidden; None for that of the first objective that compares groups.
        mode: How e is searched: `white` with the gradient of the model, `random` not at all (the
            control of equal norm), others by the values of the loss alone.
        objective: What e is to do to the head that reads the attribute.
        lambda_sa: Factor of the objective; 0 for none.
        lambda_reg: Factor of the size; 0 for none.
        regulariser: `rms2`, the mean square of a pixel, or `l2`, the norm; in units of [0, 1].
        utility_weight: Factor of the task's loss; 0 fits no task head.
        refit_every: Steps from one fit of the heads to the next; 0 keeps the first. The costlier a
            step of the mode, the fewer.
        refit_rows: Training rows that are embedded for a refit; 0 for all.
        linf: Largest change of a pixel, in 1/255; 0 for none.
        clamp: Cut edited images to [0, 1].
        noise_resolution: Cells of e along a side, each filling its pixels; 0 for every pixel.
        channels: Of e; one serves all channels of an image.
        init_std: SD of the e that the search starts at.
        batch_size: Images of a query.
        queries: Batches that the model may be asked about, in steps and refits together.
        l2: Penalty on the weights of the heads, on standardised embeddings.
        seed: Seed of the start, of batches and of the search.
    """

    acts: ClassVar[bool] = True

    attribute: Name | None = None
    mode: Annotated[Config, MODES.field(), Among(("white", "fzoo", "snes", "gezo"))] = (
        pydantic.Field("white", validate_default=True)
    )
    objective: Annotated[Config, OBJECTIVES.field(), Among(("uniform", "entropy", "neg_ce"))] = (
        pydantic.Field("uniform", validate_default=True)
    )
    lambda_sa: Annotated[float, pydantic.Field(ge=0), Float(0.1, 10, log=True)] = 1.0
    lambda_reg: Annotated[float, pydantic.Field(ge=0), Float(1e-4, 1e-1, log=True)] = 1e-2
    regulariser: Annotated[Literal["rms2", "l2"], Choice(("rms2", "l2"))] = "rms2"
    utility_weight: Annotated[float, pydantic.Field(ge=0), Float(0.1, 3, log=True)] = 0.0
    refit_every: Annotated[Count, Choice((0, 5, 20, 100))] = 0
    refit_rows: Count = 0
    linf: Annotated[int, pydantic.Field(ge=0, le=255), Choice((0, 4, 8, 16, 32))] = 0
    clamp: bool = True
    noise_resolution: Annotated[Count, Choice((7, 14, 28, 56))] = 0
    channels: Literal[1, 3] = 1
    init_std: Annotated[float, pydantic.Field(ge=0), Choice((0.0, 1e-3))] = 1e-3
    batch_size: Annotated[int, pydantic.Field(ge=1)] = 32
    queries: Count = 1000
    l2: Annotated[float, pydantic.Field(gt=0)] = 1e-2
    seed: Count = 0

    @pydantic.model_validator(mode="after")
    def _something_is_learned(self) -> Dne:
        if not (self.lambda_sa or self.utility_weight or self.unsearched):
            error = ConfigError(
                "nothing is learned: lambda_sa and utility_weight are both 0",
                todo="give one of them a value above 0",
            )
            raise carried(error, "lambda_sa")
        return self

    @property
    def searched(self) -> Mode:
        """The mode."""
        assert isinstance(self.mode, Mode)
        return self.mode

    @property
    def measured(self) -> EditObjective:
        """The objective."""
        assert isinstance(self.objective, EditObjective)
        return self.objective

    @property
    def unsearched(self) -> bool:
        """Whether the mode makes no step."""
        return self.searched.queries == 0

    @property
    def reads_attribute(self) -> bool:
        """Whether a head that reads the attribute is fitted."""
        return self.lambda_sa > 0 and self.measured.head

    @property
    def reads_task(self) -> bool:
        """Whether a task head is fitted."""
        return self.utility_weight > 0 or (self.lambda_sa > 0 and self.measured.task)

    @property
    def idle(self) -> tuple[str, ...]:
        """Fields that do not act beside the values of the others."""
        if self.unsearched:
            return tuple(name for name in type(self).model_fields if name not in UNSEARCHED)
        heads = self.reads_attribute or self.reads_task
        still = {
            "objective": not self.lambda_sa,
            "regulariser": not self.lambda_reg,
            "refit_every": not heads,
            "refit_rows": not heads or not self.refit_every,
            "l2": not heads,
        }
        return tuple(name for name, idle in still.items() if idle)

    def attributed(self, default: str | None) -> Dne:
        """Return the rule with `default` as its attribute where it names none."""
        if self.attribute is not None or default is None:
            return self
        return self.model_copy(update={"attribute": default})

    def pinned(self) -> Dne:
        """Return itself: what determines its edit is the scene and its fields."""
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the fields that act, as JSON."""
        return {name: value for name, value in self.to_json().items() if name not in self.idle}

    def asks(self, rows: int) -> Asks:
        """Return its budget, and what its first heads ask; nothing where nothing is searched."""
        from fairtune.editing.asks import Asks

        step = self.searched.queries
        if not step or self.queries < step:
            return Asks()
        heads = -(-rows // self.batch_size) if self.reads_attribute or self.reads_task else 0
        return Asks(heads, self.queries, self.batch_size, self.searched.gradient)

    def check(self, scene: Scene) -> None:
        """Refuse a scene on which it cannot be learned; see `make`."""
        from fairtune.editing.learn import asked_of

        asked_of(self, scene)

    def make(self, scene: Scene) -> Learned:
        """Return the edit that is learned on the training rows of `scene`.

        Raises:
            ConfigError: No attribute is named.
            DataError: The attribute has one value among these rows.
            ModelError: The mode needs a gradient and the model has none, or grid or channels do
                not fit the images.
            Interrupted: `scene.told` had a reason to leave; the state is kept.
        """
        from fairtune.editing.learn import learn

        return learn(self, scene)
