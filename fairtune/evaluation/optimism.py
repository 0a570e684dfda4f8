"""What choosing the best of many costs: bootstrap bias correction and shrinkage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.arrays import BoolArray, FloatArray, IntArray
from fairtune.evaluation.objectives import COMPOUNDS, Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.resampling import bag_chunks
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.sampled import Asked, asked_of, same_rows
from fairtune.evaluation.values import Part, Question, objective_values, reduce

REPLICATES = 200
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Corrected:
    """A best validation score with what the choice itself contributed.

    Args:
        naive: The objective of the best recipe on the rows it was chosen by.
        optimism: Mean over replicates of in-bag minus out-of-bag value of the in-bag winner.
        corrected: naive - optimism where the choice flattered, else naive; at least 0 for a
            disparity.
        pick: Name of the best recipe.
        replicates: Replicates that had enough out-of-bag rows.
    """

    naive: float
    optimism: float
    corrected: float
    pick: str
    replicates: int


def bias_corrected(
    recipes: Mapping[str, Sequence[Predictions]],
    objective: Objective,
    *,
    minimum: GroupMinimum,
    threshold: Threshold | Mapping[str, Sequence[Threshold]],
    rivals: Mapping[str, Sequence[Predictions]] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Corrected:
    """Return the best recipe's objective, corrected for having been chosen.

    Patients are drawn with replacement; recipe and groups (the worst one, or the pair that makes
    the gap) are chosen on the drawn patients and scored on those never drawn. The mean
    difference is the optimism. For `es` the signs of the group deviations are the choice made
    in-bag; `es_pop` and `es_sample` are recomputed, which overstates their optimism a little.
    A gap has two opposite biases, and both are corrected: the smallest of many gaps reads too
    small, the largest difference between groups too large. The minimum over small groups reads
    too low, which can outweigh the choice of recipe; the value is never corrected towards the
    better side, since such a figure would flatter.

    A recipe that was put forward because it did well on these very patients was chosen among all
    that were tried, not only among those put forward: `rivals` are the others, and the in-bag
    winner is the best of both.

    Args:
        recipes: Predictions of each recipe, one per seed, all on the same rows.
        objective: What is chosen by.
        minimum: What a group must have; eligible groups are those of the full table.
        threshold: One for all, or by recipe one per seed; rules are cross-fitted.
        rivals: Recipes that were beaten on the same rows before, by names of their own.
        replicates: Bootstrap replicates; those whose out-of-bag rows lose a class of a group are
            left out.
        seed: Seed of the draws.

    Raises:
        DataError: No recipes, different rows, too few groups, or too few patients to leave any
            out of bag.
    """
    if not recipes:
        raise DataError("no recipes to choose from")
    names = list(recipes)
    every = {**(rivals or {}), **recipes}
    same_rows([p for seeds in every.values() for p in seeds])
    asked_by = {n: _asked(s, objective, minimum, threshold, n) for n, s in every.items()}
    asked = list(asked_by.values())
    naive = np.array(
        [np.mean([objective_values(q, objective)[0] for q in asked_by[name]]) for name in names]
    )
    best = int(np.argmax(objective.sign * naive))
    excess: list[FloatArray] = []
    for inside, outside in bag_chunks(recipes[names[0]][0].patient, replicates, seed):
        kept = _defined(asked[0][0], objective, inside) & _defined(asked[0][0], objective, outside)
        if kept.any():
            excess.append(_excess(asked, objective, inside[:, kept], outside[:, kept]))
    drawn = np.concatenate(excess) if excess else np.empty(0)
    if not len(drawn):
        raise DataError(
            "no replicate leaves enough patients of every group out of bag",
            where=str(objective),
            todo="raise min_group so that tiny groups do not count, or use more patients",
        )
    optimism = float(drawn.mean())
    value = float(naive[best])
    corrected = value - (optimism if objective.sign * optimism > 0 else 0.0)
    if objective.is_disparity:
        corrected = max(0.0, corrected)
    return Corrected(value, optimism, corrected, names[best], len(drawn))


def _asked(
    seeds: Sequence[Predictions],
    objective: Objective,
    minimum: GroupMinimum,
    threshold: Threshold | Mapping[str, Sequence[Threshold]],
    name: str,
) -> Asked:
    cuts = list(threshold[name]) if isinstance(threshold, Mapping) else threshold
    return asked_of(seeds, [objective], minimum, cuts)


def _excess(
    asked: Sequence[Asked], objective: Objective, inside: FloatArray, outside: FloatArray
) -> FloatArray:
    """Return in-bag minus out-of-bag value of each replicate's in-bag winner, `(r,)`."""
    values, honest = [], []
    for recipe in asked:
        pairs = [_two(questions, objective, inside, outside) for questions in recipe]
        values.append(np.mean([v for v, _ in pairs], axis=0))
        honest.append(np.mean([h for _, h in pairs], axis=0))
    inbag, outbag = np.stack(values), np.stack(honest)
    winner = np.argmax(objective.sign * inbag, axis=0)
    column = np.arange(inbag.shape[1])
    return np.asarray(inbag[winner, column] - outbag[winner, column])


def _two(
    questions: Sequence[Question], objective: Objective, inside: FloatArray, outside: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the in-bag value and the out-of-bag value at the groups chosen in-bag, `(r,)`."""
    used = [q for q in questions if q.supports(objective)] or questions[:1]
    seen, honest = [], []
    for q in used:
        parts, others = q.parts(objective, inside), q.parts(objective, outside)
        seen.append(reduce(objective, parts))
        honest.append(at_chosen(objective, parts, others))
    return np.mean(seen, axis=0), np.mean(honest, axis=0)


def at_chosen(objective: Objective, parts: Sequence[Part], others: Sequence[Part]) -> FloatArray:
    """Return the objective of `others` at the groups that `parts` would choose, `(r,)`."""
    column = np.arange(parts[0].groups.shape[1])
    if objective.is_disparity:
        gaps, honest = [], []
        for part, other in zip(parts, others):
            high, low = part.groups.argmax(axis=0), part.groups.argmin(axis=0)
            gaps.append(part.groups[high, column] - part.groups[low, column])
            honest.append(other.groups[high, column] - other.groups[low, column])
        if objective.metric in COMPOUNDS and objective.metric != "eo_avg":
            return np.asarray(np.stack(honest)[np.stack(gaps).argmax(axis=0), column])
        return np.asarray(np.mean(honest, axis=0))
    (part,), (other,) = parts, others
    if objective.reduction == "worst":
        higher = part.metric.better == "higher"
        worst = part.groups.argmin(axis=0) if higher else part.groups.argmax(axis=0)
        return np.asarray(other.groups[worst, column])
    if objective.reduction == "es":
        signs = np.sign(part.overall - part.groups)
        spread = (signs * (other.overall - other.groups)).sum(axis=0)
        return np.asarray(other.overall / (1 + np.maximum(spread, 0.0)))
    return reduce(objective, others)


def _defined(questions: Sequence[Question], objective: Objective, weight: FloatArray) -> BoolArray:
    """Return in which replicates every set of rows the objective needs keeps its classes."""
    kept = np.ones(weight.shape[1], dtype=np.bool_)
    for q in questions:
        if not q.supports(objective) and len(questions) > 1:
            continue
        for part in objective.parts:
            for rows in q.needed(objective, part):
                kept &= _classes(q.p, rows, weight, part.needs)
    return kept


def _classes(
    p: Predictions, rows: IntArray, weight: FloatArray, needs: frozenset[str]
) -> BoolArray:
    held = (weight[rows] > 0).astype(np.float64)
    onehot = np.eye(p.classes)[p.label[rows]]
    counts = onehot.T @ held
    if p.task == "multiclass" and needs:
        return np.asarray((counts > 0).all(axis=0))
    enough = counts.sum(axis=0) > 0
    if "positives" in needs:
        enough &= counts[1] > 0
    if "negatives" in needs:
        enough &= counts[0] > 0
    return np.asarray(enough)


@dataclass(frozen=True)
class Shrunk:
    """The mean over a recipe's runs, drawn towards the mean of all recipes.

    Args:
        mean: Plain mean.
        shrunk: Mean after shrinkage.
        n: Runs.
        se: Posterior standard deviation of `shrunk`; None where seed noise is unknown.
    """

    mean: float
    shrunk: float
    n: int
    se: float | None


def shrunken_means(
    values: Mapping[str, Sequence[float]], noise_sd: float | None = None
) -> dict[str, Shrunk]:
    """Return empirical-Bayes means of recipes with few runs each.

    shrunk_i = m + tau^2 / (tau^2 + sigma^2 / n_i) (mean_i - m), with sigma^2 the seed variance
    (pooled within recipes when not given), tau^2 the variance between recipes by DerSimonian and
    Laird (1986) and m the precision-weighted mean. tau^2 is at least 1 % of the noise, so that
    recipes without visible differences keep an order (by evidence) instead of all being equal.
    The plain means are returned where nothing can be estimated: one recipe, or no recipe with
    two runs and no `noise_sd`.

    Args:
        values: Objective values of the runs of each recipe, by digest; none empty.
        noise_sd: Known standard deviation between seeds.

    Raises:
        DataError: A recipe without runs, or values that are not finite.
    """
    for name, runs in values.items():
        if not len(runs) or not np.isfinite(runs).all():
            raise DataError("a recipe needs finite values", where=name, found=list(runs))
    names = list(values)
    mean = np.array([np.mean(values[name]) for name in names])
    n = np.array([len(values[name]) for name in names], dtype=np.float64)
    variance = noise_sd**2 if noise_sd is not None else _seed_variance(values)
    if variance is None or len(names) < 2:
        se = [None if variance is None else float(np.sqrt(variance / k)) for k in n]
        return {
            name: Shrunk(float(m), float(m), int(k), s)
            for name, m, k, s in zip(names, mean, n, se)
        }
    noise = variance / n
    between = _between(mean, noise)
    total = between + noise
    if not total.all():
        return {
            name: Shrunk(float(m), float(m), int(k), 0.0) for name, m, k in zip(names, mean, n)
        }
    grand = float((mean / total).sum() / (1 / total).sum())
    shrunk = grand + between / total * (mean - grand)
    se_of = np.sqrt(between * noise / total)
    return {
        name: Shrunk(float(mean[i]), float(shrunk[i]), int(n[i]), float(se_of[i]))
        for i, name in enumerate(names)
    }


def seed_sd(values: Mapping[str, Sequence[float]]) -> float | None:
    """Return the standard deviation between seeds, pooled within recipes.

    None where no recipe has two runs.

    Args:
        values: Objective values of the runs of each recipe.
    """
    variance = _seed_variance(values)
    return None if variance is None else float(np.sqrt(variance))


def _seed_variance(values: Mapping[str, Sequence[float]]) -> float | None:
    """Return the variance within recipes pooled over those with two runs or more."""
    replicated = [np.asarray(runs) for runs in values.values() if len(runs) > 1]
    if not replicated:
        return None
    squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in replicated)
    return squares / sum(len(runs) - 1 for runs in replicated)


def _between(mean: FloatArray, noise: FloatArray) -> float:
    """Return the variance between recipes beyond what noise explains."""
    if not noise.all():
        return float(mean.var(ddof=1))
    weight = 1 / noise
    centre = float((weight * mean).sum() / weight.sum())
    excess = float((weight * (mean - centre) ** 2).sum()) - (len(mean) - 1)
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    return max(LEAST_SHARE * float(noise.mean()), excess / scale)
