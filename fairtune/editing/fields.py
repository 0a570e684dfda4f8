"""Fields that several ways of searching an edit have."""

from __future__ import annotations

from typing import Annotated

import pydantic

from fairtune.config import Choice, Float

Mu = Annotated[float, pydantic.Field(gt=0), Float(1e-3, 3e-2, log=True)]
"""How far away a pixel of an image in [0, 1] is looked at."""

Samples = Annotated[int, pydantic.Field(ge=1), Choice((1, 2, 4, 10))]
"""Directions of a step, each asked about on both sides."""

Memory = Annotated[float, pydantic.Field(ge=0, lt=1), Choice((0.0, 0.9, 0.99))]
"""Decay of a running mean over steps; 0 forgets."""
