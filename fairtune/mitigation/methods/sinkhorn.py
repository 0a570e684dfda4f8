"""Transport alignment: the scores of every group distributed as those of the batch (FairCLIP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.config.model import carried
from fairtune.config.registry import Among
from fairtune.errors import ConfigError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.distances import DISTANCES
from fairtune.mitigation.fields import Name

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks

Share = Annotated[float, pydantic.Field(gt=0)]


@MITIGATIONS.register("sinkhorn")
class Sinkhorn(Config):
    """Add weight * mean over groups g (and classes c) of D(s of g in c, s of all groups in c).

    s are the batch's scores divided by their SD, floor 1e-3, so that neither the model's scale
    nor its mean matters: the term is invariant to s -> c s + t, and its gradient, which goes
    through the SD, is orthogonal to s - mean(s). A group with fewer than `least` samples of the
    class is left out of the step, as are samples of an unknown group; with one group left the
    term is 0.

    FairCLIP (Luo et al., CVPR 2024) minimises the Sinkhorn distance between the scores of the
    batch and those of each group. Deviations: scores are in units of their SD, both sides alike;
    the released code compares unnormalised scores with scores divided by their sum
    (`sinkhorn_as_released`). Groups come from the batch itself, made even by a sampler, and not
    from a loader for each. Given the class, what is aligned is what equalised odds asks for;
    without, demographic parity, which costs accuracy where base rates differ.

    Attributes:
        attribute: Whose groups; several with their weights: `{age: 1, sex: 0.5}`.
        score: What is aligned: `score`, the logit margin (log-odds of each class against the rest
            for several classes); `similarity`, the cosine of each image with its own text, as
            FairCLIP does; `loss` of the sample, as RobustFairCLIP describes; `embedding`.
        given: Align within each class (`label`) or over all (`none`).
        distance: `w2`, `sinkhorn`, `energy` or `mmd`.
        weight: Factor of the term.
        scale: `pooled` lets the gradient through the SD; `detached` does not, so that the term is
            lowered by shrinking or growing all scores; for comparison.
        sampler: `group` makes the shares of groups even in every pass, unless another mitigation
            samples; `none` leaves the batches as they are.
        least: Samples that a group needs in the batch, within the class if given.
        queue: Scores of earlier steps that count on both sides, without gradient; 0 for none.
    """

    paper: ClassVar[str] = "Luo et al., FairCLIP, CVPR 2024"
    formula: ClassVar[str] = "L + λ · mean over groups of D(scores of the group, of all)"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    clashes: ClassVar[tuple[str, ...]] = ()

    attribute: Name | dict[Name, Share] | None = None
    score: Literal["score", "similarity", "loss", "embedding"] = "score"
    given: Annotated[Literal["none", "label"], Choice(("none", "label"))] = "label"
    distance: Annotated[Config, DISTANCES.field(), Among(("w2", "sinkhorn", "energy"))] = (
        pydantic.Field("w2", validate_default=True)
    )
    weight: Annotated[float, pydantic.Field(gt=0), Float(1e-3, 10.0, log=True)] = 1.0
    scale: Literal["pooled", "detached"] = "pooled"
    sampler: Literal["group", "none"] = "group"
    least: Annotated[int, pydantic.Field(ge=2)] = 4
    queue: Annotated[int, pydantic.Field(ge=0)] = 0

    @pydantic.field_validator("attribute")
    @classmethod
    def _some(cls, value: object) -> object:
        if value == {}:
            raise carried(ConfigError("an empty mapping of attributes", todo="name one"))
        return value

    @property
    def idle(self) -> tuple[str, ...]:
        """Every field acts."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the term and, where the slot is free, the sampler.

        Raises:
            DataError: Fewer than two groups, several targets where anything but scores is to be
                aligned within one class, or embeddings that nothing changes.
        """
        from fairtune.mitigation.alignment import Alignment
        from fairtune.mitigation.cells import cells
        from fairtune.mitigation.hooks import Hooks
        from fairtune.mitigation.sampling import drawn_by
        from fairtune.usage.weights import even

        named = self.attribute if isinstance(self.attribute, dict) else {str(self.attribute): 1.0}
        align = Alignment(self, context, {context.groups(n): w for n, w in named.items()})
        sampler = None
        if self.sampler == "group" and "sampler" in context.free:
            crossed = "*".join(dict.fromkeys(part for n in named for part in n.split("*")))
            sampler = drawn_by(even(*cells(context, crossed, "group", "sinkhorn")))
        return Hooks(
            sampler=sampler,
            loss=align.term,
            state=align.state,
            load_state=align.load_state,
            report=align.report,
        )
