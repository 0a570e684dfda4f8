"""The random-mask control, and what several objectives confirm: pure functions of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_ledger import sqlite
from kit_plan import plan, row, study

from fairtune.errors import FairtuneError
from fairtune.evaluation.objectives import Objective
from fairtune.study.control import ControlPhase
from fairtune.study.ledger import Claim, Complete, Ledger, Options, Outcome
from fairtune.study.opening import identity
from fairtune.study.phases import BaselinePhase, SearchPhase
from fairtune.study.plan import Plan
from fairtune.study.rows import BASELINE, CONFIRM, CONTROL, SEARCH, Row
from fairtune.study.samplers.random import Random
from fairtune.study.search import phases
from fairtune.study.shortlist import DRAWS, best_of_control, shortlist
from fairtune.study.worker import Exit, Limits, StopFlag, work

TWO = tuple(Objective.parse(text) for text in ("worst_auc@sex", "auc"))
WITH = {"of": ["linear_readout", "norm:all"], "lr_points": 1, "control": "random"}


def share(recipe: Mapping[str, Any]) -> float:
    return len(recipe["adaptation"]["mask"]) / 40 + (recipe["optim"]["lr"] or 0.0)


def worked(folder: Path, made: Plan) -> dict[str, list[Row]]:
    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            values = [share(claim.proposal.recipe)] * len(made.study.judge.objectives)
            yield claim, Complete(values)

    with Ledger.open(
        sqlite(folder),
        "s",
        directions=[o.direction for o in made.study.judge.objectives],
        identity=identity(made),
        create=True,
        options=Options(sampler=Random(), patience=20.0),
    ) as ledger:
        assert work(ledger, phases(made), run, Limits(), StopFlag()) is Exit.DONE
        return {name: ledger.rows(name) for name in (BASELINE, SEARCH, CONTROL, CONFIRM)}


def test_the_control_has_as_many_points_as_the_search_and_none_of_its_rows(tmp_path: Path) -> None:
    bare = plan(budget={"trials": 8}, baselines={**WITH, "control": None})
    first = worked(tmp_path, bare)
    assert first[CONTROL] == []
    made = plan(budget={"trials": 8}, baselines=WITH)
    assert identity(made) == identity(bare)  # so it may be added on resume
    rows = worked(tmp_path, made)
    assert [r.key for r in rows[SEARCH]] == [r.key for r in first[SEARCH]]
    assert len(rows[CONTROL]) == 8
    assert {r.kind for r in rows[CONTROL]} == {"search"}  # so it is pruned like the search
    assert not {r.key for r in rows[CONTROL]} & {r.key for r in rows[SEARCH]}
    assert len({r.digest for r in rows[CONTROL]}) == 8
    names = set(made.dimensions())
    assert all(set(r.params) == names for r in rows[CONTROL])
    rates = [r.params["optim.lr"] for r in rows[CONTROL]]
    assert all(1e-4 <= float(rate) <= 1e-2 for rate in rates)
    best = max(rows[CONTROL], key=lambda r: r.values or ())
    labels = {r.digest: r.attrs["label"] for r in rows[CONFIRM]}
    assert labels[best.digest] == CONTROL
    assert sum(r.attrs["label"] == CONTROL for r in rows[CONFIRM]) == made.study.confirm.seeds


def test_every_worker_knows_the_same_random_points() -> None:
    made = plan(budget={"trials": 5}, baselines=WITH)
    done = {SEARCH: [row(i, str(i), 0.5) for i in range(5)], BASELINE: []}

    def keys() -> list[str]:
        phase = ControlPhase(made, SearchPhase(made, BaselinePhase(made)))
        return [p.key for p in phase.proposals(done)]

    assert keys() == keys()
    assert keys() != [
        p.key
        for p in ControlPhase(
            plan(budget={"trials": 5}, baselines=WITH, seed=1), BaselinePhase(made)
        ).proposals(done)
    ]


def test_a_space_smaller_than_the_control_is_run_again() -> None:
    space = {"adaptation.mask": {"one_of": ["norm:all", "attn:all"]}}
    recipe = {
        "data": {"dataset": "d", "target": "t", "attributes": ["sex", "age"]},
        "model": {"name": "m", "image_size": 32, "weights": "none"},
        "optim": {"lr": 1e-3},
        "fit": {"precision": "fp32"},
    }
    made = plan(space=space, recipe=recipe, budget={"trials": 5}, baselines=WITH)
    phase = ControlPhase(made, BaselinePhase(made))
    points = list(phase.proposals({SEARCH: [row(i, str(i), 0.5) for i in range(5)]}))
    assert len({p.key for p in points}) == 5
    assert len({p.digest for p in points}) == 2


def test_only_random_is_a_control() -> None:
    assert study(baselines=WITH).baselines.control == "random"
    with pytest.raises(FairtuneError, match="control"):
        study(baselines={**WITH, "control": "grid"})


@pytest.mark.parametrize("rule", ["minimax", "dto", "es", "constraint", "1se", "knee", "best"])
def test_a_study_file_names_any_rule(rule: str) -> None:
    assert study(select=rule).select == rule


def test_an_unknown_rule_in_a_study_file_has_its_line() -> None:
    with pytest.raises(FairtuneError, match="unknown selection rule") as caught:
        study(select="bset")
    assert "study.yaml" in str(caught.value)


def two(number: int, values: tuple[float, float], noise: float = 0.0, **attrs: Any) -> Row:
    """A row of two objectives whose draws scatter by `noise`, the same way in every row."""
    rng = np.random.default_rng(0)
    lines = [[f"{v + noise * x:.4f}" for x in rng.standard_normal(100)] for v in values]
    drawn = ";".join(",".join(line) for line in lines)
    return row(number, f"d{number}", 0.0, values=values, attrs={DRAWS: drawn, **attrs})


def listed(rows: Sequence[Row], top: int, **more: Any) -> list[str]:
    return [e.digest for e in shortlist({SEARCH: rows, **more}, TWO, top)]


def test_several_objectives_confirm_the_front_and_not_the_best_of_one() -> None:
    rows = [two(0, (0.9, 0.6)), two(1, (0.8, 0.8)), two(2, (0.6, 0.9)), two(3, (0.79, 0.79)),
            two(4, (0.89, 0.59))]  # fmt: skip
    assert listed(rows, 3) == ["d0", "d1", "d2"]
    assert [e.digest for e in shortlist({SEARCH: rows}, TWO[:1], 3)] == ["d0", "d4", "d1"]


def test_who_is_sometimes_on_the_front_comes_before_who_never_is() -> None:
    # Behind the first row both; the third is better in the primary objective.
    front = [two(0, (0.9, 0.6)), two(1, (0.6, 0.9))]
    never, noisy = two(3, (0.899, 0.1)), two(2, (0.895, 0.58), noise=0.05)
    assert listed([*front, two(2, (0.895, 0.58)), never], 3) == ["d0", "d3", "d1"]
    assert listed([*front, noisy, never], 3) == ["d0", "d2", "d1"]


def test_the_crowded_are_dropped_and_the_ends_stay() -> None:
    values = [(0.90, 0.50), (0.89, 0.52), (0.88, 0.53), (0.70, 0.75), (0.50, 0.90)]
    assert listed([two(i, v) for i, v in enumerate(values)], 3) == ["d0", "d3", "d4"]


def test_what_a_rule_would_pick_is_confirmed_as_well() -> None:
    # `cheap` lies behind the front but within a standard error of the best, and trains least.
    rows = [
        two(0, (0.90, 0.60), noise=0.02, trainable_share=0.9),
        two(1, (0.60, 0.90), trainable_share=0.9),
        two(2, (0.895, 0.30), trainable_share=0.01),
    ]
    assert listed(rows, 2) == ["d0", "d2", "d1"]


def test_an_infeasible_recipe_stands_behind_the_feasible() -> None:
    rows = [two(0, (0.95, 0.95)), two(1, (0.8, 0.6)), two(2, (0.6, 0.8)), two(3, (0.5, 0.5))]
    from dataclasses import replace

    broken = replace(rows[0], constraints={"auc >= 0.97": 0.02})
    kept = listed([broken, *rows[1:]], 2)
    assert {"d1", "d2"} <= set(kept)


def test_the_control_is_picked_by_the_rule_of_the_study() -> None:
    rows = [two(0, (0.9, 0.6)), two(1, (0.85, 0.85)), two(2, (0.6, 0.9))]
    found = {CONTROL: rows}
    for rule, expected in (("best", "d0"), ("knee", "d1"), ("minimax", "d0")):
        best = best_of_control(found, TWO, rule)
        assert best is not None
        assert best.digest == expected
    assert best_of_control({}, TWO, "best") is None
