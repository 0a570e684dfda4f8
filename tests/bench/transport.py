"""Time and error of the distances of scores: `python tests/bench/transport.py transport.json`.

Times are medians of one forward and backward pass on one thread, all cases in turns: 64 scores,
strata by turns. `geomloss` is SamplesLoss as the authors of FairCLIP call it (blur 1e-4, scaling
.5), once per group. Errors are those of the Sinkhorn divergence of single-precision scores of SD 1
in groups of 32, 20 and 7, against the same problem in double precision solved until the plan
changes by less than 1e-8: of the value, relative or in units of 1e-3 where that is smaller, and of
the gradient, relative L2; the worst over groups and seeds. `short` is the same error of geomloss
at scaling .95, which has no test of convergence.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from geomloss import SamplesLoss
from machine import surroundings
from torch import Tensor

from fairtune.mitigation.transport import energy, mmd, sinkhorn, w2

BLURS = (0.1, 0.2, 0.3, 0.5, 1.0)
RAGGED = (32, 20, 7)
Distance = Callable[[Tensor, Tensor], Tensor]


def scores(n: int, seed: int) -> Tensor:
    """Return n scores of SD 1 with a trend, so that groups in a row differ."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, generator=generator, dtype=torch.float64)
    drawn += torch.linspace(0, 1, n, dtype=torch.float64)
    return (drawn - drawn.mean()) / drawn.std()


def in_turns(n: int, groups: int) -> Tensor:
    """Return one problem `(1, groups, n)` of groups that take turns."""
    return (torch.arange(n) % groups == torch.arange(groups)[:, None])[None].float()


def in_a_row() -> Tensor:
    """Return one problem of groups of 32, 20 and 7."""
    of = torch.repeat_interleave(torch.arange(3), torch.tensor(RAGGED))
    return (of == torch.arange(3)[:, None])[None].double()


def released(x: Tensor, member: Tensor) -> Tensor:
    """Return the distances of the groups of one problem as FairCLIP computes them."""
    loss = SamplesLoss("sinkhorn", p=2, blur=1e-4, scaling=0.5)
    return torch.stack([loss(x[:, None], x[group > 0][:, None]) for group in member[0]])


def blurred(blur: float) -> Distance:
    """Return the Sinkhorn divergence without the number of unsolved problems."""
    return lambda x, member: sinkhorn(x, member, blur)[0]


CASES: Mapping[str, tuple[Distance, int]] = {
    "w2, 6 groups": (w2, 6),
    "w2, 8 groups": (w2, 8),
    "geomloss, 8 groups": (released, 8),
    **{f"sinkhorn {blur}, 3 groups": (blurred(blur), 3) for blur in (0.1, 0.3, 1.0)},
    "energy, 3 groups": (energy, 3),
    "mmd, 3 groups": (mmd, 3),
}


def passed(distance: Distance, x: Tensor, member: Tensor) -> float:
    """Return the milliseconds of one pass forward and backward."""
    at = x.clone().requires_grad_()
    began = time.perf_counter()
    distance(at, member).sum().backward()  # type: ignore[no-untyped-call]
    return 1e3 * (time.perf_counter() - began)


def times(repetitions: int) -> dict[str, dict[str, float]]:
    """Return median, least and largest milliseconds of every case."""
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(repetitions + 2):
        x = scores(64, turn).float()
        for name, (distance, groups) in CASES.items():
            took = passed(distance, x, in_turns(64, groups))
            # The first two turns load and allocate.
            if turn > 1:
                taken[name].append(took)
    return {
        name: {
            "median": round(statistics.median(took), 3),
            "least": round(min(took), 3),
            "most": round(max(took), 3),
        }
        for name, took in taken.items()
    }


def gradients(of: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the distances of one problem and the gradient of each, in double precision."""
    at = x.clone().requires_grad_()
    found = of(at)
    moved = [torch.autograd.grad(one, at, retain_graph=True)[0].double() for one in found]
    return found.detach().double(), moved


def errors(blur: float, seeds: int) -> dict[str, float]:
    """Return the worst errors of the Sinkhorn divergence at `blur`, and the share converged."""
    member, short = in_a_row(), SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.95)
    worst = {"value": 0.0, "gradient": 0.0, "short": 0.0}
    left = 0
    for seed in range(seeds):
        x = scores(sum(RAGGED), seed).float()

        def exact(x: Tensor) -> Tensor:
            return sinkhorn(x, member, blur, tolerance=1e-8, most=500)[0][0]

        left += int(sinkhorn(x, member, blur)[1])
        truth, slope = gradients(exact, x.double())
        value, moved = gradients(lambda x: sinkhorn(x, member, blur)[0][0], x)
        for g, group in enumerate(member[0]):
            theirs = short(x.double()[:, None], x.double()[group > 0][:, None])
            scale = max(float(truth[g]), 1e-3)
            found = {
                "value": float((value[g] - truth[g]).abs()) / scale,
                "gradient": float((moved[g] - slope[g]).norm() / slope[g].norm()),
                "short": float((theirs - truth[g]).abs()) / scale,
            }
            worst = {name: max(worst[name], found[name]) for name in worst}
    return worst | {"converged": 1 - left / (seeds * (2 * len(RAGGED) + 1))}


def measure(repetitions: int, seeds: int) -> dict[str, Any]:
    """Return every figure."""
    took = times(repetitions)
    ratio = took["geomloss, 8 groups"]["median"] / took["w2, 8 groups"]["median"]
    return {
        "repetitions": repetitions,
        "seeds": seeds,
        "milliseconds": took,
        "w2_faster_than_geomloss": round(ratio, 1),
        "sinkhorn": {str(blur): errors(blur, seeds) for blur in BLURS},
    }


def main() -> None:
    """Measure, print and write."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    reader.add_argument("out", type=Path)
    reader.add_argument("--repetitions", type=int, default=31)
    reader.add_argument("--seeds", type=int, default=20)
    given = reader.parse_args()
    torch.set_num_threads(1)
    found = measure(given.repetitions, given.seeds)
    for name, took in found["milliseconds"].items():
        sys.stdout.write(f"{name:<26} {took['median']:8.2f} ms\n")
    sys.stdout.write(f"w2 is {found['w2_faster_than_geomloss']} times as fast as geomloss\n")
    for blur, worst in found["sinkhorn"].items():
        line = "  ".join(f"{name} {value:.1e}" for name, value in worst.items())
        sys.stdout.write(f"sinkhorn {blur}: {line}\n")
    record = surroundings("transport.py")
    record["versions"] |= {name: importlib.metadata.version(name) for name in ("pot", "geomloss")}
    given.out.write_text(json.dumps(record | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
