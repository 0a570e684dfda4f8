"""Studies with several objectives and constraints, from the file to confirm, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_ledger import bits, history, journal, point, trial
from kit_plan import plan, row
from optuna.study import StudyDirection

from fairtune.errors import ConfigError, FairtuneError, StudyError
from fairtune.evaluation.pareto import front
from fairtune.study import bounds
from fairtune.study.bounds import Bounds, reference_of
from fairtune.study.ledger import Claim, Complete, Ledger, Options, Outcome, Pruned
from fairtune.study.opening import identity
from fairtune.study.overlay import Draw
from fairtune.study.plan import Plan
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH, Row, roots
from fairtune.study.samplers import SAMPLERS
from fairtune.study.search import phases
from fairtune.study.worker import Exit, Limits, StopFlag, work

TWO = ["worst_auc@sex", "ece"]
DIRECTIONS = ["maximize", "minimize"]
Execute = Callable[[Sequence[Claim]], Iterator[tuple[Claim, Outcome]]]


def trade(recipe: Mapping[str, Any]) -> tuple[float, float]:
    """More units raise the first objective and, beyond a third, the second, which is to fall."""
    share = len(recipe["adaptation"]["mask"]) / 39
    return 0.5 + 0.4 * share, abs(share - 1 / 3)


def judged(recipe: Mapping[str, Any]) -> dict[str, float]:
    first, second = trade(recipe)
    return {"auc": first, "auc@sex/F": first, "auc@sex/M": 1 - second, "ece": second}


def execute(bound: Bounds | None = None, epochs: int = 8) -> Execute:
    """Runs of `epochs` epochs that report to the pruner and know what they violate."""

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            values = trade(claim.proposal.recipe)
            for epoch in range(1, epochs):
                stop = claim.report(epoch, epochs, utility=1 - values[0], objective=values).stop
                if stop is not None:
                    yield claim, Pruned(epoch, values, {}, stop)
                    break
            else:
                made: Outcome = Complete(values, judged(claim.proposal.recipe))
                yield claim, made if bound is None else bound(claim, made)

    return run


def opened(folder: Path, made: Plan) -> Ledger:
    return Ledger.open(
        journal(folder),
        "s",
        directions=[o.direction for o in made.study.judge.objectives],
        identity=identity(made),
        create=True,
        options=Options(
            sampler=made.study.sampler,  # type: ignore[arg-type]
            pruner=made.study.pruner,  # type: ignore[arg-type]
            form=made.study.form,
            patience=20.0,
        ),
    )


def searched(folder: Path, made: Plan) -> dict[str, list[Row]]:
    with opened(folder, made) as ledger:
        bound = Bounds(
            made.study.judge,
            made.base.data.attributes,
            made.study.baselines.of,
            lambda: ledger.rows(BASELINE),
        )
        left = work(ledger, phases(made), execute(bound), Limits(), StopFlag())
        assert left is Exit.DONE
        return {name: ledger.rows(name) for name in (BASELINE, SEARCH, CONFIRM)}


@pytest.mark.parametrize(
    "sampler",
    [
        "tpe",
        pytest.param({"nsga2": {"population": 4}}, marks=pytest.mark.slow),
        pytest.param("auto", marks=pytest.mark.slow),
    ],
    ids=["tpe", "nsga2", "auto"],
)
def test_a_study_of_two_objectives_runs_from_the_file_to_confirm(
    tmp_path: Path, sampler: Any
) -> None:
    made = plan(
        objectives=TWO,
        constraints=["auc >= baseline[norm:all] - 0.3", "no_harm(0.5)"],
        sampler=sampler,
        pruner="asha",
        budget={"trials": 24},
        space={"optim.lr": {"float": [1e-4, 1e-2], "log": True}, "adaptation.mask": "auto_peft2"},
    )
    rows = searched(tmp_path, made)
    assert len(roots(rows[SEARCH])) == 24
    done = [r for r in rows[SEARCH] if r.state == "complete"]
    pruned = [r for r in rows[SEARCH] if r.state == "pruned"]
    assert pruned
    assert all(r.values == pytest.approx(trade(r.recipe)) for r in done)
    assert all(set(r.constraints) == set(map(str, made.study.judge.constraints)) for r in done)
    scores = [score for r in rows[SEARCH] for score in r.rungs.values()]
    assert {type(score) for score in scores} == {float, tuple}
    assert all(r.constraints == {} for r in rows[BASELINE])
    assert rows[CONFIRM]
    with opened(tmp_path, made) as ledger:
        best = {t.number for t in ledger.optuna_study().best_trials}
        shown = ledger.optuna_study().get_trials(deepcopy=False)
        told = [t.system_attrs["constraints"] for t in shown if t.number == done[0].number]
        assert told == [list(done[0].constraints.values())]
    kept = [r for r in done if all(v <= 0 for v in r.constraints.values())]
    expected = front([r.values for r in kept], [1, -1])
    assert best == {r.number for r, is_best in zip(kept, expected) if is_best}


@pytest.mark.parametrize(
    "name", ["auto", "blr_ts", pytest.param("gp", marks=pytest.mark.slow), "nsga2", "tpe"]
)
def test_samplers_of_several_objectives_come_nearer_to_the_front(name: str) -> None:
    """On 12 switches: each objective likes one half of them on."""
    space = bits(12)
    done = []
    for i, t in enumerate(history(60, space)):
        on = [bool(t.params[n]) for n in space]
        done.append(trial(i, t.params, space, [float(sum(on[:6])), -float(sum(on[6:]))]))
    to = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    drawn = [
        point(Draw(done, to, lambda k, s=s: SAMPLERS.parse(name).build(s + k)), space)
        for s in range(8)
    ]
    assert np.mean([list(p.values()) for p in drawn]) > 0.58


def test_draws_of_one_study_differ_in_their_weights(tmp_path: Path) -> None:
    """ParEGO: over many draws both ends of the front are looked for, not its middle alone."""
    space = bits(12)
    done = []
    for i, t in enumerate(history(80, space)):
        on = float(sum(bool(v) for v in t.params.values()))
        done.append(trial(i, t.params, space, [on, on]))
    to = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    shares = [
        np.mean(list(point(Draw(done, to, lambda k, s=s: SAMPLERS.parse("blr_ts").build(s)),
                           space).values()))
        for s in range(12)
    ]  # fmt: skip
    assert min(shares) < 0.3
    assert max(shares) > 0.7


def baselines(**values: float) -> list[Row]:
    return [
        row(i, name, value, phase=BASELINE, attrs={"label": name, "auc": value,
            "auc@sex/F": value, "auc@sex/M": 0.7})
        for i, (name, value) in enumerate(values.items())
    ]  # fmt: skip


def test_violations_are_relative_to_the_best_runs_of_the_baselines() -> None:
    judge = plan(constraints=["auc >= baseline[norm:all] - 0.01", "no_harm(0.02)"]).study.judge
    rows = baselines(fullft=0.9)
    rows += [replace(r, number=9 + r.number) for r in baselines(**{"norm:all": 0.8, "gone": 0.99})]
    rows.append(replace(rows[1], number=20, key="worse", values=(0.1,), attrs={"label": "norm:all",
                "auc": 0.1}))  # fmt: skip
    figures = {"auc": 0.75, "auc@sex/F": 0.85, "auc@sex/M": 0.65}
    found = bounds.violations(judge, figures, rows, ["fullft", "norm:all"], ["sex", "age"])
    assert found == pytest.approx(
        {"auc >= baseline[norm:all] - 0.01": 0.04, "no_harm(0.02)": 0.03}
    )
    with pytest.raises(ConfigError, match="norm:all"):
        bounds.violations(judge, figures, rows[:1], ["fullft", "norm:all"], ["sex"])


def test_the_reference_is_the_best_baseline_that_is_not_degenerate() -> None:
    values = {"a": 0.7, "c": 0.9, "b": 0.9}
    assert reference_of(values) == "b"
    assert reference_of(values, ["b"]) == "c"
    assert reference_of(values, ["a", "b", "c"]) == "b"
    assert reference_of({}) is None


def test_a_budget_of_devices_is_not_overshot_by_more_than_the_run_that_meets_it() -> None:
    made = plan(budget={"trials": 50, "gpu_hours": 1}, baselines=[], confirm={"top": 0})
    search = phases(made)[1]
    noon, rows = datetime(2026, 1, 1, 12, tzinfo=UTC), []
    while search.ended(rows) is None:
        start = noon + timedelta(minutes=25 * len(rows))
        end = start + timedelta(minutes=25)
        rows.append(row(len(rows), f"d{len(rows)}", 0.5, started=start, finished=end))
    assert len(rows) == 3
    assert search.ended(rows) == "budget.gpu_hours: 1 hours on devices"
    assert search.done({SEARCH: rows})


def test_a_search_that_stops_by_itself_goes_on_to_confirm(tmp_path: Path) -> None:
    flat = plan(budget={"trials": 60, "stop": "auto"})

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, Complete([0.6])

    with opened(tmp_path, flat) as ledger:
        assert work(ledger, phases(flat), run, Limits(), StopFlag()) is Exit.DONE
        rows = {name: ledger.rows(name) for name in (BASELINE, SEARCH, CONFIRM)}
    assert len(rows[SEARCH]) == 20
    assert rows[CONFIRM]
    assert "budget.stop: auto" in str(phases(flat)[1].ended(rows[SEARCH]))
    longer = plan(budget={"trials": 60})
    assert phases(longer)[1].ended(rows[SEARCH]) is None


def test_objectives_and_constraints_are_the_study_and_the_form_is_not(tmp_path: Path) -> None:
    made = plan(objectives=TWO, constraints=["auc >= 0.5"])
    with opened(tmp_path, made):
        pass
    other = plan(
        objectives=TWO,
        constraints=["auc >= 0.5"],
        sampler="cmaes",
        search={"chebyshev": {TWO[0]: 1, TWO[1]: 1}},
        budget={"trials": 3, "stop": "auto"},
    )
    with opened(tmp_path, other):
        pass
    for changes, words in (
        ({"constraints": ["auc >= 0.6"]}, "constraints"),
        ({"constraints": None}, "constraints"),
        ({"objectives": ["worst_auc@age", "ece"]}, "objectives"),
        ({"objectives": ["worst_auc@sex"]}, "directions"),
    ):
        fields = {"objectives": TWO, "constraints": ["auc >= 0.5"], **changes}
        with pytest.raises((StudyError, FairtuneError), match=words):
            opened(tmp_path, plan(**fields))
    assert "constraints" not in identity(plan())
