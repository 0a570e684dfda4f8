"""The fairness figures of debiased noise editing, as its code computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fairtune.config import Config
from fairtune.experiment.released import RELEASED, Recalls


@RELEASED.register("dne")
class DneFigures(Config):
    """EO_n = |A(g, n) - A(h, n)|, EO_p = |A(g, p) - A(h, p)|, DI = 1 - A(g, p) / A(h, p).

    A(g, c) is the share of the rows of group g and class c that are called c, in percent; n has no
    finding, p has one. Of the code of DNE (commit bb61b27), where g is M and h is F: DI is a ratio
    of sensitivities with a sign, neither symmetric nor the ratio of selection rates that the name
    stands for elsewhere. It is NaN where A(h, p) is 0. Made for two groups and two classes.
    """

    def of(self, recalls: Recalls) -> Mapping[str, float]:
        """Return the figures of two groups, the second of `recalls` as g; else nothing."""
        if len(recalls) != 2:
            return {}
        (_, (tnr_h, tpr_h)), (_, (tnr_g, tpr_g)) = recalls.items()
        return {
            "EO_n": abs(tnr_g - tnr_h),
            "EO_p": abs(tpr_g - tpr_h),
            "DI": 1 - tpr_g / tpr_h if tpr_h else math.nan,
        }
