"""Search dimensions as Optuna writes them, and back."""

from __future__ import annotations

from decimal import Decimal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fairtune.config.dimensions import Choice, Dimension, Float, Int


def to_optuna(dimension: Dimension) -> BaseDistribution:
    """Return the Optuna distribution of `dimension`; a range ends at its last whole step."""
    match dimension:
        case Float(low, high, log, step):
            end = high if step is None else _last(low, high, step)
            return FloatDistribution(float(low), end, log=log, step=step)
        case Int(low, high, log, step):
            width = step or 1
            return IntDistribution(low, low + (high - low) // width * width, log=log, step=width)
        case Choice(options):
            return CategoricalDistribution(options)


def from_optuna(distribution: BaseDistribution) -> Dimension:
    """Return the dimension of an Optuna distribution.

    Raises:
        TypeError: Optuna has no such distribution today.
    """
    match distribution:
        case FloatDistribution():
            return Float(distribution.low, distribution.high, distribution.log, distribution.step)
        case IntDistribution():
            step = None if distribution.step == 1 else distribution.step
            return Int(distribution.low, distribution.high, distribution.log, step)
        case CategoricalDistribution():
            return Choice(tuple(distribution.choices))  # type: ignore[arg-type]
    raise TypeError(f"unknown distribution {distribution!r}")


def _last(low: float, high: float, step: float) -> float:
    # In decimals, as Optuna reckons: in binary 0.3 is no multiple of 0.1.
    first, last, width = Decimal(str(low)), Decimal(str(high)), Decimal(str(step))
    return float(first + (last - first) // width * width)
