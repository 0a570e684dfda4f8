"""Optuna's tables as they are known here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

_ATTRS = {"trial_id", "key", "value_json"}
_TABLES: dict[str, tuple[str, set[str]]] = {
    "studies": ("studies", {"study_id", "study_name"}),
    "trials": (
        "trials",
        {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
    ),
    "params": (
        "trial_params",
        {"param_id", "trial_id", "param_name", "param_value", "distribution_json"},
    ),
    "user_attrs": ("trial_user_attributes", _ATTRS | {"trial_user_attribute_id"}),
    "system_attrs": ("trial_system_attributes", _ATTRS | {"trial_system_attribute_id"}),
    "values": ("trial_values", {"trial_value_id", "trial_id", "objective", "value", "value_type"}),
    "steps": (
        "trial_intermediate_values",
        {
            "trial_intermediate_value_id",
            "trial_id",
            "step",
            "intermediate_value",
            "intermediate_value_type",
        },
    ),
}


@dataclass(frozen=True)
class Schema:
    """Optuna's tables, as it declares them.

    Attributes:
        studies, trials, params, user_attrs, system_attrs, values, steps: The tables.
        models: Where they are declared, with the forms in which infinite values are stored.
    """

    studies: sa.Table
    trials: sa.Table
    params: sa.Table
    user_attrs: sa.Table
    system_attrs: sa.Table
    values: sa.Table
    steps: sa.Table
    models: Any

    @classmethod
    def known(cls) -> Schema | None:
        """Return the tables, or None where Optuna declares others than are known here."""
        try:
            from optuna.storages._rdb import models
        except ImportError:
            return None
        found = {}
        for name, (table, columns) in _TABLES.items():
            declared = models.BaseModel.metadata.tables.get(table)
            if declared is None or set(declared.columns.keys()) != columns:
                return None
            found[name] = declared
        return cls(**found, models=models)

    def stored(self, value: float) -> dict[str, Any]:
        """Return a value of a trial as the columns of `values`."""
        number, kind = self.models.TrialValueModel.value_to_stored_repr(value)
        return {"value": number, "value_type": kind}
