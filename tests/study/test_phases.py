"""Baselines, search, confirm: pure functions of rows, worked on without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kit_language import network_spec
from kit_ledger import sqlite
from kit_plan import CHANCE, CONSTANT, plan, row, score_by, vit

from fairtune.models.backbone import describe
from fairtune.study.budget import busy_seconds
from fairtune.study.ledger import Claim, Complete, Failed, Ledger, Options, Outcome, Pruned
from fairtune.study.opening import identity
from fairtune.study.phases import ANCHORS, BaselinePhase, ConfirmPhase, SearchPhase
from fairtune.study.plan import Plan
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH, STALE, Row, current, roots
from fairtune.study.samplers.random import Random
from fairtune.study.search import phases
from fairtune.study.worker import Exit, Limits, StopFlag, work

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Execute = Callable[[Sequence[Claim]], Iterator[tuple[Claim, Outcome]]]


def share(recipe: Mapping[str, Any]) -> float:
    """A value that grows with the mask and the learning rate."""
    return len(recipe["adaptation"]["mask"]) / 40 + (recipe["optim"]["lr"] or 0.0)


def searched(
    folder: Path, made: Plan, execute: Execute | None = None, stop: StopFlag | None = None
) -> dict[str, list[Row]]:
    with Ledger.open(
        sqlite(folder),
        "s",
        directions=["maximize"],
        identity=identity(made),
        create=True,
        options=Options(sampler=Random(), patience=20.0),
    ) as ledger:
        left = work(ledger, phases(made), execute or score_by(share), Limits(), stop or StopFlag())
        assert left is (Exit.DONE if stop is None else Exit.STOPPED)
        return {name: ledger.rows(name) for name in (BASELINE, SEARCH, CONFIRM)}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, list[Row]]]:
    made = plan(budget={"trials": 12})
    return made, searched(tmp_path_factory.mktemp("done"), made)


def test_baselines_go_point_by_point_so_that_a_part_is_even() -> None:
    made = plan(baselines={"of": ["linear_readout", "norm:all", "fullft"], "lr_points": 2})
    found = [(p.attrs["label"], p.attrs["point"]) for p in BaselinePhase(made).proposals()]
    assert [label for label, _ in found] == ["linear_readout", "norm:all", "fullft"] * 2
    assert [point for _, point in found] == pytest.approx(
        [1e-3, 10**-3.5, 10**-3.5, 1e-1, 10**-2.5, 10**-2.5]
    )
    assert {p.kind for p in BaselinePhase(made).proposals()} == {BASELINE}


def test_no_baselines_are_done_at_once() -> None:
    made = plan(baselines=[])
    assert BaselinePhase(made).done({})
    assert not SearchPhase(made, BaselinePhase(made)).done({})


def test_a_study_runs_baselines_then_search_then_confirm(
    done: tuple[Plan, dict[str, list[Row]]],
) -> None:
    made, rows = done
    assert [len(rows[name]) for name in (BASELINE, SEARCH, CONFIRM)] == [4, 12, 8]
    assert all(r.state == "complete" for phase in rows.values() for r in phase)
    ends = {name: max(r.finished for r in phase) for name, phase in rows.items()}
    starts = {name: min(r.started for r in phase) for name, phase in rows.items()}
    assert ends[BASELINE] <= starts[SEARCH]
    assert ends[SEARCH] <= starts[CONFIRM]
    for phase in phases(made):
        assert phase.done(rows)
        assert phase.propose(rows, None) is None  # type: ignore[arg-type]


def test_a_search_starts_with_anchors_within_a_quarter_of_its_budget(
    done: tuple[Plan, dict[str, list[Row]]],
) -> None:
    made, rows = done
    anchors = [r for r in rows[SEARCH] if r.kind == "anchor"]
    assert [r.number for r in anchors] == [0, 1, 2]
    assert [r.attrs["label"] for r in anchors] == list(ANCHORS[:3])
    assert [r.params["optim.lr"] for r in anchors] == pytest.approx([1e-3] * 3)
    assert all(r.params.keys() == made.dimensions().keys() for r in anchors)


@pytest.mark.parametrize(
    ("mask", "labels"),
    [
        # In a space of norm, attn, mlp a whole block cannot be said apart from all three.
        ("auto_peft1", ["norm:all", "attn:all", "mlp:all", "block:all", "none", "block:last-3",
                        "block:last-6", "block:first-6"]),
        ("tune_full_block",
         ["block:all", "none", "block:last-3", "block:last-6", "block:first-6"]),
        ("tune_attention_mlp", ["none"]),
        ("tune_attention_params_random", []),
        ({"one_of": ["norm:all", "none"]}, ["norm:all", "none"]),
    ],
)  # fmt: skip
def test_anchors_are_those_that_the_space_can_say(mask: Any, labels: list[str]) -> None:
    space = {"optim.lr": {"float": [1e-4, 1e-2], "log": True}, "adaptation.mask": mask}
    made = plan(vit(12), space=space, budget={"trials": 400})
    search = SearchPhase(made, BaselinePhase(made))
    assert [p.attrs["label"] for p in search.anchors()] == labels


def test_anchors_beyond_a_small_model_are_left_out_and_equal_ones_stand_once() -> None:
    made = plan(vit(3), budget={"trials": 400})
    found = [p.attrs["label"] for p in SearchPhase(made, BaselinePhase(made)).anchors()]
    assert found == ["norm:all", "attn:all", "mlp:all", "block:all", "none"]


def test_anchors_of_towers_are_of_all_and_of_each() -> None:
    units = describe(network_spec())  # 6 blocks and 2
    space = {"optim.lr": {"float": [1e-4, 1e-2], "log": True}}
    for types, labels in (
        (["attn"], ["attn:all", "none", "image.attn:all", "text.attn:all"]),
        (["image.block"], ["none", "image.block:all", "image.block:last-3"]),
    ):
        mask = {"bits": {"types": types}}
        made = plan(units, space={**space, "adaptation.mask": mask}, budget={"trials": 400})
        found = SearchPhase(made, BaselinePhase(made)).anchors()
        assert [p.attrs["label"] for p in found] == labels


def test_anchors_take_the_middle_of_every_other_range() -> None:
    space = {
        "optim.lr": {"one_of": [1e-4, {"float": [1e-3, 1e-1], "log": True}]},
        "optim.epochs": {"int": [1, 10], "step": 3},
        "optim.warmup": {"float": [0.0, 0.2], "step": 0.06},
        "optim.schedule": "declared",
        "adaptation.mask": "auto_peft1",
    }
    made = plan(space=space, budget={"trials": 8})
    first, second = SearchPhase(made, BaselinePhase(made)).anchors()
    assert first.recipe["optim"]["epochs"] == 4
    assert first.recipe["optim"]["warmup"] == pytest.approx(0.06)
    assert first.recipe["optim"]["lr"] == 1e-4
    assert first.params["optim.schedule"] == "cosine"
    assert first.params["optim.lr"] == second.params["optim.lr"]


def test_anchors_on_grids_are_stored_and_run(tmp_path: Path) -> None:
    space = {
        "optim.lr": {"float": [1e-3, 1e-2], "step": 2e-3},
        "optim.epochs": {"int": [1, 10], "step": 3},
        "adaptation.mask": "auto_peft1",
    }
    rows = searched(tmp_path, plan(space=space, baselines=[], budget={"trials": 8}))
    assert [r.kind for r in rows[SEARCH][:3]] == ["anchor", "anchor", "search"]


def test_a_recipe_drawn_again_gets_another_seed_until_it_has_three_runs(tmp_path: Path) -> None:
    space = {"optim.lr": {"one_of": [1e-3]}, "adaptation.mask": {"one_of": ["norm:all", "none"]}}
    made = plan(space=space, baselines=[], budget={"trials": 6}, confirm={"top": 2, "seeds": 1})
    rows = searched(tmp_path, made)
    mine = rows[SEARCH]
    assert len(roots(mine)) == 6
    digests = [r.digest for r in mine]
    assert sorted(digests.count(d) for d in set(digests)) == [3, 3]
    assert len({r.key for r in mine}) == 6
    assert len({tuple(r.seed.items()) for r in mine}) == 6
    assert {r.kind for r in mine if r.replicate} == {"replicate"}


def test_a_space_smaller_than_the_budget_is_repeated_and_still_confirmed(tmp_path: Path) -> None:
    space = {"optim.lr": {"one_of": [1e-3]}, "adaptation.mask": {"one_of": ["norm:all", "none"]}}
    made = plan(space=space, baselines=[], budget={"trials": 9}, confirm={"top": 2, "seeds": 1})
    rows = searched(tmp_path, made)
    assert len(roots(rows[SEARCH])) == 9
    digests = [r.digest for r in rows[SEARCH]]
    assert sorted(digests.count(d) for d in set(digests)) == [4, 5]
    assert len(rows[CONFIRM]) == 2


def test_a_pruned_or_dead_recipe_is_never_run_again(tmp_path: Path) -> None:
    def execute(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            mask = claim.proposal.recipe["adaptation"]["mask"]
            if any("norm" in unit for unit in mask):
                yield claim, Pruned(1, [0.5])
            elif any("attn" in unit for unit in mask):
                yield claim, Failed("nan")
            else:
                yield claim, Complete([0.5])

    space = {
        "optim.lr": {"one_of": [1e-3]},
        "adaptation.mask": {"one_of": ["norm:all", "none", "attn:all"]},
    }
    made = plan(space=space, baselines=[], budget={"trials": 7})
    mine = searched(tmp_path, made, execute)[SEARCH]
    states = [r.state for r in mine]
    assert (states.count("pruned"), states.count("failed"), states.count("complete")) == (1, 1, 5)


def test_minutes_end_the_search_and_confirm_follows(tmp_path: Path) -> None:
    made = plan(budget={"trials": 50, "minutes": 1e-9})
    rows = searched(tmp_path, made)
    assert len(rows[BASELINE]) == 4
    assert len(rows[SEARCH]) == 1
    assert {r.attrs["label"] for r in rows[CONFIRM]} == {"search-1", "linear_readout", "norm:all"}


def test_a_resumed_study_goes_on_and_a_larger_budget_adds_the_difference(tmp_path: Path) -> None:
    stop, seen = StopFlag(), []

    def few(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            seen.append(claim.proposal.key)
            yield claim, Complete([share(claim.proposal.recipe)])
            if len(seen) == 7:
                stop.request("enough")

    small = plan(budget={"trials": 6})
    first = searched(tmp_path, small, few, stop)
    assert sum(map(len, first.values())) == 7
    second = searched(tmp_path, small)
    assert [len(second[name]) for name in (BASELINE, SEARCH, CONFIRM)] == [4, 6, 8]
    assert [r.key for r in second[SEARCH][:3]] == [r.key for r in first[SEARCH]]
    third = searched(tmp_path, plan(budget={"trials": 9}))
    assert len(third[SEARCH]) == 9
    assert [r.key for r in third[SEARCH][:6]] == [r.key for r in second[SEARCH]]
    # One worker: what is drawn does not depend on the interruption.
    (tmp_path / "straight").mkdir()
    straight = searched(tmp_path / "straight", small)
    assert [r.key for r in straight[SEARCH]] == [r.key for r in second[SEARCH]]


def test_streams_keep_the_seeds_of_phases_apart(done: tuple[Plan, dict[str, list[Row]]]) -> None:
    _, rows = done
    keys = [r.key for phase in rows.values() for r in phase]
    assert len(set(keys)) == len(keys)
    seeds = {
        name: {(r.seed["data"], r.seed["init"]) for r in phase} for name, phase in rows.items()
    }
    assert not seeds[SEARCH] & seeds[CONFIRM]
    assert not seeds[BASELINE] & seeds[CONFIRM]
    digests = {r.digest for r in rows[SEARCH]} & {r.digest for r in rows[CONFIRM]}
    assert len(digests) == 2  # the same recipes, other seeds


def test_confirm_goes_seed_by_seed_over_the_best_and_every_baseline(
    done: tuple[Plan, dict[str, list[Row]]],
) -> None:
    made, rows = done
    labels = [r.attrs["label"] for r in rows[CONFIRM]]
    assert labels == ["search-1", "search-2", "linear_readout", "norm:all"] * 2
    best = sorted(rows[SEARCH], key=lambda r: -r.values[0])  # type: ignore[index]
    assert [rows[CONFIRM][i].digest for i in (0, 1)] == [r.digest for r in best[:2]]
    by_label = {r.attrs["label"]: r for r in rows[CONFIRM]}
    assert by_label["norm:all"].recipe["optim"]["lr"] == pytest.approx(10**-2.5)
    assert made.study.confirm.seeds == 2


def confirm_of(rows: list[Row], top: int, baselines: Sequence[Row] = ()) -> list[str]:
    """The labels that are confirmed, each with the number of its row."""
    made = plan(confirm={"top": top, "seeds": 1})

    def told(r: Row) -> Row:
        return replace(r, recipe=made.recipe({"optim.lr": 1e-3 * (1 + r.number)}).to_json())

    phase = ConfirmPhase(made, SearchPhase(made, BaselinePhase(made)))
    found = phase.candidates(
        {SEARCH: [told(r) for r in rows], BASELINE: [told(r) for r in baselines]}
    )
    return [
        f"{label}={round((recipe.optim.lr or 0) / 1e-3) - 1}" for label, recipe in found.items()
    ]


def test_constant_recipes_are_never_confirmed_and_chance_only_behind_all_others() -> None:
    rows = [
        row(0, "constant", 0.99, why=CONSTANT), row(1, "chance", 0.9, why=CHANCE),
        row(2, "good", 0.6), row(3, "better", 0.7),
    ]  # fmt: skip
    assert confirm_of(rows, 2) == ["search-1=3", "search-2=2"]
    assert confirm_of(rows, 5) == ["search-1=3", "search-2=2", "search-3=1"]
    assert confirm_of(rows[:2], 5) == ["search-1=1"]
    assert confirm_of(rows[:1], 5) == []


def test_a_recipe_that_is_a_baseline_too_is_confirmed_once() -> None:
    rows = [row(0, "same", 0.9), row(1, "other", 0.6)]
    baselines = [row(2, "same", 0.9, phase=BASELINE, attrs={"label": "norm:all"})]
    assert confirm_of(rows, 2, baselines) == ["search-1=1", "norm:all=2"]


def test_confirm_switched_off_is_done_after_the_search(tmp_path: Path) -> None:
    rows = searched(tmp_path, plan(confirm={"top": 0}))
    assert rows[CONFIRM] == []


def span(begin: float, end: float | None, **more: Any) -> Row:
    started = NOON + timedelta(seconds=begin)
    finished = None if end is None else NOON + timedelta(seconds=end)
    return row(0, "a", 0.5, started=started, finished=finished, **more)


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([(0, 10)], 10),
        ([(0, 10), (20, 30)], 20),
        ([(0, 10), (5, 15)], 15),
        ([(0, 30), (5, 10), (12, 20)], 30),
        ([(5, 10), (0, 30)], 30),
        ([(0, 10), (10, 20)], 20),
        ([(0, 10), (40, None)], 20),
        ([(0, None), (20, 30)], 50),
    ],
)
def test_busy_time_counts_overlaps_once(spans: list[Any], seconds: float) -> None:
    rows = [span(a, b) for a, b in spans]
    assert busy_seconds(rows, NOON + timedelta(seconds=50)) == seconds
    naive = [r for r in rows if r.finished]
    assert busy_seconds(naive, NOON) == busy_seconds(naive)


def test_the_days_until_somebody_noticed_a_lost_worker_are_not_busy() -> None:
    lost = span(0, 200_000, state="failed", reason=STALE, values=None)
    assert busy_seconds([span(0, 60), lost], NOON) == 60


def test_times_without_a_zone_are_utc() -> None:
    bare = row(0, "a", 0.5, started=datetime(2026, 1, 1, 12), finished=datetime(2026, 1, 1, 13))
    assert busy_seconds([bare]) == 3600


def test_every_worker_computes_the_same_next_row(done: tuple[Plan, dict[str, list[Row]]]) -> None:
    made, rows = done
    part = {BASELINE: rows[BASELINE], SEARCH: rows[SEARCH], CONFIRM: rows[CONFIRM][:3]}
    one, other = phases(made)[2], phases(plan(budget={"trials": 12}))[2]
    first, second = one.propose(part, None), other.propose(part, None)  # type: ignore[arg-type]
    assert first is not None
    assert second is not None
    assert first.key == second.key == rows[CONFIRM][3].key
    assert len(current(rows[CONFIRM])) == 8
