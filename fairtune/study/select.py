"""Which recipe is picked, and what its validation value is worth after the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairtune.errors import StudyError
from fairtune.evaluation.optimism import Corrected, bias_corrected
from fairtune.evaluation.predictions import Predictions
from fairtune.study.contest import Confirmed, Reading
from fairtune.study.overview import Candidate, Overview
from fairtune.study.rank import ranked
from fairtune.study.rows import SEARCH
from fairtune.study.selection import Choice, Contest, picks, rule_of

BEST = "best"

RIVALS = 30
"""Recipes of a search that could have won on other patients: the best so many."""


def pick(candidates: Sequence[Candidate], sign: int) -> Candidate:
    """Return the candidate that the rule `best` picks.

    The best mean of the confirm runs, baselines included; where nothing was confirmed, the best
    value of the search. Equal means keep the order of the candidates. A recipe whose AUC cannot be
    told from chance is picked only where that is so of all of them; the control never is.

    Args:
        candidates: From `Overview.candidates`.
        sign: 1 when a larger objective is better.

    Raises:
        StudyError: There is nothing to pick from.
    """
    able = [c for c in candidates if not c.is_control]
    usable = [c for c in able if c.degenerate is None]
    usable = usable or [c for c in able if not c.unusable]
    if not usable:
        raise StudyError(
            "there is nothing to pick from",
            found=f"{len(able)} recipes, all degenerate" if able else "no recipe",
            todo="let `fairtune search` finish first",
        )
    confirmed = [c for c in usable if c.confirmed is not None]
    if confirmed:
        return max(confirmed, key=lambda c: sign * _number(c.confirmed))
    return max(usable, key=lambda c: sign * c.searched)


def picked(view: Overview, candidates: Sequence[Candidate], rule: str | None = None) -> Candidate:
    """Return what a rule picks, by default the study's own.

    Raises:
        ConfigError: No such rule.
        StudyError: There is nothing to pick from, or the rule needs what the study does not have.
    """
    name = rule or str(view.settings["select"])
    if name == BEST:
        return pick(candidates, view.judge.primary.sign)
    return select(view, candidates, name).candidate


def best_searched(candidates: Sequence[Candidate], sign: int) -> Candidate | None:
    """Return what `best` picks among the recipes of the search alone, or None without any."""
    searched = [c for c in candidates if not (c.is_baseline or c.is_control) and not c.unusable]
    return pick(searched, sign) if searched else None


@dataclass(frozen=True, eq=False)
class Selected:
    """What the rules pick from the confirmed recipes of a study.

    Attributes:
        rule: The rule that was asked for.
        candidate: Its pick.
        choice: The same with the reason.
        confirmed: The recipes as they were read.
        contest: Their figures.
        picks: What every rule that can be used picks, by name.
        refused: Why the others cannot be used.
    """

    rule: str
    candidate: Candidate
    choice: Choice
    confirmed: Confirmed
    contest: Contest
    picks: Mapping[str, Choice]
    refused: Mapping[str, StudyError]

    def rules_of(self, label: str) -> list[str]:
        """Return the rules that pick `label`."""
        return [name for name, choice in self.picks.items() if choice.entrant.label == label]

    def to_json(self) -> dict[str, Any]:
        """Return figures and picks as JSON values."""
        contest = self.contest
        drawn = self.confirmed.sampled
        return {
            "study": self.confirmed.view.place.name,
            "rule": self.rule,
            "pick": self.candidate.label,
            "digest": self.candidate.digest,
            "why": self.choice.why,
            "objectives": [str(o) for o in contest.objectives],
            "attribute": contest.attribute,
            "rows": rows_in_words(self.confirmed.view),
            "recipes": [
                {
                    "label": e.label,
                    "seeds": drawn[e.label].seeds,
                    "trained": e.trained,
                    "values": {
                        str(o): {"value": e.values[str(o)], "se": contest.se(e.label, o)}
                        for o in contest.objectives
                    },
                    "groups": dict(e.groups),
                    "violation": e.violation,
                    "picked_by": self.rules_of(e.label),
                }
                for e in contest.entrants
            ],
            "not_used": {name: error.what for name, error in self.refused.items()},
        }

    def text(self) -> str:
        """Return the table, the pick and the reason as text."""
        contest = self.contest
        heads = ["recipe", "seeds", "trained", *map(str, contest.objectives), "picked by"]
        table = [heads]
        for e in contest.entrants:
            cells = [
                f"{e.values[str(o)]:.3f} ({contest.se(e.label, o):.3f})"
                for o in contest.objectives
            ]
            seeds = str(self.confirmed.sampled[e.label].seeds)
            rules = ", ".join(self.rules_of(e.label)) or "-"
            table.append([e.label, seeds, f"{e.trained:,.0f}", *cells, rules])
        widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
        lines = [f"on {rows_in_words(self.confirmed.view)}: mean over seeds (standard error)"]
        lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in table]
        lines += [f"{name} is not used: {error.what}" for name, error in self.refused.items()]
        lines.append(f"pick by '{self.rule}': {self.candidate.label}, because {self.choice.why}")
        return "\n".join(lines)


def select(
    view: Overview,
    candidates: Sequence[Candidate],
    rule: str,
    reading: Reading | None = None,
) -> Selected:
    """Return what a rule picks from stored predictions; nothing is trained.

    Args:
        view: The study.
        candidates: From `Overview.candidates`.
        rule: Name of the rule.
        reading: Other objectives, attribute or epoch rule than the study's.

    Raises:
        ConfigError: An unknown rule, objective, attribute or epoch rule.
        StudyError: Nothing is confirmed, or the rule needs what the study does not have.
        DataError: These patients cannot answer an objective.
    """
    rule_of(rule)
    judge = (reading or Reading()).judge(view)
    confirmed = Confirmed(view, candidates, judge)
    found, refused = picks(confirmed.contest)
    if rule in refused:
        raise refused[rule]
    choice = found[rule]
    candidate = next(c for c in candidates if c.label == choice.entrant.label)
    return Selected(rule, candidate, choice, confirmed, confirmed.contest, found, refused)


def corrected(view: Overview, candidates: Sequence[Candidate]) -> Corrected | None:
    """Return the validation value of the best confirmed recipe, corrected for being chosen.

    On the rows that `rows_in_words` names. Where these are the patients that the search saw too,
    the choice was among the recipes of the search, so they take part in the resampled one. None
    when nothing was confirmed.
    """
    judge = view.judge.on("confirm")
    recipes = {
        c.label: [judge.seen(run.validation(judge.epoch_of(run))) for run in c.runs]
        for c in candidates
        if c.runs and not c.unusable and not c.is_control
    }
    if not recipes:
        return None
    return bias_corrected(
        recipes,
        judge.primary,
        minimum=judge.validation.minimum,
        threshold=judge.validation.rule,
        rivals={} if judge.validation.confirm_part else _searched(view),
    )


def _searched(view: Overview) -> dict[str, list[Predictions]]:
    """Return the predictions of the best recipes of the search, one per run."""
    judge = view.judge
    best = ranked(view.rows[SEARCH], judge.primary.sign)[:RIVALS]
    found: dict[str, list[Predictions]] = {}
    for entry in best:
        runs = [view.stored(row) for row in entry.rows]
        kept = [run.validation(judge.epoch_of(run)) for run in runs if run is not None]
        if kept and not entry.unusable:
            found[f"searched {entry.digest}"] = kept
    return found


def rows_in_words(view: Overview) -> str:
    """Return which validation patients confirm runs are judged by."""
    share = view.judge.validation.confirm_part
    if not share:
        return "validation"
    return f"the {share:.0%} of the validation patients that the search did not see"


def _number(value: float | None) -> float:
    assert value is not None
    return value
