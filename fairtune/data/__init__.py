"""From a dataset spec to a table, a split and a pack. Only batches and augmentation use torch."""

from fairtune.data.gatekeep import TestPass
from fairtune.data.locate import data_roots
from fairtune.data.pack import Pack, open_pack
from fairtune.data.spec import DatasetSpec, load_spec
from fairtune.data.table import Table, load_table

__all__ = [
    "DatasetSpec",
    "Pack",
    "Table",
    "TestPass",
    "data_roots",
    "load_spec",
    "load_table",
    "open_pack",
]
