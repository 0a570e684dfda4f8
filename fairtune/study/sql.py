"""Trials in Optuna's tables, in few statements and one transaction each.

Optuna writes a trial parameter by parameter, with three statements each, while it holds the lock
of the study: some 190 statements for a mask of 48 switches. And it reads every trial that runs
anew, whole. With many workers that is most of what a database does. Here a trial is written in
seven statements of any length, ended in one transaction, and read whole only once.

The tables are those of Optuna, as it declares them: it, its dashboard and other programs read and
write the same trials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from fairtune.study.sqlread import Reading
from fairtune.study.sqlschema import Schema
from fairtune.study.trials import End


def sql_trials(storage: BaseStorage) -> SqlTrials | None:
    """Return the trials of `storage`, None where it has no such tables.

    None also where Optuna declares other tables than those known here: then its own way is taken.
    """
    inner = getattr(storage, "_backend", storage)
    if not isinstance(inner, RDBStorage):
        return None
    schema = Schema.known()
    return None if schema is None else SqlTrials(inner.engine, schema)


class SqlTrials:
    """Trials of a database.

    Args:
        engine: Connections to it.
        schema: Its tables.
    """

    def __init__(self, engine: sa.Engine, schema: Schema) -> None:
        self._engine, self._schema = engine, schema
        self._readings: dict[int, Reading] = {}

    def all(self, study: int) -> list[FrozenTrial]:
        """Return the trials of a study in order of number; they are not to be changed."""
        reading = self._readings.setdefault(study, Reading(self._engine, self._schema, study))
        return reading.refresh()

    def add(self, study: int, trial: FrozenTrial) -> int:
        """Write `trial` in one transaction and return its id.

        Its number is the count of those before it, which the lock of the study's row keeps true.
        """
        tables = self._schema
        with self._engine.begin() as connection:
            connection.execute(
                sa.select(tables.studies.c.study_id)
                .where(tables.studies.c.study_id == study)
                .with_for_update()
            ).one()
            made = self._insert_trial(connection, study, trial)
            before = sa.select(sa.func.count(tables.trials.c.trial_id)).where(
                tables.trials.c.study_id == study, tables.trials.c.trial_id < made
            )
            number = connection.execute(before).scalar_one()
            connection.execute(
                sa.update(tables.trials)
                .where(tables.trials.c.trial_id == made)
                .values(number=number)
            )
            self._insert_params(connection, made, trial)
            self._insert_attrs(connection, tables.user_attrs, made, trial.user_attrs)
            self._insert_attrs(connection, tables.system_attrs, made, trial.system_attrs)
            self._insert_values(connection, made, trial.values)
        return made

    def end(self, trial: int, end: End) -> None:
        """End a running trial, with all that is said of it, in one transaction.

        Raises:
            UpdateFinishedTrialError: It has ended already.
        """
        tables = self._schema
        attr = {"trial_id": trial, "key": end.name}
        with self._engine.begin() as connection:
            ended = connection.execute(
                sa.update(tables.trials)
                .where(
                    tables.trials.c.trial_id == trial,
                    tables.trials.c.state.in_([TrialState.RUNNING, TrialState.WAITING]),
                )
                .values(state=end.state, datetime_complete=_utc(datetime.now(UTC)))
            )
            if ended.rowcount != 1:
                raise UpdateFinishedTrialError(f"trial {trial} has ended already")
            # An older version may have been killed after it wrote them and before the state.
            connection.execute(sa.delete(tables.user_attrs).filter_by(**attr))
            self._insert_attrs(connection, tables.user_attrs, trial, {end.name: end.attr})
            for name in end.system_attrs:
                attr = {"trial_id": trial, "key": name}
                connection.execute(sa.delete(tables.system_attrs).filter_by(**attr))
            self._insert_attrs(connection, tables.system_attrs, trial, end.system_attrs)
            self._insert_values(connection, trial, end.values)

    def _insert_trial(self, connection: sa.Connection, study: int, trial: FrozenTrial) -> int:
        made = connection.execute(
            sa.insert(self._schema.trials).values(
                study_id=study,
                state=trial.state,
                datetime_start=_utc(trial.datetime_start),
                datetime_complete=_utc(trial.datetime_complete),
            )
        ).inserted_primary_key
        assert made is not None
        return int(made[0])

    def _insert_params(self, connection: sa.Connection, made: int, trial: FrozenTrial) -> None:
        rows = [
            {
                "trial_id": made,
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ]
        _insert(connection, self._schema.params, rows)

    def _insert_attrs(
        self, connection: sa.Connection, table: sa.Table, made: int, attrs: Mapping[str, Any]
    ) -> None:
        rows = [
            {"trial_id": made, "key": name, "value_json": json.dumps(value)}
            for name, value in attrs.items()
        ]
        _insert(connection, table, rows)

    def _insert_values(
        self, connection: sa.Connection, made: int, values: Sequence[float] | None
    ) -> None:
        rows = [
            {"trial_id": made, "objective": i, **self._schema.stored(value)}
            for i, value in enumerate(values or ())
        ]
        _insert(connection, self._schema.values, rows)


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), list(rows))


def _utc(moment: datetime | None) -> datetime | None:
    """Return `moment` as Optuna stores it: UTC without saying so; local where it is naive."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)
