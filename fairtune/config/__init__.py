"""How every other room declares itself: frozen models, YAML, registry, dimensions."""

from fairtune.config.digest import canonical_json, digest
from fairtune.config.dimensions import Choice, Dimension, Float, Int
from fairtune.config.model import Config, Source, parse
from fairtune.config.registry import Registry
from fairtune.config.settings import Settings, settings

__all__ = [
    "Choice",
    "Config",
    "Dimension",
    "Float",
    "Int",
    "Registry",
    "Settings",
    "Source",
    "canonical_json",
    "digest",
    "parse",
    "settings",
]
