"""Samplers and the draw in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_ledger import SPACE, UP, bits, history, point, trial
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from fairtune.config import Choice, Dimension, Float, Int
from fairtune.errors import ConfigError
from fairtune.study.distributions import from_optuna, to_optuna
from fairtune.study.overlay import Draw
from fairtune.study.samplers import SAMPLERS, Sampler
from fairtune.study.samplers.random import Random
from fairtune.study.samplers.tpe import Tpe


def test_the_registry_holds_what_works_and_refuses_the_rest_by_name() -> None:
    assert SAMPLERS.names() == ["random", "tpe"]
    for name in SAMPLERS:
        assert isinstance(SAMPLERS.parse(name), Sampler)
    for later in ("auto", "gp", "cmaes", "nsga2", "blr_ts"):
        with pytest.raises(ConfigError, match="not available in this version"):
            SAMPLERS.parse(later)


def test_tpe_is_pinned() -> None:
    built = Tpe(startup=7, candidates=5).build(3)
    assert isinstance(built, TPESampler)
    assert built._multivariate is True
    assert built._group is True
    assert built._constant_liar is False
    assert (built._n_startup_trials, built._n_ei_candidates) == (7, 5)


def test_building_in_many_threads_warns_in_none() -> None:
    faults: list[BaseException] = []

    def build() -> None:
        try:
            for seed in range(50):
                Tpe().build(seed)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=build) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_every_draw_lies_in_its_range_and_depends_on_the_seed_alone(name: str) -> None:
    sampler = SAMPLERS.parse(name)
    space = {**SPACE, "width": Float(0.1, 0.35, step=0.1), "even": Int(2, 9, step=2)}
    seen = [point(Draw([], UP, lambda k, s=s: sampler.build(s)), space) for s in range(30)]
    again = [point(Draw([], UP, lambda k, s=s: sampler.build(s)), space) for s in range(30)]
    assert seen == again
    assert len({str(p) for p in seen}) == 30
    for drawn in seen:
        assert all(space[key].contains(value) for key, value in drawn.items())
        assert drawn["even"] in (2, 4, 6, 8)


def test_each_call_draws_anew_and_a_parameter_keeps_its_first_value() -> None:
    draw = Draw([], UP, lambda k: Random().build(k))
    first, second = draw(), draw()
    assert draw.last is second
    value = first.suggest("lr", SPACE["lr"])
    assert first.suggest("lr", SPACE["lr"]) == value
    assert second.suggest("lr", SPACE["lr"]) != value
    assert first.params == {"lr": value}
    assert first.dimensions == {"lr": SPACE["lr"]}
    assert first.trial.suggest_int("n", 1, 3) in (1, 2, 3)
    assert first.params.keys() == {"lr", "n"}


def test_a_draw_changes_nothing_of_what_it_learns_from() -> None:
    done = history(15, bits(6))
    before = [(t.number, dict(t.params), dict(t.system_attrs)) for t in done]
    point(Draw(done, UP, lambda k: Tpe().build(0)), bits(6))
    assert [(t.number, dict(t.params), dict(t.system_attrs)) for t in done] == before


def test_tpe_learns() -> None:
    space = bits(12)
    done = history(60, space)
    drawn = [point(Draw(done, UP, lambda k, s=s: Tpe().build(s)), space) for s in range(10)]
    share = sum(sum(map(bool, p.values())) for p in drawn) / (12 * 10)
    assert share > 0.6


def test_a_trial_without_parameters_does_not_blind_tpe() -> None:
    space = bits(12)
    done = [*history(60, space), trial(60, {}, space, [0.0])]
    sampler = Tpe().build(0)
    draw = Draw(done, UP, lambda k: sampler)
    drawn = draw()
    assert len(drawn.trial.relative_params) == 12


def test_tpe_takes_a_conditional_space_and_several_objectives_and_pruned_runs() -> None:
    space: dict[str, Dimension] = {"m": Choice(("a", "b")), "a.x": Float(0, 1), "b.y": Int(1, 5)}
    done = []
    for i in range(30):
        label = "a" if i % 2 else "b"
        extra = {"a.x": i / 30} if label == "a" else {"b.y": 1 + i % 5}
        pruned = i % 5 == 0
        done.append(
            trial(
                i,
                {"m": label, **extra},
                space,
                None if pruned else [i / 30, 1 - i / 30],
                TrialState.PRUNED if pruned else TrialState.COMPLETE,
            )
        )
    draw = Draw(done, [*UP, StudyDirection.MINIMIZE], lambda k: Tpe().build(k))
    drawn = draw()
    chosen = drawn.suggest("m", space["m"])
    name = "a.x" if chosen == "a" else "b.y"
    assert space[name].contains(drawn.suggest(name, space[name]))


def test_a_draw_does_not_depend_on_the_order_of_sets(tmp_path: Path) -> None:
    script = tmp_path / "draw.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from kit_ledger import *\n"
        "from fairtune.study.samplers.tpe import Tpe\n"
        "space = bits(9)\n"
        "draw = Draw(history(20, space), UP, lambda k: Tpe().build(4))\n"
        "print(sorted(point(draw, space).items()))\n"
    )
    said = [
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.builds(Choice, st.lists(st.text(max_size=5), min_size=1, unique=True).map(tuple)),
        st.builds(
            lambda low, width: Int(low, low + width), st.integers(-99, 99), st.integers(0, 99)
        ),
        st.builds(
            lambda low, ratio: Float(low, low * ratio, log=True),
            st.floats(1e-6, 1e3),
            st.floats(1, 1e4),
        ),
    )
)
def test_dimensions_survive_optuna(dimension: Dimension) -> None:
    assert from_optuna(to_optuna(dimension)) == dimension


@pytest.mark.parametrize(
    ("dimension", "high"),
    [(Float(0.0, 1.0, step=0.3), 0.9), (Float(0.1, 0.3, step=0.1), 0.3), (Int(1, 10, step=4), 9)],
)
def test_a_range_ends_at_its_last_whole_step(dimension: Dimension, high: float) -> None:
    assert to_optuna(dimension).high == high  # type: ignore[attr-defined]
