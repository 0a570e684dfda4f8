"""Trials in Optuna's tables: what is written and read is what Optuna writes and reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from kit_ledger import SPACE, Search, bits, execute, open_ledger, proposal, sqlite
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from fairtune.study import codec, sqlschema
from fairtune.study.sql import SqlTrials, sql_trials
from fairtune.study.storages import engine_of, open_storage
from fairtune.study.trials import End, PlainTrials
from fairtune.study.worker import Limits, StopFlag, work

UP = StudyDirection.MAXIMIZE
OUTCOME = {"claim": "mine", "state": "complete", "attrs": {"note": "ü"}}
DONE = End(TrialState.COMPLETE, [0.25], codec.OUTCOME, OUTCOME, {"constraints": [-1.0, 0.5]})


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseStorage]:
    postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if postgres else sqlite(tmp_path)
    opened = open_storage(url)
    yield opened.storage
    opened.close()


def trials_of(storage: BaseStorage) -> SqlTrials:
    found = sql_trials(storage)
    assert found is not None
    return found


def by_optuna(storage: BaseStorage, study: int) -> list[FrozenTrial]:
    """Read all trials by Optuna itself, nothing from memory."""
    return storage._backend.get_all_trials(study)  # type: ignore[attr-defined]


def same(ours: list[FrozenTrial], theirs: list[FrozenTrial]) -> None:
    # As text, in which NaN equals itself; of attributes the order means nothing.
    def told(trial: FrozenTrial) -> dict[str, Any]:
        plain = dict(vars(trial))
        for name in ("_user_attrs", "_system_attrs", "intermediate_values"):
            plain[name] = sorted(plain[name].items())
        return {name: repr(value) for name, value in plain.items()}

    assert [told(trial) for trial in ours] == [told(trial) for trial in theirs]
    assert [type(v) for t in ours for v in t.params.values()] == [
        type(v) for t in theirs for v in t.params.values()
    ]


def row(token: str = "mine", state: TrialState = TrialState.RUNNING) -> FrozenTrial:
    params = {"lr": 1e-3, "depth": 5, "norm": 3}
    made = codec.new_trial(
        proposal(params, SPACE),
        codec.Origin("worker", token),
        beat=codec.beat(0, {2: 0.5}, 8, {}),
        system_attrs={"sampler:note": [1, None]},
    )
    made.state = state
    return made


def test_what_is_written_is_what_optuna_reads(storage: BaseStorage) -> None:
    trials, study = trials_of(storage), storage.create_new_study([UP], "one")
    template = row()
    made = trials.add(study, template)
    by_them = storage.create_new_trial(study, template_trial=template)
    one, two = by_optuna(storage, study)
    assert (one._trial_id, two._trial_id, one.number, two.number) == (made, by_them, 0, 1)
    for name in ("params", "distributions", "user_attrs", "system_attrs", "state", "values"):
        assert getattr(one, name) == getattr(two, name)
    assert one.datetime_start == two.datetime_start == template.datetime_start
    trials.end(made, DONE)
    PlainTrials(storage).end(by_them, DONE)
    one, two = by_optuna(storage, study)
    for name in ("user_attrs", "system_attrs", "state", "values"):
        assert getattr(one, name) == getattr(two, name)
    assert isinstance(one.datetime_complete, datetime)
    assert abs((one.datetime_complete - two.datetime_complete).total_seconds()) < 60


def test_a_finished_trial_is_written_whole(storage: BaseStorage) -> None:
    trials, study = trials_of(storage), storage.create_new_study([UP, UP], "one")
    for values in ([0.5, -1.0], [float("inf"), float("-inf")]):
        trials.add(study, create_trial(state=TrialState.COMPLETE, values=values))
    trials.add(study, create_trial(state=TrialState.FAIL))
    assert [t.values for t in by_optuna(storage, study)] == [
        [0.5, -1.0],
        [float("inf"), float("-inf")],
        None,
    ]
    same(trials.all(study), by_optuna(storage, study))


def test_a_study_is_read_as_optuna_reads_it_at_every_step(storage: BaseStorage) -> None:
    study_of_optuna = optuna.create_study(storage=storage, study_name="x", direction="maximize")
    study, trials = study_of_optuna._study_id, trials_of(storage)
    other = storage.create_new_study([UP], "another")

    def check() -> None:
        same(trials.all(study), by_optuna(storage, study))

    check()
    mine = trials.add(study, row())
    trials.add(other, row())
    check()
    theirs = study_of_optuna.ask()
    check()
    theirs.suggest_float("lr", 1e-5, 1e-1, log=True)
    check()
    theirs.suggest_categorical("kind", [None, "a", 1, True, 0.5])
    theirs.suggest_int("n", 2, 10, step=2)
    for step, value in enumerate([0.5, float("nan"), float("inf"), float("-inf")]):
        theirs.report(value, step)
    check()
    storage.set_trial_user_attr(mine, codec.BEAT, codec.beat(1, {2: 0.5, 4: 0.7}, 8, {"e": 4}))
    check()
    study_of_optuna.enqueue_trial({"lr": 1e-3}, user_attrs={"a": 1})
    check()
    study_of_optuna.tell(theirs, float("inf"))
    trials.end(mine, DONE)
    check()
    trials.add(study, row("pruned"))
    last = trials.add(study, row("next"))
    trials.end(last, End(TrialState.PRUNED, None, codec.OUTCOME, OUTCOME, {}))
    check()
    same(trials_of(storage).all(study), by_optuna(storage, study))


def test_what_was_read_does_not_change_later(storage: BaseStorage) -> None:
    trials, study = trials_of(storage), storage.create_new_study([UP], "one")
    made = trials.add(study, row())
    (before,) = trials.all(study)
    (again,) = trials.all(study)
    assert again is before
    storage.set_trial_user_attr(made, codec.BEAT, codec.beat(7, {}, 8, {}))
    (beaten,) = trials.all(study)
    trials.end(made, DONE)
    (ended,) = trials.all(study)
    seen = [t.user_attrs[codec.BEAT]["n"] for t in (before, beaten, ended)]
    assert (seen, before.state, ended.state.name) == ([0, 7, 7], TrialState.RUNNING, "COMPLETE")


def test_a_trial_ends_once(storage: BaseStorage) -> None:
    trials, study = trials_of(storage), storage.create_new_study([UP], "one")
    made = trials.add(study, row())
    # What an older version left behind that was killed before it wrote the state.
    storage.set_trial_user_attr(made, codec.OUTCOME, {"claim": "old"})
    storage.set_trial_system_attr(made, "constraints", [9.0])
    trials.end(made, DONE)
    lost = End(TrialState.FAIL, None, codec.TAKEN, {"state": "failed"}, {})
    for way in (trials, PlainTrials(storage)):
        with pytest.raises(UpdateFinishedTrialError):
            way.end(made, lost)
    (trial,) = by_optuna(storage, study)
    assert trial.values == [0.25]
    assert trial.user_attrs[codec.OUTCOME] == OUTCOME
    assert codec.TAKEN not in trial.user_attrs
    assert trial.system_attrs["constraints"] == [-1.0, 0.5]


def test_of_many_that_end_a_trial_one_does_and_numbers_have_no_gap(storage: BaseStorage) -> None:
    study = storage.create_new_study([UP], "one")
    contested = trials_of(storage).add(study, row())
    won: list[int] = []

    def take(slot: int) -> None:
        opened = open_storage(engine_of(storage).url.render_as_string(hide_password=False))  # type: ignore[union-attr]
        trials = trials_of(opened.storage)
        for _ in range(3):
            opened.patiently(lambda: trials.add(study, row(f"{slot}")), "a row", 60.0)
        end = End(TrialState.FAIL, None, codec.TAKEN, {"state": "failed", "by": slot}, {})
        try:
            opened.patiently(lambda: trials.end(contested, end), "the end", 60.0)
            won.append(slot)
        except UpdateFinishedTrialError:
            pass
        opened.close()

    threads = [threading.Thread(target=take, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = by_optuna(storage, study)
    assert [trial.number for trial in found] == list(range(13))
    assert [found[0].user_attrs[codec.TAKEN]["by"]] == won


def test_a_mask_of_any_length_takes_as_many_statements(storage: BaseStorage) -> None:
    trials, study = trials_of(storage), storage.create_new_study([UP], "one")
    counts = []
    for length in (12, 200):
        said: list[str] = []

        def count(*about: Any, said: list[str] = said) -> None:
            said.append(about[2])

        made = proposal(dict.fromkeys(bits(length), True), bits(length))
        trial = codec.new_trial(made, codec.Origin("w", "t"), beat={}, system_attrs={})
        sa.event.listen(engine_of(storage), "before_cursor_execute", count)
        trials.add(study, trial)
        sa.event.remove(engine_of(storage), "before_cursor_execute", count)
        counts.append(len(said))
    assert counts == [6, 6]


def test_tables_that_are_not_known_are_left_to_optuna(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sqlschema._TABLES, "values", ("trial_values", {"another", "column"}))
        with open_ledger(sqlite(tmp_path)) as ledger:
            assert isinstance(ledger._family._trials, PlainTrials)
            work(ledger, [Search(3)], execute(), Limits(), StopFlag())
            assert [r.state for r in ledger.rows()] == ["complete"] * 3
    with open_ledger(sqlite(tmp_path)) as ledger:
        assert isinstance(ledger._family._trials, SqlTrials)
        assert [r.values for r in ledger.rows()] == [(0.5,)] * 3


def test_a_journal_has_no_tables(tmp_path: Path) -> None:
    opened = open_storage(f"journal:{tmp_path / 'study.journal'}")
    assert sql_trials(opened.storage) is None
    opened.close()
