"""What the page says first: the verdict in words, the pick, and what to beware of."""

from __future__ import annotations

from dataclasses import dataclass

from fairtune.errors import FairtuneError
from fairtune.report.usage import text_warnings_of
from fairtune.report.words import objective_words, prose
from fairtune.study.final import OPENING
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Candidate, Overview
from fairtune.study.rank import DEGENERATE
from fairtune.study.rows import SEARCH, current, results
from fairtune.study.select import picked

CLOSED = "not tested yet"


@dataclass(frozen=True)
class Summary:
    """The verdict and its circumstances.

    Attributes:
        study: Name of the study.
        answer: `yes`, `no`, `cannot tell`, or `not tested yet`.
        headline: The answer as a sentence.
        why: The reason.
        patients_needed: About how many patients would settle it, where that is known.
        pick: Label of the picked recipe, or None when there is none.
        rule: Selection rule.
        openings: How often the test split was opened.
        speaks_of: `this method` or `this model`; empty while nothing was compared.
        warnings: What a reader must know before relying on a figure.
    """

    study: str
    answer: str
    headline: str
    why: str
    patients_needed: int | None
    pick: str | None
    rule: str
    openings: int
    speaks_of: str
    warnings: tuple[str, ...]


def openings_of(view: Overview) -> list[str]:
    """Return when this study opened the test, in order of time."""
    told = [v for name, v in view.attrs.items() if name.startswith(OPENING)]
    return sorted(str(opening["when"]) for opening in told)


def chosen(view: Overview, candidates: list[Candidate], outcome: Outcome | None) -> str | None:
    """Return the label of the picked recipe: the tested one, else the rule's, else None."""
    if outcome is not None:
        return outcome.pick
    try:
        return picked(view, candidates).label
    except FairtuneError:
        return None


def summarise(view: Overview, candidates: list[Candidate], outcome: Outcome | None) -> Summary:
    """Return the verdict in words with every warning that applies."""
    label = chosen(view, candidates, outcome)
    warnings = tuple(_warnings(view, candidates, outcome, label))
    study, rule = view.place.name, str(view.settings["select"])
    if outcome is None:
        headline, why = _closed(view, candidates, label)
        openings = len(openings_of(view))
        return Summary(study, CLOSED, headline, why, None, label, rule, openings, "", warnings)
    found = outcome.verdict
    return Summary(
        study,
        found.answer,
        _headline(found.answer, outcome),
        prose(found.why),
        found.patients_needed,
        label,
        outcome.rule,
        outcome.openings,
        _speaks_of(outcome),
        warnings,
    )


def _headline(answer: str, outcome: Outcome) -> str:
    words = objective_words(outcome.view.judge.primary)
    several = len(outcome.baselines) > 1
    against = "every baseline" if several else "the baseline"
    if outcome.tested[outcome.pick].is_baseline:
        return f"No: a baseline, {outcome.pick}, did best on validation."
    return {
        "yes": f"Yes: on test patients the pick does better than {against} on {words}.",
        "no": f"No: on test patients the pick does worse than a baseline on {words}.",
        "cannot tell": "Cannot tell: these test patients do not show whether the pick does "
        f"better than {against} on {words}.",
    }[answer]


def _closed(view: Overview, candidates: list[Candidate], label: str | None) -> tuple[str, str]:
    headline = "The test is still closed: there is no verdict yet."
    words = objective_words(view.judge.primary)
    if not candidates:
        return headline, "No recipe is finished yet."
    if label is None:
        return headline, "Every recipe is degenerate: there is nothing to pick."
    return headline, (
        f"By the rule '{view.settings['select']}' validation picks {label} on {words}. Validation "
        "chose it, so its own figures there are too good; `fairtune finetune --study "
        f"{view.place.name}` retrains it and the baselines and opens the test once."
    )


def _speaks_of(outcome: Outcome) -> str:
    seeds = min((len(t.runs) for t in outcome.tested.values() if not t.fixed), default=2)
    return "this method" if seeds > 1 else "this model"


def _warnings(
    view: Overview, candidates: list[Candidate], outcome: Outcome | None, label: str | None
) -> list[str]:
    found: list[str] = []
    if view.base.model.weights == "none":
        found.append(
            "The network started from random weights, not from a pretrained model: its figures "
            "say nothing about a foundation model."
        )
    if outcome is not None:
        found += _tested(outcome)
    if candidates and not any(c.runs for c in candidates):
        found.append(
            "Nothing was confirmed with fresh seeds: validation figures are those the search "
            "itself chose by, and read too well."
        )
    if outcome is None and any(c.label == label and c.is_baseline for c in candidates):
        found.append(f"The pick is a baseline ({label}): the search found nothing better.")
    confirmed = [len(c.runs) for c in candidates if c.runs and not c.recipe.scored]
    if outcome is None and min(confirmed, default=0) == 1:
        found.append("One confirm seed per recipe: the figures speak of this model only.")
    found += _degenerate(view, candidates, label)
    found += _of_texts(candidates, outcome)
    return found + _unfinished(view)


def _of_texts(candidates: list[Candidate], outcome: Outcome | None) -> list[str]:
    """Return what texts or prompts give away, each with the recipes that it is said of."""
    runs = {c.label: c.runs[0] for c in candidates if c.runs}
    if outcome is not None:
        runs |= {label: tested.runs[0] for label, tested in outcome.tested.items()}
    said: dict[str, list[str]] = {}
    for label, run in runs.items():
        for why in text_warnings_of(run):
            said.setdefault(why, []).append(label)
    return [f"{', '.join(labels)}: {why}" for why, labels in said.items()]


def _tested(outcome: Outcome) -> list[str]:
    found = []
    if outcome.openings > 1:
        found.append(
            f"The test split was opened {outcome.openings} times. Whatever was chosen after an "
            "earlier opening has seen it: treat the intervals as too narrow."
        )
    if outcome.tested[outcome.pick].is_baseline:
        found.append(f"The pick is a baseline ({outcome.pick}): the search found nothing better.")
    if _speaks_of(outcome) == "this model":
        found.append(
            "One seed per recipe: the figures speak of this model, not of the method behind it."
        )
    if any(t.runs[0].recipe.fit.rows != "train" for t in outcome.tested.values()):
        found.append("The tested models were fitted on training and validation patients.")
    return found


def _degenerate(view: Overview, candidates: list[Candidate], label: str | None) -> list[str]:
    found = []
    if constant := [c.label for c in candidates if c.unusable]:
        found.append(
            f"Degenerate when run again, so never picked: {', '.join(constant)}. A model that "
            "says the same of everyone has no gap and helps nobody."
        )
    if chance := [c.label for c in candidates if c.degenerate and not c.unusable]:
        found.append(
            f"On these validation patients the AUC cannot be told from chance: {', '.join(chance)}"
            + (". That is so of the pick." if label in chance else ".")
        )
    rows = {r.digest for r in results(view.rows[SEARCH]) if r.attrs.get(DEGENERATE)}
    if rows:
        found.append(
            f"{len(rows)} recipe(s) of the search gave degenerate predictions (constant scores, "
            "one class, or an AUC that cannot be told from 0.5) and are ranked last."
        )
    return found


def _unfinished(view: Overview) -> list[str]:
    found = []
    running = sum(r.state == "running" for rows in view.rows.values() for r in rows)
    if running:
        found.append(f"{running} run(s) were still going on when this page was written.")
    mine = current(view.rows[SEARCH]).values()
    failed = sum(r.state == "failed" for r in mine)
    if failed:
        found.append(f"{failed} of {len(mine)} trials of the search failed and have no figure.")
    return found
