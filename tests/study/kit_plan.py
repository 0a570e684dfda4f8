"""Studies and plans without torch: a ViT of any depth by its tensor names alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fairtune.config.yaml12 import Located, dumps, loads
from fairtune.models.partition import partition
from fairtune.models.spec import UnitNames
from fairtune.models.units import Units
from fairtune.study.ledger import Claim, Complete, Outcome
from fairtune.study.plan import Plan
from fairtune.study.rows import Row
from fairtune.study.schema import StudyFile, build_study
from fairtune.training.recipe import Recipe

NAMES = UnitNames(
    blocks="blocks",
    types={
        "norm1": ("norm1",),
        "norm2": ("norm2",),
        "norm": ("norm1", "norm2"),
        "attn": ("attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"),
        "mlp": ("mlp",),
        "bias": ("bias",),
        "block": ("*",),
    },
    singles={"stem": ("patch_embed",), "pos": ("pos_embed",), "final_norm": ("norm",)},
)
PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def vit(depth: int = 12) -> Units:
    tensors = [("patch_embed.proj.weight", 40), ("pos_embed", 10)]
    for block in range(depth):
        for part in PARTS:
            size = 8 if part.startswith("norm") else 64
            tensors += [
                (f"blocks.{block}.{part}.weight", size),
                (f"blocks.{block}.{part}.bias", 8),
            ]
    return partition(NAMES, [*tensors, ("norm.weight", 8), ("norm.bias", 8)])


def fields(**changes: Any) -> dict[str, Any]:
    """A small valid study file as values; a top key replaces, `None` removes it."""
    made: dict[str, Any] = {
        "name": "tiny",
        "recipe": {
            "data": {"dataset": "d", "target": "t", "attributes": ["sex", "age"]},
            "model": {"name": "m", "image_size": 32, "weights": "none"},
            "fit": {"precision": "fp32"},
        },
        "space": {
            "optim.lr": {"float": [1e-4, 1e-2], "log": True},
            "adaptation.mask": "auto_peft1",
        },
        "objectives": ["worst_auc@sex"],
        "baselines": {"of": ["linear_readout", "norm:all"], "lr_points": 2},
        "budget": {"trials": 8},
        "sampler": "random",
        "pruner": "none",
        "confirm": {"top": 2, "seeds": 2},
    }
    made |= changes
    return {key: value for key, value in made.items() if value is not None}


def document(**changes: Any) -> Located:
    return loads(dumps(fields(**changes)), "study.yaml")


def study(**changes: Any) -> StudyFile:
    return build_study(document(**changes))


def plan(units: Units | None = None, **changes: Any) -> Plan:
    made, units = study(**changes), units or vit(3)
    pinned = made.recipe.to_json()
    pinned["data"] |= {"fingerprint": "f" * 8, "split": "s" * 8}
    pinned["model"] |= {"weights_sha": "none", "units": units.hash}
    return Plan(made, Recipe.model_validate(pinned), units)


def score_by(
    value: Callable[[Mapping[str, Any]], float], **attrs: Any
) -> Callable[[Sequence[Claim]], Iterator[tuple[Claim, Outcome]]]:
    """An `execute` without torch: the value of a run follows from its recipe."""

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, Complete([value(claim.proposal.recipe)], attrs)

    return run


CONSTANT = "the scores are constant (standard deviation below 0.0001)"
CHANCE = "the AUC 0.510 cannot be told from 0.5 (0.400 to 0.620)"


def row(number: int, digest: str, value: float | None, **more: Any) -> Row:
    why = more.pop("why", None)
    fields: dict[str, Any] = {
        "phase": "search",
        "number": number,
        "state": "failed" if value is None else "complete",
        "kind": "search",
        "params": {},
        "dimensions": {},
        "recipe": {},
        "digest": digest,
        "key": f"{digest}/{number}",
        "seed": {},
        "replicate": 0,
        "attempt": 0,
        "root": number,
        "worker": "w",
        "values": None if value is None else (value,),
        "attrs": {"label": digest, **({"degenerate": why} if why else {})},
    }
    return Row(**(fields | more))
