"""Fields that several adaptation methods have, with their bounds and search ranges."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from fairtune.config import Choice, Float

Rank: TypeAlias = Annotated[int, Field(ge=1, le=1024), Choice((2, 4, 8, 16))]
"""Rank of an update; at most the smaller side of every adapted weight."""

Alpha: TypeAlias = Annotated[int, Field(ge=1, le=1024), Choice((4, 8, 16, 32))]
"""Numerator of the factor that an update is multiplied by."""

Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1), Float(0.0, 0.3)]
"""Share that is dropped in training; see the method for what is dropped."""
