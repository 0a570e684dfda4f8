"""Values of a dimension as positions in [0, 1], and back: what numeric samplers reckon in."""

from __future__ import annotations

import math
from decimal import Decimal

from fairtune.config.dimensions import Choice, Dimension, Float, Int, Scalar


def size(dimension: Dimension) -> int | None:
    """Return the number of values, or None where positions between them make sense.

    A whole number on a log scale counts as continuous: its values are not evenly spaced.
    """
    match dimension:
        case Choice(options):
            return len(options)
        case Int(low, high, log, step):
            return None if log and high > low else (high - low) // (step or 1) + 1
        case Float(low, high, _, step):
            if step is not None:
                return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step))) + 1
            return 1 if low == high else None


def position(dimension: Dimension, value: Scalar) -> float:
    """Return where `value` lies in [0, 1]: on the range's scale, or by its place in the list."""
    if isinstance(dimension, Choice):
        places = enumerate(dimension.options)
        place = next(i for i, o in places if type(o) is type(value) and o == value)
        return place / max(len(dimension.options) - 1, 1)
    number, low, high = float(value), float(dimension.low), float(dimension.high)
    count = size(dimension)
    if count == 1:
        return 0.0
    if dimension.log:
        return math.log(number / low) / math.log(high / low)
    if count is not None:
        return round((number - low) / (dimension.step or 1)) / (count - 1)
    return (number - low) / (high - low)


def value_at(dimension: Dimension, place: float) -> Scalar:
    """Return the value at `place`, a position in [0, 1]; the nearest one of a discrete range."""
    place = min(max(place, 0.0), 1.0)
    count = size(dimension)
    index = 0 if count is None else round(place * (count - 1))
    match dimension:
        case Choice(options):
            return options[index]
        case Int(low, high, log, step):
            if log and high > low:
                nearest: int = round(low * (high / low) ** place)
                return min(max(nearest, low), high)
            return low + index * (step or 1)
        case Float(low, high, log, step):
            if step is not None:
                return float(Decimal(str(low)) + index * Decimal(str(step)))
            found: float = low * (high / low) ** place if log else low + (high - low) * place
            return min(max(found, low), high)
