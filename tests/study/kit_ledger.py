"""Phases and execution without torch, for the tests of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairtune.config import Choice, Dimension, Float, Int
from fairtune.config.digest import digest
from fairtune.study.distributions import to_optuna
from fairtune.study.ledger import (
    Claim,
    Complete,
    Draw,
    Ledger,
    Options,
    Outcome,
    Proposal,
    Row,
)
from fairtune.study.rows import current, decide_digest, next_replicate
from fairtune.study.samplers.random import Random

UP = [StudyDirection.MAXIMIZE]
SPACE: dict[str, Dimension] = {
    "lr": Float(1e-5, 1e-1, log=True),
    "depth": Int(1, 12),
    "norm": Choice(("on", "off", 3, True)),
}


def bits(count: int) -> dict[str, Dimension]:
    return {f"bit.{i:03}": Choice((False, True)) for i in range(count)}


def proposal(params: Mapping[str, Any], space: Mapping[str, Dimension], **more: Any) -> Proposal:
    recipe = {"params": dict(params)}
    mark = digest(recipe)
    replicate = more.pop("replicate", 0)
    values: dict[str, Any] = {
        "kind": "search" if replicate == 0 else "replicate",
        "params": dict(params),
        "dimensions": dict(space),
        "recipe": recipe,
        "digest": mark,
        "key": digest([mark, replicate]),
        "seed": {"data": replicate, "init": replicate},
        "replicate": replicate,
        "attrs": {"glyph": "x"},
    }
    return Proposal(**(values | more))


@dataclass
class Search:
    """Draws until it finds a digest that is new or may be repeated."""

    trials: int | None
    space: Mapping[str, Dimension] = field(default_factory=lambda: dict(SPACE))
    name: str = "search"
    redraws: int = 20

    def budget(self) -> int | None:
        return self.trials

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Draw) -> Proposal | None:
        mine = rows[self.name]
        for _ in range(self.redraws):
            drawn = draw()
            params = {name: drawn.suggest(name, d) for name, d in self.space.items()}
            made = proposal(params, self.space)
            verdict = decide_digest(mine, made.digest)
            if verdict != "redraw":
                return proposal(params, self.space, replicate=next_replicate(mine, made.digest))
        return None


@dataclass
class Keyed:
    """Wants each label once."""

    labels: Sequence[str]
    name: str = "baseline"
    kind: str = "baseline"

    def budget(self) -> int | None:
        return None

    def propose(self, rows: Mapping[str, Sequence[Row]], draw: Draw) -> Proposal | None:
        taken = current(rows[self.name])
        for label in self.labels:
            made = proposal({}, {}, kind=self.kind, attrs={"label": label}, key=digest(label))
            if made.key not in taken:
                return made
        return None


def execute(
    score: Callable[[Mapping[str, Any]], float] = lambda params: 0.5,
) -> Callable[[Sequence[Claim]], Iterator[tuple[Claim, Outcome]]]:
    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, Complete([score(claim.proposal.params)])

    return run


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def journal(folder: Path) -> str:
    return f"journal:{folder / 'study.journal'}"


def open_ledger(where: Path | str, name: str = "s", **options: Any) -> Ledger:
    url = where if isinstance(where, str) else journal(where)
    options.setdefault("sampler", Random())
    options.setdefault("patience", 20.0)
    create = options.pop("create", True)
    directions = options.pop("directions", ["maximize"])
    identity = options.pop("identity", {"space": 1})
    return Ledger.open(
        url,
        name,
        directions=directions,
        identity=identity,
        create=create,
        options=Options(**options),
    )


def trial(
    number: int,
    params: Mapping[str, object],
    space: Mapping[str, Dimension],
    values: list[float] | None,
    state: TrialState = TrialState.COMPLETE,
    steps: dict[int, float] | None = None,
) -> FrozenTrial:
    made = create_trial(
        state=state,
        values=values,
        params=dict(params),
        distributions={name: to_optuna(space[name]) for name in params},
        intermediate_values=steps or {},
    )
    made.number = made._trial_id = number
    return made


def point(draw: Draw, space: Mapping[str, Dimension]) -> dict[str, object]:
    drawn = draw()
    return {name: drawn.suggest(name, dimension) for name, dimension in space.items()}


def history(count: int, space: Mapping[str, Dimension]) -> list[FrozenTrial]:
    """Trials whose value is the share of bits that are on."""
    done: list[FrozenTrial] = []
    for i in range(count):
        params = point(Draw(done, UP, lambda k, i=i: Random().build(1000 + i)), space)
        done.append(trial(i, params, space, [sum(map(bool, params.values())) / len(space)]))
    return done
