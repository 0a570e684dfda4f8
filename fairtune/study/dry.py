"""What a study can tell, and cost, before the bill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fairtune.adaptation.placement import DIRECT, METHOD
from fairtune.config.registry import name_of
from fairtune.evaluation.power import outlook
from fairtune.experiment.text_facts import text_facts, text_words
from fairtune.mitigation import MITIGATIONS as REGISTRY
from fairtune.study.bill import baseline_runs, bill, confirm_runs, control_runs, reached
from fairtune.study.checks import members_of
from fairtune.study.edit_fitting import edit_bill
from fairtune.study.fields import MASK, MITIGATIONS
from fairtune.study.ground import validation_table
from fairtune.study.plan import Plan

if TYPE_CHECKING:
    from fairtune.training.session import Session


def estimate(plan: Plan, session: Session) -> str:
    """Return groups, what can be told from them, the size of the space and the hours, as text.

    Where a frozen model is asked, a batch of it is timed. Else one step is, of all units that the
    fixed mask or a baseline trains or, where masks are searched, of every unit trained directly,
    with nothing kept of frozen blocks: an upper bound for all but the adapters that cost more than
    what they stand for. What a mitigation costs besides is said beside it. An endpoint is not
    asked, so nothing of it is timed.
    """
    study, ground = plan.study, session.ground(plan.base)
    predictions = validation_table(plan, session)
    lines = [f"study {study.name}: nothing is trained by --dry-run"]
    for name in predictions.attributes:
        found = outlook(
            predictions,
            name,
            minimum=study.judge.validation.minimum,
            trials=study.budget.trials,
        )
        folds = study.judge.validation.folds
        lines.append(f"{name} (validation{f', {folds} folds together' if folds > 1 else ''}):")
        for g in found.groups:
            mark = "" if g.eligible else "  too small to count"
            lines.append(
                f"  {g.group}: n {g.n}, patients {g.patients} (effective {g.effective:.0f}), "
                f"positives {g.positives}, SE of the AUC {g.se:.3f}{mark}"
            )
        if found.smallest_gap is not None and found.optimism is not None:
            lines.append(
                f"  smallest gap told from noise with 80 % power: {found.smallest_gap:.3f}"
            )
            lines.append(
                f"  expected optimism of the best of {found.trials}: {found.optimism:.3f}"
            )
        lines.append(f"  {found.sentence}")
    dims = plan.dimensions()
    lines.append(f"space: {len(dims)} parameters")
    lines += text_words(text_facts(ground, plan.base), plan.base.usage)
    if not ground.backbone.differentiable:
        return "\n".join([*lines, _unasked(plan), *edit_bill(plan, session), bill(plan)])
    per_run = _run_seconds(plan, session) * study.judge.validation.folds
    baselines, controls, confirm = baseline_runs(plan), control_runs(study), confirm_runs(study)
    # A trial of search and control rises through the levels, the others are at the last one.
    price = study.fidelity.price
    total = baselines + confirm + price * (study.budget.trials + controls)
    control = f"{controls} control + " if controls else ""
    lines.append(
        f"runs: {baselines} baseline + {study.budget.trials} search + {control}"
        f"{confirm} confirm; at most {per_run / 60:.1f} minutes each on "
        f"{ground.device}, {total * per_run / 3600:.1f} hours in all, without pruning"
    )
    lines += _dearer(plan)
    lines += edit_bill(plan, session)
    if study.fidelity.values:
        lines.append(
            f"levels of {study.fidelity.name}: a trial of the search that is pruned at none costs "
            f"about {price:.2f} such runs"
        )
    lines.append(bill(plan))
    trials = reached(study.budget, price * per_run)
    if trials < study.budget.trials:
        lines.append(
            f"one device gets through about {trials} of {study.budget.trials} trials before the "
            "budget of time ends the search, without pruning"
        )
    return "\n".join(lines)


def _unasked(plan: Plan) -> str:
    return (
        f"runs: {baseline_runs(plan)} baseline + {plan.study.budget.trials} search + "
        f"{confirm_runs(plan.study)} confirm; how long they take is not known, as the endpoint of "
        f"model '{plan.base.model.name}' is asked for nothing by --dry-run"
    )


def _dearer(plan: Plan) -> Iterator[str]:
    """Yield what mitigations of the study cost besides the steps of a plain run."""
    searched = [member.name for member in members_of(plan.space.get(MITIGATIONS))]
    fixed = [name_of(member) for member in plan.base.mitigations]
    for name in sorted({*searched, *fixed}):
        costs: str | None = getattr(REGISTRY.get(name), "costs", None)
        if costs is not None:
            yield f"not in these minutes: with {name} {costs}"


def _run_seconds(plan: Plan, session: Session) -> float:
    """Return the seconds of a run on one fold: of all steps, or of one pass over its rows."""
    ground, base = session.ground(plan.base), plan.base
    rows = len(ground.fit_rows(base))
    if base.usage.fits in ("head", "nothing"):
        return _row_seconds(plan, session) * (rows + len(ground.val_rows(base)))
    steps = -(-rows // base.optim.batch_size)
    return _step_seconds(plan, session) * steps * base.optim.epochs


def _row_seconds(plan: Plan, session: Session) -> float:
    """Return the seconds in which a row is scored by the frozen model."""
    from fairtune.training.net import build_net
    from fairtune.training.passes import score_rows
    from fairtune.training.recipe import Seeds

    ground, base = session.ground(plan.base), plan.base
    net, _ = build_net(base, Seeds(), ground)
    rows = ground.val_rows(base)[:128]
    text = ground.scored_text(base, net)
    times = []
    for _ in range(2):
        loader = ground.loader(rows, len(rows), edit=None, text=text)
        began = time.perf_counter()
        score_rows(net, loader, ground.scorer(base), ground.autocast(base))
        times.append(time.perf_counter() - began)
    return min(times) / len(rows)


def _step_seconds(plan: Plan, session: Session) -> float:
    from fairtune.training.lane import Lane
    from fairtune.training.recipe import Seeds

    ground = session.ground(plan.base)
    values: dict[str, Any] = {"optim.lr": 1e-5, MITIGATIONS: []}
    every = set(plan.mask(plan.base).units)
    for name in plan.study.baselines.of:
        every |= set(plan.mask(plan.baseline(name)).units)
    if plan.space.get(MASK) is not None or not every:
        every = set(plan.units.names)
    if every != set(plan.mask(plan.base).units):
        values |= {MASK: [name for name in plan.units.names if name in every], METHOD: DIRECT}
    held, ground.reuse = ground.reuse, False
    try:
        lane = Lane(plan.recipe(values), Seeds(), ground)
    finally:
        ground.reuse = held
    times = []
    for i, batch in enumerate(lane.loader.epoch()):
        began = time.perf_counter()
        float(lane.step(batch))
        times.append(time.perf_counter() - began)
        if i == 3:
            break
    return min(times)
