"""Whether the edits of a study can be made on its data and model; tried before anything runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fairtune.errors import FairtuneError
from fairtune.study.bill import control_runs
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


def edit_bill(plan: Plan, session: Session) -> list[str]:
    """Return the most that edits of the study ask of the model, and how long that takes here.

    Every trial is taken to need an edit of its own; confirm runs and baselines need none. One
    batch is timed, of a model that is here; an endpoint is asked for nothing.
    """
    found = [rule for _, rule in edit_rules(plan)]
    ground = session.ground(plan.base)
    rows = len(ground.fit_rows(plan.base))
    asked = [asks for rule in found if (asks := rule.asks(rows)).queries]
    if not asked:
        return []
    most = max(asked, key=lambda asks: asks.queries)
    study = plan.study
    runs = study.judge.validation.folds * max(1, len(study.fidelity.values))
    searched = plan.space.get(EDIT) is not None
    trials = study.budget.trials + control_runs(study) if searched else 1
    lines = [
        f"edits: one asks the model at most {most.queries:,} batches of {most.images} images "
        f"({most.heads:,} of them for its first heads); at most {trials * runs:,} edits, "
        f"{trials * runs * most.queries:,} queries in all"
    ]
    if ground.backbone.differentiable:
        forward, backward = _pass_seconds(plan, session, most.images)
        longest = max(asks.seconds(forward, backward) for asks in asked)
        lines.append(
            f"  that takes at most {longest / 60:.1f} minutes an edit on {ground.device}, "
            f"{trials * runs * longest / 3600:.1f} hours in all, not in the hours above"
        )
    return lines


def _pass_seconds(plan: Plan, session: Session, images: int) -> tuple[float, float]:
    """Return the seconds of an image in a forward pass, and in a forward and backward pass."""
    import torch

    from fairtune.training.edits import scene_of

    ground = session.ground(plan.base)
    scene = scene_of(ground, plan.base)
    batch = scene.image(scene.rows[:images])
    times: list[list[float]] = [[], []]
    for gradient, spent in enumerate(times):
        for _ in range(3):
            began = time.perf_counter()
            edit = torch.zeros_like(batch[0], requires_grad=bool(gradient))
            with torch.set_grad_enabled(bool(gradient)):
                said = scene.embed(batch + edit).sum()
            if gradient:
                said.backward()  # type: ignore[no-untyped-call]
            float(said.detach())
            spent.append(time.perf_counter() - began)
    forward, backward = (min(spent) / len(batch) for spent in times)
    return forward, backward
