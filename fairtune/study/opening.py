"""Opening a study's storage: what it is, what may change on resume, how a process takes part."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fairtune.config import Choice, digest
from fairtune.errors import Interrupted, StorageAway, StudyError
from fairtune.study.definition import DEFINITION, defined, definition_of
from fairtune.study.ledger import Ledger, Options, worker_name
from fairtune.study.place import MOST_TRIALS, PINS, Place
from fairtune.study.places import check_home
from fairtune.study.plan import Plan
from fairtune.study.samplers import startup_of
from fairtune.study.schema import StudyFile
from fairtune.study.storages import is_missing
from fairtune.study.worker import Stop
from fairtune.training.recipe import PROTOCOL

T = TypeVar("T")
log = logging.getLogger(__name__)

AWAY_SECONDS = 300.0
"""For which a worker waits, when it starts, for a storage that does not answer."""


def identity(plan: Plan) -> dict[str, Any]:
    """Return what makes a study the one it is; a resume with anything else is refused.

    Baselines, budget, search, sampler, pruner, confirm and select may change.
    """
    judged = plan.study.judge.to_json()
    fixed = plan.space.constants()
    fidelity = plan.study.fidelity
    return {
        "recipe": _base(plan),
        "space": {name: d.to_json() for name, d in plan.dimensions().items()},
        "mask_spaces": plan.space.mask_spaces(),
        **judged,
        "seed": plan.study.seed,
        "protocol": PROTOCOL,
        **({"fields fixed in space": fixed} if fixed else {}),
        **({"fidelity": {fidelity.name: list(fidelity.values)}} if fidelity.values else {}),
    }


def _base(plan: Plan) -> dict[str, Any]:
    """Return the base recipe without a pin that no recipe of the study depends on."""
    base = plan.base.to_json()
    if plan.base.fit.augment != "medical" and not searches(plan, "medical"):
        base["data"].pop("augmentation", None)
    return base


def searches(plan: Plan, augment: str) -> bool:
    """Tell whether the study tries `augment`."""
    match plan.dimensions().get("fit.augment"):
        case Choice(options):
            return augment in options
    return False


def options_of(
    plan: Plan, slot: int | None = 0, leaving: Callable[[], object] = lambda: None
) -> Options:
    """Return how a process takes part in the study of `plan`.

    Args:
        plan: The study.
        slot: Number of the worker among those of the study, so that those that draw at the same
            moment draw different points; None takes one from the worker's random name.
        leaving: As in `Options`.
    """
    worker = worker_name()
    return Options(
        sampler=plan.study.sampler,  # type: ignore[arg-type]
        pruner=plan.study.judging,
        form=plan.study.form,
        seed=plan.study.seed,
        worker=worker,
        slot=int(digest(worker)[:8], 16) if slot is None else slot,
        leaving=leaving,
    )


def open_study(
    place: Place, plan: Plan, *, create: bool, options: Options | None = None
) -> Ledger:
    """Open the study of `plan` as `fairtune search` does: made if need be, its settings renewed.

    Raises:
        StorageError: The storage cannot be reached.
        StudyError: The name belongs to another study; names every differing field. Or the study
            is to be made, and lies in another storage.
    """
    if create:
        check_home(place)
    ledger = join_study(place, plan, create=create, options=options)
    ledger.set_attr(PINS, settings_of(plan))
    ledger.set_attr(DEFINITION, definition_of(plan.study))
    trials = plan.study.budget.trials
    if trials > ledger.attrs().get(MOST_TRIALS, 0):
        ledger.set_attr(MOST_TRIALS, trials)
    if create:
        place.remember()
    return ledger


def join_study(
    place: Place, plan: Plan, *, create: bool = False, options: Options | None = None
) -> Ledger:
    """Open the study of `plan` as a worker does, which takes its settings as they are.

    Raises:
        StorageError: The storage cannot be reached.
        StudyError: There is no such study, or it is another; names every differing field.
    """
    judge = plan.study.judge
    return Ledger.open(
        place.url,
        place.name,
        directions=[o.direction for o in judge.objectives],
        metric_names=[str(o) for o in judge.objectives],
        identity=identity(plan),
        create=create,
        options=options or options_of(plan),
    )


def once_there(open_: Callable[[], T], stop: Stop, seconds: float = AWAY_SECONDS) -> T:
    """Return `open_()`, tried again while nothing answers at the storage's address.

    A worker may be started, by whatever starts it, in the very minute in which its database is.

    Args:
        open_: Opens the storage.
        stop: Ends the waiting when it has a reason.
        seconds: For which it is tried.

    Raises:
        Interrupted: `stop` has a reason.
        StorageAway: Nothing answered in time.
    """
    end, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return open_()
        except StorageAway as error:
            if time.monotonic() + pause > end:
                raise
            log.warning("%s (%s); trying again in %.0f s", error.what, error.found, pause)
        stop.wait(pause)
        if (reason := stop.reason()) is not None:
            raise Interrupted("told to leave before the storage answered", found=reason)
        pause = min(2 * pause, 15.0)


def stored_study(place: Place) -> tuple[StudyFile, dict[str, Any]]:
    """Return the study file that a study was last searched with, and its resolved recipe.

    Raises:
        StorageError: The storage cannot be reached.
        StudyError: There is no such study, or it holds no study file.
    """
    with Ledger.open(place.url, place.name) as ledger:
        attrs = ledger.attrs()
    return defined(attrs, place.name), attrs["identity"]["recipe"]


def settings_of(plan: Plan) -> dict[str, Any]:
    """Return what may change on resume, and the units, for readers without the study file."""
    study = plan.study
    return {
        "units": plan.units.to_json(),
        "baselines": study.baselines.to_json(),
        "budget": study.budget.to_json(),
        "search": study.form.to_json(study.judge.objectives),
        "startup": startup_of(study.sampler),
        "confirm": study.confirm.to_json(),
        "select": study.select,
        "name": study.name,
    }


def pinned_base(place: Place) -> dict[str, Any] | None:
    """Return the resolved recipe of an existing study, or None when there is no such study.

    Raises:
        StorageError: The storage cannot be reached.
    """
    if is_missing(place.url):
        return None
    try:
        with Ledger.open(place.url, place.name) as ledger:
            stored = ledger.attrs().get("identity")
    except StudyError:
        return None
    if not isinstance(stored, dict):
        return None
    base: dict[str, Any] = stored["recipe"]
    return base
