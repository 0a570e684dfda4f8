"""Which units of a model train, and how: masks, the rules that write them, spaces, methods."""

from fairtune.adaptation.mask import Mask
from fairtune.adaptation.rules import NAMED_RULES, Rule
from fairtune.adaptation.spaces import ALIASES, SPACES, MaskSpace, read_space

__all__ = ["ALIASES", "NAMED_RULES", "SPACES", "Mask", "MaskSpace", "Rule", "read_space"]
