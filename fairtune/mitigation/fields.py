"""Fields that several mitigations have."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from fairtune.config import Choice
from fairtune.evaluation.objectives import ATTRIBUTE

Name = Annotated[str, pydantic.Field(pattern=f"^{ATTRIBUTE.pattern}$")]
"""Attribute, or a crossing `A*B`."""

Attribute = Name | None
"""Attribute or crossing; None for that of the first objective that compares groups."""

By = Annotated[Literal["group", "class", "both"], Choice(("group", "class", "both"))]
"""What is made even: groups, classes, or each class in each group."""
