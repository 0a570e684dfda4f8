"""Whether the edits of a study can be made on its data and model; tried before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fairtune.errors import FairtuneError
from fairtune.study.edit_checks import members_of_edit, rules_of
from fairtune.study.fields import EDIT
from fairtune.study.plan import Plan

if TYPE_CHECKING:
    from fairtune.editing import EditRule
    from fairtune.training.session import Session

Place = tuple[str | int, ...]


def edit_rules(plan: Plan) -> Iterator[tuple[Place, EditRule]]:
    """Yield every edit that a trial may have, ranges at both ends, with its place in the file."""
    if plan.base.edited:
        yield ("recipe", EDIT), plan.base.rule
    for place, member in members_of_edit(plan.space.get(EDIT)):
        for written in rules_of(member):
            yield ("space", EDIT, *place), plan.recipe({EDIT: written}).rule


def edit_misfits(plan: Plan, session: Session) -> Iterator[FairtuneError]:
    """Yield every edit that no run of the study could make, at any level.

    Its trials would all fail: a mode that needs the gradient of a model that has none, a grid
    finer than the images, an attribute of one value among the training rows.
    """
    asked = list(edit_rules(plan))
    if not asked:
        return
    from fairtune.training.edits import scene_of

    scenes = [scene_of(session.ground(r), r) for r in plan.levels(plan.base)]
    told: set[str] = set()
    for place, rule in asked:
        for scene in scenes:
            try:
                rule.check(scene)
            except FairtuneError as error:
                error.what = f"no edit can be learned: {error.what}"
                inner = "" if error.where is None else f" {error.where}"
                error.where = f"{plan.study.source.where(*place)}{inner}"
                if str(error) not in told:
                    yield error
                told.add(str(error))
