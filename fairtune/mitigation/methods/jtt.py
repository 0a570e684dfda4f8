"""Just train twice: rows that a first fit gets wrong weigh more in the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.mitigation import MITIGATIONS

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks


@MITIGATIONS.register("jtt")
class Jtt(Config):
    """Multiply the loss of row i by w_i, of mean 1: w_i ∝ `upweight` if a first fit got it wrong.

    The first fit is the same recipe with the same seeds, without any mitigation, for `epochs`
    epochs with a learning rate schedule of their own, scored on the rows it was fitted on, which
    are not augmented then. A row is wrong where its class is not the predicted one: the logit has
    the wrong sign, or another class the largest one. The run then starts anew.

    Groups are not used, so that it helps those who are wrong early, whoever they are; the report
    says who they were. Where all rows or none are wrong it does not act. With several targets
    nearly every row has one that is wrong, which would say nothing: refused. Mixed samples
    (mixup, CutMix) are of two rows, and would carry the weight of one: refused.

    Deviations: the paper draws wrong rows `upweight` times in a pass, which makes passes longer;
    here they weigh so much more and a pass stays a pass: the same gradient in expectation, up to
    the factor that makes the mean weight 1. The paper's second fit has hyperparameters of its
    own; here both have those of the recipe. It chooses `epochs` by the worst group of validation
    rows, as an objective with groups does here.

    Attributes:
        epochs: T, passes of the first fit.
        upweight: lambda_up, weight of a wrong row relative to another one.
    """

    paper: ClassVar[str] = (
        "Liu et al., Just Train Twice: Improving Group Robustness without Training Group "
        "Information, ICML 2021"
    )
    formula: ClassVar[str] = "loss of a row * (λ if wrong after T epochs, else 1) / mean"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    clashes: ClassVar[tuple[str, ...]] = ()
    costs: ClassVar[str] = "a first fit of as many epochs as it names is made before the run"

    epochs: Annotated[int, pydantic.Field(ge=1), Choice((1, 2, 3))] = 1
    upweight: Annotated[float, pydantic.Field(gt=1), Float(2, 50, log=True)] = 5.0

    @property
    def idle(self) -> tuple[str, ...]:
        """Both fields always act."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the weights and the first fit that they need.

        Raises:
            DataError: The labels are several targets.
        """
        from fairtune.mitigation.hooks import Hooks, Identify
        from fairtune.mitigation.mistakes import Mistakes

        mistakes = Mistakes(context, self.upweight)
        return Hooks(
            weights=mistakes.weights,
            identify=Identify(self.epochs, mistakes.take),
            state=mistakes.state,
            load_state=mistakes.load_state,
            report=mistakes.report,
        )
