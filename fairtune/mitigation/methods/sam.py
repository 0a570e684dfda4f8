"""Sharpness-aware minimisation: steps that go down where the loss nearby is largest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.mitigation import MITIGATIONS

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks


@MITIGATIONS.register("sam")
class Sam(Config):
    """Take the gradient of every step at w + e, e = rho g / ||g||_2, and apply it at w.

    g is the gradient at w of all that a step trains, networks of other mitigations included, after
    all batches of the step (`optim.accumulate`) and processes are added up. Both gradients see the
    same batches, dropout and mixing. Terms that other mitigations add are in both. Where g = 0
    nothing is moved. The loss that is reported is that at w.

    `adaptive` is ASAM: e = rho T^2 g / ||T g||_2 with T = |w| + 0.01, which does not change when a
    layer is scaled and the next one scaled back. Its radius is measured in units of the weights:
    about 10 times that of SAM does as much (0.5 to 2 in the paper), more than the declared range,
    which is that of SAM. As in the authors' code, biases have T = 1; here all vectors (biases,
    norms, scales) do, as a step knows no names, and scales of norms are about 1 anyway.

    Deviations: the whole step has one e, where the papers have one for each processor's share of
    the batch; clipping is of the second gradient.

    Attributes:
        rho: Radius of the neighbourhood.
        adaptive: Whether the radius is measured in units of the weights.
    """

    paper: ClassVar[str] = (
        "Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, "
        "ICLR 2021; adaptive: Kwon et al., ASAM, ICML 2021; as in MEDFAIR, ICLR 2023"
    )
    formula: ClassVar[str] = "w ← w − lr ∇L(w + ρ ∇L(w) / ‖∇L(w)‖)"
    slots: ClassVar[tuple[str, ...]] = ("step",)
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    clashes: ClassVar[tuple[str, ...]] = ()
    costs: ClassVar[str] = "every step is made twice"

    rho: Annotated[float, pydantic.Field(gt=0), Float(0.01, 0.5, log=True)] = 0.05
    adaptive: Annotated[bool, Choice((False, True))] = False

    @property
    def idle(self) -> tuple[str, ...]:
        """Both fields always act."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the step."""
        from fairtune.mitigation.hooks import Hooks
        from fairtune.mitigation.sharpness import sharp

        return Hooks(step=sharp(self.rho, self.adaptive))
