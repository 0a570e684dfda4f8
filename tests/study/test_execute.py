"""From a claim to its outcome: what fails a trial, and what does not touch it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from kit import session
from kit_tiny import Tiny, study_fields

from fairtune.errors import FairtuneError, RunError, StorageError
from fairtune.experiment.runs import Runs
from fairtune.study.execute import Course, Event, Executor, group_figures
from fairtune.study.ledger import Ledger
from fairtune.study.place import Place
from fairtune.study.rank import DEGENERATE
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH, Complete, Failed, Pruned
from fairtune.study.search import phases
from fairtune.study.worker import Exit, Limits, StopFlag


def fresh(tmp_path: Path) -> Tiny:
    return Tiny(Place(tmp_path / "out", "tiny"), session(tmp_path / "out"))


def small(**changes: Any) -> dict[str, Any]:
    """A study of two search trials and nothing else."""
    made = {"baselines": [], "confirm": {"top": 0, "seeds": 1}, "budget": {"trials": 2}}
    return made | changes


def with_optim(**changes: Any) -> dict[str, Any]:
    recipe = study_fields()["recipe"]
    recipe["optim"] |= changes
    return recipe  # type: ignore[no-any-return]


def test_a_row_has_the_values_of_its_stored_run(tiny: Tiny) -> None:
    view = tiny.view
    for phase in (BASELINE, SEARCH, CONFIRM):
        for row in view.rows[phase]:
            run = view.stored(row)
            assert run is not None
            predictions = run.validation(view.judge.epoch_of(run))
            (value,) = view.judge.values(predictions).values()
            assert row.values == (pytest.approx(value),)
            figures = group_figures(predictions, view.judge)
            assert {k: row.attrs[k] for k in figures} == pytest.approx(figures)
            assert run.card["provenance"]["phase"] == phase
            assert run.card["provenance"]["number"] == row.number
            assert run.weights_file is None


@pytest.mark.slow
def test_a_loss_that_diverges_fails_its_trial_and_the_study_goes_on(tmp_path: Path) -> None:
    mine = fresh(tmp_path)
    recipe = with_optim(clip_norm=0.0, optimizer="sgd", schedule="constant", warmup=0.0)
    space = {"optim.lr": {"one_of": [1e-3, 1e28, 1e29, 1e30]}, "adaptation.mask": "auto_peft1"}
    budget = {"trials": 10}
    assert mine.search(**small(recipe=recipe, space=space, budget=budget)) is Exit.DONE
    rows = mine.view.rows[SEARCH]
    assert len(rows) == 10
    for row in rows:
        sane = row.params["optim.lr"] == 1e-3
        assert (row.state, row.reason) == (("complete", None) if sane else ("failed", "nan"))
    assert {row.state for row in rows} == {"complete", "failed"}
    assert sum(row.state == "failed" for row in rows) >= 3
    detail = next(row.attrs for row in rows if row.state == "failed")
    assert any("not finite" in str(value) for value in detail.values())
    assert not mine.view.runs.folder(next(r.key for r in rows if r.state == "failed")).exists()


class Told:
    """An executor's surroundings: a claim of a real ledger, and a run that does as it is told."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiny, self.patch = fresh(tmp_path), monkeypatch
        self.plan = self.tiny.plan(small())
        self.events: list[Event] = []

    def outcome(self, fault: BaseException) -> Any:
        from fairtune.experiment import run as runs

        def raises(*_: Any, **__: Any) -> Any:
            yield 0, fault

        self.patch.setattr(runs, "run_together", raises)
        self.tiny.place.folder.mkdir(parents=True, exist_ok=True)
        from fairtune.study.opening import open_study

        with open_study(self.tiny.place, self.plan, create=True) as ledger:
            (claim,) = ledger.claim(phases(self.plan), 1)
            execute = Executor(
                self.plan, self.tiny.session, Runs(self.tiny.place.out), StopFlag(),
                self.events.append,
            )  # fmt: skip
            with ledger.beating([claim]):
                return [outcome for _, outcome in execute([claim])]


@pytest.mark.parametrize(
    ("fault", "reason", "retry"),
    [
        (RunError("the training loss is not finite", reason="nan"), "nan", False),
        (RunError("no room left", reason="oom"), "oom", False),
        (FairtuneError("something that a user can mend"), "error", False),
        (ZeroDivisionError("a bug"), "error", True),
    ],
)
def test_a_fault_fails_the_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, reason: str, retry: bool
) -> None:
    told = Told(tmp_path, monkeypatch)
    (outcome,) = told.outcome(fault)
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.retry) == (reason, retry)
    assert str(fault) in outcome.detail
    assert [event.kind for event in told.events] == ["claim", "finish"]


def test_a_full_disk_costs_no_row_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(tmp_path, monkeypatch)
    with pytest.raises(StorageError):
        told.outcome(StorageError("the disk is full"))
    with Ledger.open(told.tiny.place.url, "tiny") as ledger:
        (row,) = ledger.rows(SEARCH)
    assert (row.state, row.reason) == ("failed", "stopped")


def test_events_tell_claims_epochs_and_outcomes(tmp_path: Path) -> None:
    from fairtune.study.opening import open_study
    from fairtune.study.search import run_study

    mine = fresh(tmp_path)
    plan = mine.plan(small())
    mine.place.folder.mkdir(parents=True)
    events: list[Event] = []
    with open_study(mine.place, plan, create=True) as ledger:
        run_study(ledger, plan, mine.session, mine.place, StopFlag(), notify=events.append)
    assert [event.kind for event in events] == ["claim", "epoch", "epoch", "finish"] * 2
    for event in events:
        if event.kind == "epoch":
            assert event.report is not None
            assert set(event.values) == {"worst_auc@sex"}
    assert all(isinstance(e.outcome, Complete) for e in events if e.kind == "finish")


def test_trials_made_together_are_those_made_alone(tmp_path: Path) -> None:
    from fairtune.study.opening import open_study
    from fairtune.study.search import run_study

    found: list[dict[str, Any]] = []
    kinds: list[list[str]] = []
    for together in (1, 2):
        mine = fresh(tmp_path / str(together))
        plan = mine.plan(small(recipe=with_optim(batch_size=128)))
        mine.place.folder.mkdir(parents=True)
        events: list[Event] = []
        limits = Limits(together=together)
        with open_study(mine.place, plan, create=True) as ledger:
            run_study(
                ledger,
                plan,
                mine.session,
                mine.place,
                StopFlag(),
                notify=events.append,
                limits=limits,
            )
        found.append({row.key: row.values for row in mine.view.rows[SEARCH]})
        kinds.append([event.kind for event in events])
    assert len(found[0]) == 2
    assert found[0] == found[1]
    assert kinds[1][:2] == ["claim", "claim"]
    assert sorted(kinds[0]) == sorted(kinds[1])


def test_memory_that_runs_out_in_company_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(tmp_path, monkeypatch)
    executor = Executor(told.plan, told.tiny.session, Runs(tmp_path), StopFlag())
    short = RunError("no room left", reason="oom")
    for alone in (True, False):
        course = Course(cast("Any", None), (), told.plan.study.judge)
        outcome = executor._outcome(course, short, alone=alone)
        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.retry) == ("oom", not alone)


@pytest.mark.slow
def test_a_pruned_run_is_stored_as_such_and_leaves_no_folder(tmp_path: Path) -> None:
    mine = fresh(tmp_path)
    changes = small(pruner={"median": {}}, budget={"trials": 14}, recipe=with_optim(epochs=4))
    mine.search(**changes)
    rows = mine.view.rows[SEARCH]
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned
    for row in pruned:
        assert row.values is not None
        assert row.attrs["epochs"] < 4
        assert mine.view.stored(row) is None
    assert all(mine.view.stored(row) for row in rows if row.state == "complete")
    assert isinstance(Pruned(1), Pruned)


def test_near_chance_predictions_are_marked(tiny: Tiny) -> None:
    marks = [row.attrs.get(DEGENERATE) for row in tiny.view.rows[BASELINE]]
    assert any(mark and "cannot be told from 0.5" in mark for mark in marks)


def test_what_a_group_table_cannot_say_is_left_out(tiny: Tiny) -> None:
    from fairtune.experiment.judge import Judge

    run = tiny.view.stored(tiny.view.rows[SEARCH][0])
    assert run is not None
    strict = Judge.of(["auc"], {"min_group": {"n": 10_000}})
    assert set(group_figures(run.validation(), strict)) == {"auc"}
