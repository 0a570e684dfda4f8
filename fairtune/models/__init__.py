"""Backbones: what a model spec declares, its units, its weights, and the network itself.

`spec`, `units`, `registries` and `weights` need no torch to be imported; `backbone`, `network`,
`tensors` and `precision` do.
"""

from fairtune.models.spec import ModelSpec, load, names
from fairtune.models.units import Units
from fairtune.models.weights import Weights

__all__ = ["ModelSpec", "Units", "Weights", "load", "names"]
