"""Retrain a study's pick and its confirmed baselines, test them once, write the final phase."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fairtune import store
from fairtune.errors import DataError, FairtuneError, StudyError
from fairtune.evaluation.objectives import Objective
from fairtune.experiment.gate import Gate, Opening
from fairtune.experiment.masks import with_edit
from fairtune.experiment.stored import PAID, USED, StoredRun
from fairtune.mitigation.post import post_processing
from fairtune.study.exports import EXPORTS, Export
from fairtune.study.ledger import Ledger
from fairtune.study.outcome import FINAL_SET, Outcome
from fairtune.study.overview import Candidate, Overview
from fairtune.study.plan import seeds_of
from fairtune.study.rows import FINAL, Proposal
from fairtune.study.select import best_searched, picked
from fairtune.training.recipe import Recipe

if TYPE_CHECKING:
    from fairtune.experiment.finetune import Entry, Finetuned
    from fairtune.experiment.run import Watcher
    from fairtune.training.session import Session

OPENING = "opening:"
Rows = Literal["train", "train+val"]


@dataclass(frozen=True)
class Wanted:
    """What a user asks to be retrained.

    Attributes:
        rule: Selection rule; None takes the study's.
        trial: Number of a search trial to take instead of the rule's pick, counted from 1.
        recipe: A recipe to take instead (from `--mask`), resolved.
        edit: Edit file whose edit takes the place of the pick's own; the pick as it was is
            retrained beside it.
        rows: Rows to fit on.
        seeds: Fresh seeds for each recipe.
    """

    rule: str | None = None
    trial: int | None = None
    recipe: Recipe | None = None
    edit: str | None = None
    rows: Rows = "train"
    seeds: int = 3


def finetune_study(
    view: Overview,
    session: Session,
    wanted: Wanted,
    *,
    command: str,
    watch: Callable[[str, int, int], Watcher] | None = None,
) -> Outcome:
    """Retrain, test once, store the final rows and files; return the outcome.

    Writes metrics.json and results.csv into the study's folder.

    Raises:
        StudyError: Nothing to pick from, or a run was stopped; the test then stays closed.
    """
    from fairtune.experiment.finetune import finetune

    chosen, candidates = choose(view, wanted)
    entries = [_entry(view, c, wanted) for c in candidates]
    with Ledger.open(view.place.url, view.place.name) as ledger:

        def record(opening: Opening) -> None:
            ledger.set_attr(f"{OPENING}{opening.when}", asdict(opening), phase=FINAL)

        def recorded() -> list[Opening]:
            told = ledger.attrs(FINAL)
            return [Opening.of(told[name]) for name in told if name.startswith(OPENING)]

        made = finetune(
            entries,
            session,
            view.runs,
            view.judge,
            Gate(view.place.out, record, recorded),
            command=command,
            study=view.place.name,
            watch=watch,
        )
        _write_rows(ledger, view, entries, made, candidates)
        taken = _final_set(made, chosen, candidates) | {"rule": _rule(view, wanted)}
        ledger.set_attr(FINAL_SET, taken, phase=FINAL)
    outcome = Outcome.load(Overview.load(view.place))
    assert outcome is not None
    text = json.dumps(outcome.to_json(), indent=1, allow_nan=False)
    store.write_atomic(view.place.folder / "metrics.json", text.encode())
    for name in EXPORTS:
        export = EXPORTS.parse(name)
        assert isinstance(export, Export)
        store.write_atomic(view.place.folder / export.file, export.text(outcome).encode())
    return outcome


def choose(view: Overview, wanted: Wanted) -> tuple[Candidate, list[Candidate]]:
    """Return the pick and what to retrain with it: the search's best, baselines, the control.

    Raises:
        StudyError: There is nothing to pick from, or no such trial.
        ModelError: The edit cannot be read.
    """
    chosen, others = _chosen(view, wanted)
    if wanted.edit is None:
        return chosen, others
    recipe = with_edit(chosen.recipe, wanted.edit)
    edited = Candidate("search-edit", recipe.identity(), recipe, -1, float("nan"))
    return edited, [edited, *(c for c in others if c.digest != edited.digest)]


def _chosen(view: Overview, wanted: Wanted) -> tuple[Candidate, list[Candidate]]:
    candidates = view.candidates()
    sign = view.judge.primary.sign
    references = [c for c in candidates if c.is_baseline or c.is_control]
    if wanted.recipe is not None:
        digest = wanted.recipe.identity()
        given = Candidate("search-mask", digest, wanted.recipe, -1, float("nan"))
        return given, [given, *(c for c in references if c.digest != digest)]
    if wanted.trial is not None:
        return _trial(view, wanted.trial, references)
    chosen = picked(view, candidates, wanted.rule)
    searched = best_searched(candidates, sign)
    others = [c for c in (searched, *references) if c is not None and c is not chosen]
    return chosen, [chosen, *others]


def _trial(
    view: Overview, number: int, references: Sequence[Candidate]
) -> tuple[Candidate, list[Candidate]]:
    from fairtune.config import parse
    from fairtune.study.rows import SEARCH, results

    done = {row.number + 1: row for row in results(view.rows[SEARCH])}
    if number not in done:
        raise StudyError(
            "no finished trial of that number",
            found=number,
            allowed=sorted(done) or "none is finished",
        )
    row = done[number]
    assert row.values is not None
    recipe = parse(Recipe, dict(row.recipe))
    given = Candidate(f"search-trial-{number}", row.digest, recipe, row.number, row.values[0])
    return given, [given, *(c for c in references if c.digest != row.digest)]


def _entry(view: Overview, candidate: Candidate, wanted: Wanted) -> Entry:
    from fairtune.experiment.finetune import Entry, median_run, seeds_for, taken_over

    recipe, threshold, post = candidate.recipe, None, None
    if wanted.rows == "train+val":
        if not candidate.runs:
            raise StudyError(
                "train+val takes epochs and threshold from confirm runs, and there are none",
                found=candidate.label,
                todo="use --on train, or let the study confirm this recipe",
            )
        epochs = statistics.median_low(view.judge.epoch_of(run) for run in candidate.runs)
        threshold = _median_threshold(candidate.runs)
        if post_processing(recipe.mitigations):
            # Rules of several runs have no median: those of the median run, with its threshold.
            threshold, post = taken_over(median_run(candidate.runs, view.judge))
        recipe = recipe.model_copy(
            update={
                "fit": recipe.fit.model_copy(update={"rows": "train+val"}),
                "optim": recipe.optim.model_copy(update={"epochs": epochs}),
            }
        )
    digest = recipe.identity()
    count = seeds_for(recipe, wanted.seeds)
    seeds = tuple(seeds_of(view.seed, FINAL, digest, i) for i in range(count))
    return Entry(candidate.label, recipe, seeds, threshold, post)


def _median_threshold(runs: Sequence[StoredRun]) -> float | tuple[float, ...] | None:
    cuts = [run.operating["threshold"] for run in runs]
    if cuts[0] is None:
        return None
    if isinstance(cuts[0], list):
        return tuple(statistics.median(column) for column in zip(*cuts))
    return float(statistics.median(cuts))


def _rule(view: Overview, wanted: Wanted) -> str:
    """Return in words how the pick was found."""
    edited = "" if wanted.edit is None else ", with an edit that was given"
    if wanted.recipe is not None:
        return f"a mask that was given{edited}"
    if wanted.trial is not None:
        return f"trial {wanted.trial}{edited}"
    return (wanted.rule or str(view.settings["select"])) + edited


def _final_set(made: Finetuned, chosen: Candidate, candidates: Sequence[Candidate]) -> Any:
    baseline = {c.label: c.is_baseline for c in candidates}
    return {
        "pick": chosen.label,
        "openings": made.openings,
        "entries": [
            {
                "label": label,
                "keys": [run.key for run in runs],
                "deploy": made.deploy[label].key,
                "is_baseline": baseline[label],
            }
            for label, runs in made.runs.items()
        ],
    }


def _write_rows(
    ledger: Ledger,
    view: Overview,
    entries: Sequence[Entry],
    made: Finetuned,
    candidates: Sequence[Candidate],
) -> None:
    known = {row.key for row in ledger.rows(FINAL)}
    for entry in entries:
        for i, run in enumerate(made.runs[entry.label]):
            if run.key in known:
                continue
            proposal = Proposal(
                kind=FINAL,
                params={},
                dimensions={},
                recipe=entry.recipe.to_json(),
                digest=entry.recipe.identity(),
                key=run.key,
                seed=entry.seeds[i].to_json(),
                replicate=i,
                attrs={"label": entry.label},
            )
            try:
                figures = test_figures(view, run)
            except DataError:
                continue  # too few test rows for the objective: the verdict says so
            values = [figures.pop(str(objective)) for objective in view.judge.objectives]
            costs = {name: run.costs[name] for name in (USED, PAID) if name in run.costs}
            told = {f"test/{name}": value for name, value in figures.items()}
            ledger.append_final(proposal, values, told | costs)


def test_figures(view: Overview, run: StoredRun) -> dict[str, float]:
    """Return the objective, AUC, worst AUC and AUC gap per attribute of one run on test.

    Raises:
        DataError: The primary objective cannot be computed on test.
    """
    from fairtune.evaluation.scoring import evaluate_objectives
    from fairtune.study.execute import group_figures
    from fairtune.study.outcome import _threshold

    predictions, judge = run.test(), view.judge
    figures = evaluate_objectives(
        predictions,
        judge.objectives,
        minimum=judge.validation.minimum,
        threshold=_threshold(run),
    )
    return figures | group_figures(predictions, judge)


def test_table(outcome: Outcome) -> str:
    """Return the test figures of every recipe as a text table: means over the seeds."""
    view = outcome.view
    heads = [str(view.judge.primary), "auc"]
    for name in view.base.data.attributes:
        heads += [f"worst_auc@{name}", f"auc_gap@{name}"]
    heads = list(dict.fromkeys(heads))
    rows = []
    for label, tested in outcome.tested.items():
        cells = []
        for head in heads:
            try:
                cells.append(f"{tested.mean(view, Objective.parse(head)):.3f}")
            except FairtuneError:
                cells.append("n/a")
        mark = "* " if label == outcome.pick else "  "
        rows.append([mark + label, str(len(tested.runs)), *cells])
    table = [["  recipe", "seeds", *heads], *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in table]
    return "\n".join(["test split, mean over seeds (* = pick)", *lines])
