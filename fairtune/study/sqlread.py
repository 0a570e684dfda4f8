"""Reading the trials of a study from Optuna's tables: of each only what is new.

A trial's parameters and most attributes never change once it is there. Of a row of fairtune that
runs, only its beat is read again; when it ends, its attributes and values.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from fairtune.study.codec import BEAT, has_marks, is_ours
from fairtune.study.sqlschema import Schema

# SQLite takes as many values in one statement at least, and a database plans fewer faster.
_AT_ONCE = 500
_NUMBER = attrgetter("number")


class Reading:
    """What was read of one study, kept up to date.

    Args:
        engine: Connections to the database.
        schema: Its tables.
        study: Id of the study.
    """

    def __init__(self, engine: sa.Engine, schema: Schema, study: int) -> None:
        # No statement here needs what another one saw, so that two round trips are spared; other
        # drivers would spend as many on saying so.
        alone = engine.dialect.name == "postgresql"
        plain = engine.execution_options(isolation_level="AUTOCOMMIT") if alone else engine
        self._engine, self._schema = plain, schema
        self._trials: dict[int, FrozenTrial] = {}
        self._open: set[int] = set()
        self._lock = threading.Lock()
        table, attrs = schema.trials, schema.user_attrs
        beats = sa.and_(attrs.c.trial_id == table.c.trial_id, attrs.c.key == BEAT)
        self._asked = (
            sa.select(
                table.c.trial_id,
                table.c.number,
                table.c.state,
                table.c.datetime_start,
                table.c.datetime_complete,
                attrs.c.value_json.label("beat"),
            )
            .select_from(table.outerjoin(attrs, beats))
            .where(table.c.study_id == study)
            .order_by(table.c.trial_id)
        )
        unread = table.c.trial_id > sa.bindparam("newest")
        unfinished = table.c.state.in_([TrialState.RUNNING, TrialState.WAITING])
        self._asked_new = self._asked.where(sa.or_(unread, unfinished))

    def refresh(self) -> list[FrozenTrial]:
        """Read what is new and return all trials in order of number.

        Ids of a study rise in the order in which its trials appear, as each is made under the
        lock of the study.
        """
        with self._lock, self._engine.connect() as connection:
            for heads in self._heads(connection):
                self._take_in(connection, heads)
            return sorted(self._trials.values(), key=_NUMBER)

    def _heads(self, connection: sa.Connection) -> Iterator[list[Any]]:
        """Yield the rows of `trials` that are new or unfinished, then those that have ended.

        In order of id: whatever fails half way, what is later than the newest is still unread.
        """
        newest = max(self._trials, default=-1)
        found = connection.execute(self._asked_new, {"newest": newest}).all()
        ended = sorted(self._open.difference(head.trial_id for head in found))
        yield from _pieces(found)
        for part in _pieces(ended):
            asked = self._asked.where(self._schema.trials.c.trial_id.in_(part))
            yield list(connection.execute(asked).all())

    def _take_in(self, connection: sa.Connection, heads: list[Any]) -> None:
        known, whole, ended = self._trials, [], []
        for head in heads:
            old = known.get(head.trial_id)
            if old is None or not is_ours(old):
                whole.append(head.trial_id)
            elif old.state is not head.state:
                ended.append(head.trial_id)
        parts = self._parts(connection, heads, whole, ended)
        for head in heads:
            made = self._made(head, parts)
            known[head.trial_id] = made
            (self._open.discard if made.state.is_finished() else self._open.add)(head.trial_id)

    def _parts(
        self, connection: sa.Connection, heads: list[Any], whole: list[int], ended: list[int]
    ) -> _Parts:
        """Read what trials consist of: attributes, then only what such trials can have."""
        parts, changed = _Parts(), [*whole, *ended]
        if changed:
            self._read_attrs(connection, changed, parts)
        finished = {h.trial_id for h in heads if h.state.is_finished()}.intersection(changed)
        foreign = [i for i in changed if not has_marks(parts.user_attrs.get(i, {}))]
        if finished:
            self._read_values(connection, sorted(finished), parts)
        if foreign:
            self._read_steps(connection, foreign, parts)
        if whole:
            self._read_params(connection, whole, parts)
        return parts

    def _read_attrs(self, connection: sa.Connection, trials: list[int], parts: _Parts) -> None:
        user, system = self._schema.user_attrs, self._schema.system_attrs
        asked = [
            sa.select(sa.literal(which), t.c.trial_id, t.c.key, t.c.value_json).where(
                t.c.trial_id.in_(trials)
            )
            for which, t in enumerate((user, system))
        ]
        for which, trial, key, text in connection.execute(sa.union_all(*asked)):
            into = parts.system_attrs if which else parts.user_attrs
            into.setdefault(trial, {})[key] = json.loads(text)

    def _read_values(self, connection: sa.Connection, trials: list[int], parts: _Parts) -> None:
        table, number = self._schema.values, self._schema.models.TrialValueModel
        asked = sa.select(table.c.trial_id, table.c.objective, table.c.value, table.c.value_type)
        asked = asked.where(table.c.trial_id.in_(trials)).order_by(table.c.objective)
        for trial, at, value, kind in connection.execute(asked):
            parts.values.setdefault(trial, {})[at] = number.stored_repr_to_value(value, kind)

    def _read_steps(self, connection: sa.Connection, trials: list[int], parts: _Parts) -> None:
        table, model = self._schema.steps, self._schema.models.TrialIntermediateValueModel
        asked = sa.select(
            table.c.trial_id,
            table.c.step,
            table.c.intermediate_value,
            table.c.intermediate_value_type,
        ).where(table.c.trial_id.in_(trials))
        for trial, at, value, kind in connection.execute(asked):
            known = model.stored_repr_to_intermediate_value(value, kind)
            parts.steps.setdefault(trial, {})[at] = known

    def _read_params(self, connection: sa.Connection, trials: list[int], parts: _Parts) -> None:
        table = self._schema.params
        asked = sa.select(
            table.c.trial_id,
            table.c.param_name,
            table.c.param_value,
            table.c.distribution_json,
        ).where(table.c.trial_id.in_(trials))
        for row in connection.execute(asked.order_by(table.c.param_id)):
            found = parts.params.setdefault(row.trial_id, {})
            found[row.param_name] = (row.param_value, _distribution(row.distribution_json))

    def _made(self, head: Any, parts: _Parts) -> FrozenTrial:
        """Return the trial of `head`; one that only beats keeps all but its beat."""
        number, old = head.trial_id, self._trials.get(head.trial_id)
        params: dict[str, Any]
        if old is not None and is_ours(old):
            if old.state is head.state:
                return _beaten(old, head.beat)
            params, distributions = old.params, old.distributions
        else:
            pairs = parts.params.get(number, {})
            distributions = {name: pair[1] for name, pair in pairs.items()}
            params = {k: pair[1].to_external_repr(pair[0]) for k, pair in pairs.items()}
        values = parts.values.get(number)
        return FrozenTrial(
            number=head.number,
            state=head.state,
            value=None,
            values=None if values is None else list(values.values()),
            datetime_start=_local(head.datetime_start),
            datetime_complete=_local(head.datetime_complete),
            params=params,
            distributions=distributions,
            user_attrs=parts.user_attrs.get(number, {}),
            system_attrs=parts.system_attrs.get(number, {}),
            intermediate_values=parts.steps.get(number, {}),
            trial_id=number,
        )


class _Parts:
    """What was read of trials, by trial."""

    def __init__(self) -> None:
        self.user_attrs: dict[int, dict[str, Any]] = {}
        self.system_attrs: dict[int, dict[str, Any]] = {}
        self.params: dict[int, dict[str, tuple[float, BaseDistribution]]] = {}
        self.values: dict[int, dict[int, float]] = {}
        self.steps: dict[int, dict[int, float]] = {}


def _beaten(old: FrozenTrial, text: str | None) -> FrozenTrial:
    """Return `old` with the beat in `text`; itself where that is the same."""
    if text is None or (beat := json.loads(text)) == old.user_attrs.get(BEAT):
        return old
    shown = copy.copy(old)
    shown.user_attrs = {**old.user_attrs, BEAT: beat}
    return shown


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _pieces(found: Iterable[Any]) -> Iterator[list[Any]]:
    every = list(found)
    for i in range(0, len(every), _AT_ONCE):
        yield every[i : i + _AT_ONCE]


def _local(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
