"""How much a search may spend, and why it starts no further trial.

Everything here follows from the rows of the search, the study file and the time of day, so that
all workers come to the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import pydantic

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.errors import ConfigError
from fairtune.study.rows import STALE, Row, roots
from fairtune.study.stopping import settled

CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


class Budget(Config):
    """How much a search may spend.

    Baselines, the control, confirm runs and further attempts at a run are not counted.

    Attributes:
        trials: Trials in all, over every worker and every resume.
        minutes: Wall time of the search after which no further trial starts.
        gpu_hours: Time on devices, added up over workers, after which no further trial starts.
        until: Time of day, `07:30`, or moment, `2030-01-31T07:30`, after which no further trial
            starts; local time where no offset is written.
        stop: `auto` ends a search that no longer gets better; see `fairtune.study.stopping`.
    """

    trials: Annotated[int, pydantic.Field(ge=1)]
    minutes: Annotated[float, pydantic.Field(gt=0)] | None = None
    gpu_hours: Annotated[float, pydantic.Field(gt=0)] | None = None
    until: str | None = None
    stop: Literal["none", "auto"] = "none"

    @pydantic.field_validator("until")
    @classmethod
    def _moment(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                deadline(text, datetime.now(UTC))
            except ConfigError as error:
                raise carried(error) from None
        return text


def deadline(text: str, now: datetime) -> datetime:
    """Return the moment that `text` means: `HH:MM` is the next such time of day after `now`.

    Raises:
        ConfigError: Neither a time of day nor an ISO 8601 date or moment.
    """
    clock = CLOCK.fullmatch(text.strip())
    if clock is not None:
        here = now.astimezone()
        hour, minute = int(clock[1]), int(clock[2])
        found = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return found if found > here else found + timedelta(days=1)
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise ConfigError(
            "not a time", found=text, allowed="07:30, 2030-01-31T07:30 or with an offset, +01:00"
        ) from None


@dataclass(frozen=True)
class Ending:
    """Says why a search starts no further trial.

    Attributes:
        budget: What the study file allows.
        signs: 1 per objective that is to be large, -1 per one that is to be small.
        startup: Trials before which the sampler learns nothing.
        until: The moment of `budget.until`.
    """

    budget: Budget
    signs: tuple[int, ...]
    startup: int
    until: datetime | None = None

    @classmethod
    def of(
        cls, budget: Budget, signs: Sequence[int], startup: int, now: datetime | None = None
    ) -> Ending:
        """Return the ending of a study; a time of day is the next one after `now`."""
        until = None
        if budget.until is not None:
            until = deadline(budget.until, now or datetime.now(UTC))
        return cls(budget, tuple(signs), startup, until)

    def reason(self, rows: Sequence[Row], now: datetime | None = None) -> str | None:
        """Return why no further trial starts, or None while one may.

        Args:
            rows: Rows of the search.
            now: The time, by default that of this machine's clock.
        """
        if len(roots(rows)) >= self.budget.trials:
            return f"budget.trials: {self.budget.trials} trials"
        late = self.late(rows, now)
        if late is not None or self.budget.stop == "none":
            return late
        return settled(rows, self.signs, self.startup)

    def late(self, rows: Sequence[Row], now: datetime | None = None) -> str | None:
        """Return which limit of time is reached, or None."""
        now = now or datetime.now(UTC)
        budget = self.budget
        if budget.minutes is not None and busy_seconds(rows, now) >= 60 * budget.minutes:
            return f"budget.minutes: {budget.minutes:g} minutes of search"
        if budget.gpu_hours is not None and device_seconds(rows, now) >= 3600 * budget.gpu_hours:
            return f"budget.gpu_hours: {budget.gpu_hours:g} hours on devices"
        if self.until is not None and now >= self.until:
            return f"budget.until: {self.until.isoformat(timespec='minutes')}"
        return None


def busy_seconds(rows: Sequence[Row], now: datetime | None = None) -> float:
    """Return the wall time in which at least one of `rows` ran: overlaps count once.

    A run whose worker vanished counts nothing: it ended when somebody noticed, perhaps days later.
    """
    now = now or datetime.now(UTC)
    known = [r for r in rows if r.started and r.reason != STALE]
    spans = sorted((_aware(r.started), _aware(r.finished or now)) for r in known)
    total, end = 0.0, None
    for start, stop in spans:
        begin = start if end is None or start > end else end
        if stop > begin:
            total += (stop - begin).total_seconds()
            end = stop
    return total


def device_seconds(rows: Sequence[Row], now: datetime | None = None) -> float:
    """Return the time in which devices were taken: that of each worker, added up.

    A worker has one device, and runs that it makes together share it: their overlap counts once.
    """
    workers: dict[str, list[Row]] = {}
    for row in rows:
        workers.setdefault(row.worker, []).append(row)
    return sum(busy_seconds(mine, now) for mine in workers.values())


def _aware(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
