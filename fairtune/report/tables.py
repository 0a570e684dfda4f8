"""Everything the page shows, as tidy tables; figures read nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from fairtune.errors import FairtuneError
from fairtune.evaluation.compare import gap_change
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.optimism import Corrected
from fairtune.experiment.stored import StoredRun
from fairtune.report.calibration import calibration_frame
from fairtune.report.costs import cost_frame
from fairtune.report.crossings import crossing_frame
from fairtune.report.curves import roc_frame
from fairtune.report.effects import Effects, mask_effects
from fairtune.report.front import axes_of, bar_frame, objective_frame, point_frame
from fairtune.report.importance import importance_frame
from fairtune.report.mitigations import choice_frame, term_frame
from fairtune.report.network import network_frame
from fairtune.report.operating import benefit_frame, operating_frame
from fairtune.report.scored import (
    Scored,
    attributes_of,
    group_frame,
    metrics_of,
    on_test,
    on_validation,
)
from fairtune.report.summary import Summary, chosen, summarise
from fairtune.report.trials import epoch_frame, mask_frame, trial_frame
from fairtune.study.outcome import Outcome, harmless
from fairtune.study.overtuning import overtuning_frame
from fairtune.study.overview import Candidate, Overview
from fairtune.study.select import corrected


@dataclass(frozen=True, eq=False)
class Tables:
    """A study as tidy tables.

    Attributes:
        summary: Verdict, pick, warnings: what is said in words.
        objective: The primary objective.
        axes: What is drawn against each other, see `front.axes_of`.
        attributes: Attributes in the order of the page.
        split: Split that `groups` and `roc` speak of: `test`, or `validation` while it is closed.
        trials: See `trials.trial_frame`.
        masks, switches: See `trials.mask_frame`.
        candidates: Per recipe: `label`, `is_baseline`, `pick`, `searched`, `confirmed`,
            `confirm_seeds`, `corrected`, `test`, `test_seeds`, `degenerate`, `lr`, `share`.
        groups: See `scored.group_frame`; rows of the shown models on `split`; then, on
            validation and in brief, of the other candidates, for their intervals.
        objectives: See `front.objective_frame`.
        differences: Per baseline: `value`, `low`, `high` (95 %), `holm_low`, `holm_high`, `p`,
            `patients`; the primary objective, better counted up. Empty while the test is closed.
        harm: Per baseline, attribute and group: the change against the baseline.
        delta: Loss of a group that counts as none.
        gaps: Per baseline and attribute: `sentence`, where the change of the gap comes from.
        points, bars: See `front.point_frame` and `front.bar_frame`.
        effects: See `effects.mask_effects`.
        importance: See `importance.importance_frame`.
        overtuning: See `study.overtuning.overtuning_frame`.
        network: See `network.network_frame`; the pick.
        roc: See `curves.roc_frame`; the pick.
        calibration: See `calibration.calibration_frame`; the pick.
        operating: See `operating.operating_frame`; every shown recipe.
        benefit: See `operating.benefit_frame`; the pick.
        crossings: See `crossings.crossing_frame`; the pick.
        epochs: See `trials.epoch_frame`; the pick.
        costs: See `costs.cost_frame`.
        mitigations: See `mitigations.choice_frame`.
        terms: See `mitigations.term_frame`.
        run: The run of the pick that `groups` and `roc` speak of, or None.
    """

    summary: Summary
    objective: Objective
    axes: tuple[Objective, ...]
    attributes: tuple[str, ...]
    split: str
    trials: pd.DataFrame
    masks: pd.DataFrame
    switches: pd.DataFrame
    candidates: pd.DataFrame
    groups: pd.DataFrame
    objectives: pd.DataFrame
    differences: pd.DataFrame
    harm: pd.DataFrame
    delta: float
    gaps: pd.DataFrame
    points: pd.DataFrame
    bars: pd.DataFrame
    effects: Effects | None
    importance: pd.DataFrame
    overtuning: pd.DataFrame
    network: pd.DataFrame
    roc: pd.DataFrame
    calibration: pd.DataFrame
    operating: pd.DataFrame
    benefit: pd.DataFrame
    crossings: pd.DataFrame
    epochs: pd.DataFrame
    costs: pd.DataFrame
    mitigations: pd.DataFrame
    terms: pd.DataFrame
    run: StoredRun | None

    @property
    def pick_digest(self) -> str | None:
        """Identity of the picked recipe, or None."""
        return None if self.run is None else str(self.run.card["digest"])

    @property
    def outcome(self) -> pd.DataFrame:
        """The rows of `groups` that the outcome tables show: those of `split`, in full."""
        return self.groups if not len(self.groups) else self.groups[~self.groups["brief"]]

    def figures(self, metric: str, attribute: str | None, recipe: str) -> pd.DataFrame:
        """Return the rows of `groups` on the shown split for one metric, attribute, recipe."""
        g = self.outcome
        if not len(g):
            return g
        own = g[(g["metric"] == metric) & (g["recipe"] == recipe)]
        return own[own["attribute"].isna() if attribute is None else own["attribute"] == attribute]


def load(view: Overview) -> Tables:
    """Compute the tables of a study from what is stored.

    Raises:
        StudyError: Runs of the tested set are missing.
    """
    outcome = Outcome.load(view)
    candidates = view.candidates()
    pick = chosen(view, candidates, outcome)
    known = [on_validation(view, c) for c in candidates]
    seen = {m.label: m for m in known if m is not None}
    shown = _shown(candidates, outcome, pick, seen)
    axes, attributes = axes_of(view), attributes_of(view)
    groups = _groups(view, shown, list(seen.values()), axes)
    model = next((m for m in shown if m.label == pick), None)
    masks, switches = mask_frame(view)
    fix = _corrected(view, candidates)
    first = attributes[0]
    return Tables(
        summary=summarise(view, candidates, outcome),
        objective=view.judge.primary,
        axes=axes,
        attributes=tuple(attributes),
        split="validation" if outcome is None else "test",
        trials=trial_frame(view),
        masks=masks,
        switches=switches,
        candidates=candidate_frame(view, candidates, outcome, pick, fix),
        groups=groups,
        objectives=objective_frame(view, candidates),
        differences=difference_frame(outcome),
        harm=harm_frame(outcome),
        delta=harmless(view.judge),
        gaps=gap_frame(outcome),
        points=point_frame(view, axes),
        bars=bar_frame(groups, axes),
        effects=mask_effects(view),
        importance=importance_frame(view),
        overtuning=overtuning_frame(view, outcome),
        network=_none() if model is None else network_frame(model.run.recipe, view.units),
        roc=_none() if model is None else roc_frame(view, model, first),
        calibration=_none() if model is None else calibration_frame(view, model, first),
        operating=operating_frame(view, shown, attributes),
        benefit=_none() if model is None else benefit_frame(view, model, first),
        crossings=_none() if model is None else crossing_frame(view, model),
        epochs=epoch_frame({pick: _runs(pick, candidates, outcome, model)}) if pick else _none(),
        costs=cost_frame(view),
        mitigations=choice_frame(view),
        terms=term_frame(view),
        run=None if model is None else model.run,
    )


def _shown(
    candidates: list[Candidate], outcome: Outcome | None, pick: str | None, seen: dict[str, Scored]
) -> list[Scored]:
    """Return the models told in full: what was tested, else the pick and the baselines."""
    if outcome is not None:
        return [on_test(tested) for tested in outcome.tested.values()]
    shown = [m for c in candidates if (m := seen.get(c.label)) and _is_shown(c, pick)]
    return sorted(shown, key=lambda m: m.label != pick)


def _groups(
    view: Overview, shown: list[Scored], seen: list[Scored], axes: tuple[Objective, ...]
) -> pd.DataFrame:
    minimum = view.judge.validation.minimum
    both = group_frame(shown, metrics_of(view), attributes_of(view), minimum)
    # Validation is drawn against utility whatever is open; what is shown already is not repeated.
    rest = [m for m in seen if all(m is not other for other in shown)]
    if rest:
        heads, by = [a.head for a in axes], [a.attribute for a in axes if a.attribute]
        both = pd.concat([both, group_frame(rest, heads, by, minimum, brief=True)])
    return both.reset_index(drop=True)


def _none() -> pd.DataFrame:
    return pd.DataFrame()


def _is_shown(candidate: Candidate, pick: str | None) -> bool:
    return candidate.is_baseline or candidate.label in (pick, "search-1")


def _runs(
    pick: str, candidates: list[Candidate], outcome: Outcome | None, model: Scored | None
) -> list[StoredRun]:
    if outcome is not None:
        return list(outcome.tested[pick].runs)
    confirmed = [run for c in candidates if c.label == pick for run in c.runs]
    return list(confirmed) or ([] if model is None else [model.run])


def _corrected(view: Overview, candidates: list[Candidate]) -> Corrected | None:
    # Too few patients to leave any out of the bag: then there is no correction to show.
    try:
        return corrected(view, candidates)
    except FairtuneError:
        return None


def candidate_frame(
    view: Overview,
    candidates: list[Candidate],
    outcome: Outcome | None,
    pick: str | None,
    fix: Corrected | None,
) -> pd.DataFrame:
    """Return validation, corrected, confirmed and test values of every recipe side by side."""
    rows = []
    tested = {} if outcome is None else dict(outcome.tested)
    for c in candidates:
        made = tested.pop(c.label, None)
        recipe = c.recipe
        rows.append(
            {
                "label": c.label,
                "is_baseline": c.is_baseline,
                "pick": c.label == pick,
                "searched": c.searched,
                "confirmed": c.confirmed,
                "confirm_seeds": len(c.values),
                "corrected": fix.corrected if fix and fix.pick == c.label else None,
                "test": None if made is None else made.known(view, view.judge.primary),
                "test_seeds": 0 if made is None else len(made.runs),
                "degenerate": c.degenerate,
                "lr": None if recipe.solved else recipe.optim.lr,
            }
        )
    for made in tested.values():
        rows.append(
            {
                "label": made.label,
                "is_baseline": made.is_baseline,
                "pick": made.label == pick,
                "confirm_seeds": 0,
                "test": made.known(view, view.judge.primary),
                "test_seeds": len(made.runs),
                "lr": made.runs[0].recipe.optim.lr,
            }
        )
    columns = [
        "label", "is_baseline", "pick", "searched", "confirmed", "confirm_seeds", "corrected",
        "test", "test_seeds", "degenerate", "lr",
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    numeric = ["searched", "confirmed", "corrected", "test", "lr"]
    frame[numeric] = frame[numeric].astype(float)
    frame[["is_baseline", "pick"]] = frame[["is_baseline", "pick"]].astype(bool)
    return frame.sort_values("pick", ascending=False, kind="stable").reset_index(drop=True)


def difference_frame(outcome: Outcome | None) -> pd.DataFrame:
    """Return the difference of the pick to each baseline with its bounds."""
    columns = [
        "baseline", "value", "low", "high", "holm_low", "holm_high", "p", "patients", "speaks_of",
    ]  # fmt: skip
    if outcome is None:
        return pd.DataFrame(columns=columns)
    try:
        differences, bounds = outcome.differences, outcome.bounds
    except FairtuneError:
        return pd.DataFrame(columns=columns)
    name = str(outcome.view.judge.primary)
    rows = []
    for label, d in differences.items():
        b = bounds[f"{name} vs {label}"]
        rows.append((label, d.value, d.low, d.high, b.low, b.high, b.p, b.patients, b.speaks_of))
    return pd.DataFrame(rows, columns=columns)


def harm_frame(outcome: Outcome | None) -> pd.DataFrame:
    """Return the change of every group against every baseline."""
    rows = [
        {"reference": label, "attribute": attribute, **asdict(change)}
        for (label, attribute), changes in ({} if outcome is None else outcome.harms).items()
        for change in changes
    ]
    columns = [
        "reference", "attribute", "group", "baseline", "pick", "change", "low", "high",
        "harmed", "certain", "n",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def gap_frame(outcome: Outcome | None) -> pd.DataFrame:
    """Return in words where the change of each gap comes from."""
    rows = []
    for (label, attribute), changes in ({} if outcome is None else outcome.harms).items():
        assert outcome is not None
        if len(changes) > 1:
            moved = gap_change(changes, outcome.harm_metric)
            rows.append((label, attribute, str(moved), moved.levelling_down))
    columns = ["reference", "attribute", "sentence", "levelling_down"]
    return pd.DataFrame(rows, columns=columns)
