"""Bayesian linear regression with a chosen prior, and Thompson draws from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

STRUCTURE = (0.0, 0.5, 0.9)
EXPLAINED = (0.3, 0.6, 0.85)
SHARES = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class Prior:
    """What is expected before anything was seen, in units of the variance of the standings.

    Attributes:
        structure: Part `a` of the switches' effects that follows the structured covariance.
        explained: Part `f` of the variance that the model explains; the rest is noise.
        share: Part of that which belongs to the switches; the rest to other parameters.
    """

    structure: float
    explained: float
    share: float


@dataclass(frozen=True)
class Data:
    """What was seen.

    Attributes:
        mask: `(trials, switches)` of -1, 0 and 1.
        rest: `(trials, columns)` of other features.
        weights: `(columns,)` their prior variances.
        root: `(switches, switches)` square root of the structured covariance, of trace `switches`.
        standing: `(trials,)` standings, of mean 0 and variance 1.
    """

    mask: Matrix
    rest: Matrix
    weights: Vector
    root: Matrix
    standing: Vector


@dataclass(frozen=True)
class Effects:
    """Coefficients: of the switches `(switches,)` and of the other features `(columns,)`."""

    mask: Vector
    rest: Vector


def choose(data: Data) -> Prior:
    """Return the prior of the grid under which the standings are most likely."""
    kernels = _Kernels(data)
    return max(_grid(data), key=lambda prior: kernels.evidence(prior))


def draw(data: Data, prior: Prior, temperature: float, rng: np.random.Generator) -> Effects:
    """Return coefficients drawn from the posterior, their spread scaled by `temperature`.

    With prior draw `b0` and noise draw `e`, `b0 + S X' A^-1 (y - X b0 - e)` is a posterior draw
    (Matheron's rule); its distance from the mean is shrunk.
    """
    kernels = _Kernels(data)
    switches = data.mask.shape[1]
    scale = prior.explained * prior.share / max(switches, 1)
    shared, own = prior.structure * scale, (1 - prior.structure) * scale
    weights = prior.explained * (1 - prior.share) * data.weights
    root = np.linalg.cholesky(kernels.total(prior))

    def update(seen: Vector) -> tuple[Vector, Vector]:
        dual = np.linalg.solve(root.T, np.linalg.solve(root, seen))
        back = data.mask.T @ dual
        mask = shared * (data.root @ (data.root.T @ back)) + own * back
        return mask, weights * (data.rest.T @ dual)

    mask0 = np.sqrt(shared) * (data.root @ rng.standard_normal(switches))
    mask0 += np.sqrt(own) * rng.standard_normal(switches)
    rest0 = np.sqrt(weights) * rng.standard_normal(len(weights))
    level = rng.standard_normal()
    noise = np.sqrt(1 - prior.explained) * rng.standard_normal(len(data.standing))
    mask_mean, rest_mean = update(data.standing)
    mask_back, rest_back = update(data.mask @ mask0 + data.rest @ rest0 + level + noise)
    return Effects(
        mask_mean + temperature * (mask0 - mask_back),
        rest_mean + temperature * (rest0 - rest_back),
    )


class _Kernels:
    """Covariances of the trials, `(trials, trials)`, from which every prior's is a sum."""

    def __init__(self, data: Data) -> None:
        switches = max(data.mask.shape[1], 1)
        self._plain = data.mask @ data.mask.T / switches
        seen = data.mask @ data.root
        self._structured = seen @ seen.T / switches
        self._rest = (data.rest * data.weights) @ data.rest.T
        self._standing = data.standing

    def total(self, prior: Prior) -> Matrix:
        a, f, share = prior.structure, prior.explained, prior.share
        mask = a * self._structured + (1 - a) * self._plain
        found = f * (share * mask + (1 - share) * self._rest)
        # The unknown level of the standings: a constant feature of variance 1.
        found += 1.0
        found[np.diag_indices_from(found)] += 1 - f
        return np.asarray(found)

    def evidence(self, prior: Prior) -> float:
        root = np.linalg.cholesky(self.total(prior))
        whitened = np.linalg.solve(root, self._standing)
        return float(-0.5 * whitened @ whitened - np.log(np.diag(root)).sum())


def _grid(data: Data) -> Iterator[Prior]:
    switches, rest = data.mask.shape[1] > 0, data.rest.shape[1] > 0
    shares = SHARES if switches and rest else (1.0,) if switches else (0.0,)
    for structure in STRUCTURE if switches else (0.0,):
        for explained in EXPLAINED:
            for share in shares:
                yield Prior(structure, explained, share)
