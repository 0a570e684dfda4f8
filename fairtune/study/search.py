"""Resolve a study on this machine and take part in it as a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fairtune.adaptation.placement import METHOD, members
from fairtune.config.registry import name_of
from fairtune.errors import ConfigError, FairtuneError, raise_all
from fairtune.models.units import Units
from fairtune.study.baselines import baseline_of
from fairtune.study.bounds import Bounds
from fairtune.study.control import ControlPhase
from fairtune.study.edit_fitting import edit_misfits
from fairtune.study.execute import Event, Executor, few_folds
from fairtune.study.expected import expected_starts
from fairtune.study.fields import EDIT, parts_of
from fairtune.study.fitting import misfits
from fairtune.study.ground import check_rows, unit_digests, validation_table
from fairtune.study.ledger import Ledger, Phase
from fairtune.study.opening import searches, settings_of
from fairtune.study.parts import folds_of
from fairtune.study.phases import BaselinePhase, ConfirmPhase, SearchPhase
from fairtune.study.place import ENDED, PINS, Place
from fairtune.study.plan import Plan
from fairtune.study.queued import Point, points_of
from fairtune.study.rows import BASELINE, SEARCH
from fairtune.study.samplers import SAMPLERS
from fairtune.study.schema import StudyFile
from fairtune.study.worker import Exit, Limits, Stop, work
from fairtune.training.cuts import Expected

if TYPE_CHECKING:
    from fairtune.training.session import Session


def make_plan(study: StudyFile, session: Session, pinned: Mapping[str, Any] | None) -> Plan:
    """Resolve a study on this machine.

    Args:
        study: The study file.
        session: Opens data and weights.
        pinned: `base` of the study as it was created; its precision is taken over, so that it is
            measured once.

    Raises:
        FairtuneError: Data, weights, masks or precision cannot be had here, the sampler cannot
            draw from the space (all mask faults at once), or a method fits none of its masks.
    """
    recipe = study.recipe
    if pinned is not None and recipe.fit.precision == "auto":
        precision = pinned["fit"]["precision"]
        recipe = recipe.model_copy(
            update={"fit": recipe.fit.model_copy(update={"precision": precision})}
        )
    units = session.units(recipe)
    problems: list[FairtuneError] = []
    for i, name in enumerate(study.baselines.of):
        try:
            baseline_of(name, recipe.usage).rule.mask(units)
        except FairtuneError as error:
            error.where = study.source.where("baselines", i)
            problems.append(error)
    try:
        study.space.parameters(units)
        problems += _unfit(study, units)
    except FairtuneError as error:
        error.where = study.source.where("space", "adaptation.mask")
        problems.append(error)
    problems += _method_faults(study, units)
    raise_all(str(study.source.where()), problems)
    base = session.resolve(recipe)
    plan = Plan(study, base, units, unit_digests(study, base, session))
    if searches(plan, "medical"):
        session.table(recipe).spec.ranges()
    raise_all(str(study.source.where()), [*misfits(plan, session), *edit_misfits(plan, session)])
    return plan


def _unfit(study: StudyFile, units: Units) -> list[FairtuneError]:
    """Return that the sampler cannot draw from the space, if it cannot."""
    sampler = study.sampler
    if sampler.conditional or not study.space.conditional(units):  # type: ignore[attr-defined]
        return []
    able = [name for name in SAMPLERS if SAMPLERS.get(name).conditional]  # type: ignore[attr-defined]
    return [
        ConfigError(
            "this sampler needs every parameter in every trial, and the space has some that "
            "are drawn only with certain choices",
            where=study.source.where("sampler"),
            found=name_of(sampler),
            allowed=able,
            todo="choose one of these, or take the choices out of the space",
        )
    ]


def _method_faults(study: StudyFile, units: Units) -> Iterator[FairtuneError]:
    """Yield what is wrong with the unit types that methods are fixed or searched for."""
    fixed = [kind for kind, _ in study.recipe.adaptation.method.by_type]
    searched = [path for path, _ in study.space.nodes if path.startswith(f"{METHOD}.")]
    owner: dict[str, str] = {}
    places = [(kind, ("recipe", *METHOD.split("."))) for kind in fixed]
    places += [(parts_of(path)[-1], ("space", path)) for path in searched]
    for kind, place in places:
        where = study.source.where(*place)
        try:
            for unit in members(kind, units):
                if owner.setdefault(unit, kind) != kind:
                    yield ConfigError(
                        "two unit types with methods of their own share a unit",
                        where=where,
                        found=f"'{unit}' in '{owner[unit]}' and '{kind}'",
                        todo="name types that share no unit",
                    )
                    break
        except FairtuneError as error:
            error.where = where
            yield error


def check_objectives(plan: Plan, session: Session) -> list[str]:
    """Refuse what these rows cannot answer, before anything is trained.

    That is objectives and constraints, of every part of the rows that the study judges by.

    Returns:
        For people: which groups some folds have too few rows of.

    Raises:
        DataError: Too few eligible groups; names groups, counts and minimum. Too few patients for
            the folds or for a level's fraction.
    """
    check_rows(plan, session)
    table = validation_table(plan, session)
    for part in plan.study.judge.parts:
        judge = plan.study.judge.on(part)
        judge.values(table)
        judge.figures(table)
    folds = plan.study.judge.validation.folds
    return [
        f"{name} has too few rows in {count} of {folds} folds: its value is the mean over the "
        "others"
        for name, count in few_folds(table, plan.study.judge).items()
    ]


def phases(
    plan: Plan, queue: Callable[[], Sequence[Point]] = tuple
) -> tuple[BaselinePhase, SearchPhase, *tuple[Phase, ...]]:
    """Return the phases of a study in their order: baseline, search, control if any, confirm.

    Args:
        plan: The study.
        queue: Reads the points that people enqueued.
    """
    baseline = BaselinePhase(plan)
    search = SearchPhase(plan, baseline, queue)
    if plan.study.baselines.control is None:
        return baseline, search, ConfirmPhase(plan, search)
    control = ControlPhase(plan, search)
    return baseline, search, control, ConfirmPhase(plan, control)


KEPT = "prefix"
"""Attribute of a study: which activations of frozen blocks its first worker kept, and why."""


def run_study(
    ledger: Ledger,
    plan: Plan,
    session: Session,
    place: Place,
    stop: Stop,
    *,
    notify: Callable[[Event], None] = lambda event: None,
    limits: Limits | None = None,
) -> Exit:
    """Work on a study until nothing is left or `stop` says so.

    Why its search starts no further trial is stored with what may change on resume.

    Raises:
        StorageError: Runs cannot be kept where machines share them; nothing is begun.
    """
    place.runs.check()
    from fairtune.training.prefix import kept_cuts

    session.expected = Expected(
        expected_starts(plan), plan.base.optim.epochs, edited=plan.space.get(EDIT) is not None
    )
    session.held = max(session.held, len(plan.sizes) + 1)
    first = folds_of(plan.base, plan.study.judge)[0]
    kept = kept_cuts(session.ground(first), first)
    if ledger.attrs().get(KEPT) is None:
        ledger.set_attr(KEPT, kept)
    bound = Bounds(
        plan.study.judge,
        plan.base.data.attributes,
        plan.study.baselines.of,
        lambda: ledger.rows(BASELINE),
    )
    executor = Executor(plan, session, place.runs, stop, notify, bound)
    parts = phases(plan, lambda: points_of(ledger.attrs()))
    left = work(ledger, parts, executor, limits or Limits(), stop)
    ended = parts[1].ended(ledger.rows(SEARCH))
    if ended is not None:
        ledger.set_attr(PINS, settings_of(plan) | {ENDED: ended})
    return left
