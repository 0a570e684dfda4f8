"""Which recipe is picked: rules over confirmed recipes and baselines."""

from __future__ import annotations

from collections.abc import Sequence

from fairtune.errors import ConfigError, StudyError
from fairtune.evaluation.optimism import Corrected, bias_corrected
from fairtune.study.overview import Candidate, Overview
from fairtune.study.schema import RULES_LATER

RULES = ("best",)


def pick(candidates: Sequence[Candidate], sign: int, rule: str = "best") -> Candidate:
    """Return the candidate that `rule` picks.

    `best`: the best mean of the confirm runs, baselines included; where nothing was confirmed,
    the best value of the search. Equal means keep the order of the candidates. A recipe whose
    AUC cannot be told from chance is picked only where that is so of all of them.

    Args:
        candidates: From `Overview.candidates`.
        sign: 1 when a larger objective is better.
        rule: Name of the rule.

    Raises:
        ConfigError: The rule is not available.
        StudyError: There is nothing to pick from.
    """
    if rule not in RULES:
        later = rule in RULES_LATER
        raise ConfigError(
            f"selection rule '{rule}' is not available in this version"
            if later
            else "unknown selection rule",
            found=rule,
            allowed=RULES,
        )
    usable = [c for c in candidates if c.degenerate is None]
    usable = usable or [c for c in candidates if not c.unusable]
    if not usable:
        raise StudyError(
            "there is nothing to pick from",
            found=f"{len(candidates)} recipes, all degenerate" if candidates else "no recipe",
            todo="let `fairtune search` finish first",
        )
    confirmed = [c for c in usable if c.confirmed is not None]
    if confirmed:
        return max(confirmed, key=lambda c: sign * _number(c.confirmed))
    return max(usable, key=lambda c: sign * c.searched)


def best_searched(candidates: Sequence[Candidate], sign: int) -> Candidate | None:
    """Return what `best` picks among the recipes of the search alone, or None without any."""
    searched = [c for c in candidates if not c.is_baseline and not c.unusable]
    return pick(searched, sign) if searched else None


def corrected(view: Overview, candidates: Sequence[Candidate]) -> Corrected | None:
    """Return the validation value of the best confirmed recipe, corrected for being chosen.

    None when nothing was confirmed.
    """
    recipes = {
        c.label: [run.validation(view.judge.epoch_of(run)) for run in c.runs]
        for c in candidates
        if c.runs and not c.unusable
    }
    if not recipes:
        return None
    return bias_corrected(
        recipes,
        view.judge.primary,
        minimum=view.judge.validation.minimum,
        threshold=view.judge.validation.rule,
    )


def _number(value: float | None) -> float:
    assert value is not None
    return value
