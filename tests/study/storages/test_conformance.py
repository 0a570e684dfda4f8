"""The laws of the ledger hold on every kind of storage."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy
from kit_ledger import Search, bits, open_ledger, proposal

from fairtune.errors import StudyError
from fairtune.study.family import Family, study_names
from fairtune.study.ledger import Claim, Complete, Failed, Ledger
from fairtune.study.rows import due, roots
from fairtune.study.storages import engine_of, open_storage
from fairtune.study.storages.chunks import SIZE


def only(ledger: Ledger, phase: Any) -> Claim:
    (claim,) = ledger.claim([phase], at_most=1)
    return claim


def test_a_row_is_drawn_beats_ends_and_is_read_by_others_as_it_was_written(url: str) -> None:
    with open_ledger(url, worker="me") as ledger:
        claim = only(ledger, Search(2))
        claim.progress["epoch"] = 3
        ledger._desk.beat(claim)
        assert [(r.state, r.beat, r.progress) for r in ledger.rows()] == [
            ("running", 1, {"epoch": 3})
        ]
        ledger.finish(claim, Complete([0.1 + 0.2], {"note": "ü"}, {"floor": -0.5, "gap": 1e-17}))
        row = ledger.rows()[0]
        assert (row.state, row.values, row.attrs["note"]) == ("complete", (0.1 + 0.2,), "ü")
        assert row.constraints == {"floor": -0.5, "gap": 1e-17}
        assert row.proposal() == claim.proposal
    with open_ledger(url) as again:
        assert again.rows() == [row]


def test_a_run_whose_worker_is_silent_is_failed_once_and_tried_again(url: str) -> None:
    now = [0.0]
    with (
        open_ledger(url, clock=lambda: now[0], grace=10.0) as one,
        open_ledger(url, clock=lambda: now[0], grace=10.0) as two,
        open_ledger(url) as lost,
    ):
        gone = only(lost, Search(1))
        one.reap(), two.reap()
        now[0] += 11.0
        assert [len(one.reap()), len(two.reap())] == [1, 0]
        again = only(two, Search(1))
        assert (again.attempt, again.root, again.proposal.key) == (1, 0, gone.proposal.key)
        two.finish(again, Complete([0.5]))
        lost.finish(gone, Complete([0.4]))
        rows = one.rows()
        assert [(r.state, r.reason) for r in rows] == [("failed", "stale"), ("complete", None)]
        assert len(roots(rows)) == 1
        assert due(rows) == []


def test_workers_that_race_share_the_budget_and_double_nothing(url: str) -> None:
    trials, faults = 6, []
    open_ledger(url).close()

    def worker(slot: int) -> None:
        try:
            with open_ledger(url, slot=slot, worker=f"w{slot}") as ledger:
                while claims := ledger.claim([Search(trials)], at_most=1):
                    ledger.finish(claims[0], Complete([0.5]))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=worker, args=(slot,)) for slot in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with open_ledger(url) as ledger:
        rows = ledger.rows()
    assert [row.number for row in rows] == list(range(len(rows)))
    done = [row for row in rows if row.state == "complete"]
    assert len({row.key for row in done}) == len(done) == trials
    assert {row.reason for row in rows if row.state == "failed"} <= {"budget", "duplicate"}


def test_a_wide_row_is_one_transaction_and_few_commits(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(url) as ledger:
        claim = only(ledger, Search(1, bits(200)))
        storage, written = ledger._family.opened.storage, []
        engine = engine_of(storage)
        if engine is not None:
            sqlalchemy.event.listen(engine, "commit", lambda _: written.append("commit"))
        for name in [n for n in dir(storage) if n.startswith(("set_", "create_"))]:
            real = getattr(storage, name)
            monkeypatch.setattr(
                storage, name, lambda *a, n=name, r=real, **k: (written.append(n), r(*a, **k))[1]
            )
        ledger.finish(claim, Complete([0.5], {"a": 1}, {"x": 0.1}))
        assert only(ledger, Search(2, bits(200))).number == 1
        # A database is written in two transactions, any other storage by Optuna's own calls.
        expected = ["commit"] * 2 if engine is not None else ["create_new_trial"]
        assert [w for w in written if w in ("commit", "create_new_trial")] == expected
        assert len(written) <= 10
    with open_ledger(url) as ledger:
        assert len(ledger.rows()[0].params) == 200


def test_names_and_attributes_of_any_length_and_script(url: str) -> None:
    long = {"units": [f"blocks.{i}.größe" for i in range(30_000)]}
    other = {"units": ["x" * SIZE]}
    assert study_names_of(url, "Hautläsion-皮膚") == ["Hautläsion-皮膚"]
    with open_ledger(url, "Hautläsion-皮膚") as ledger:
        for value in ({"a": 1}, long, other, long, [1]):
            ledger.set_attr("plan", value)
            assert ledger.attrs()["plan"] == value
        ledger.set_attr("plan", long)
        assert set(ledger.attrs()) == {"identity", "plan"}
    with open_ledger(url, "Hautläsion-皮膚", create=False) as ledger:
        assert ledger.attrs()["plan"] == long


def study_names_of(url: str, name: str) -> list[str]:
    open_ledger(url, name).close()
    return study_names(url)


def test_a_final_row_and_what_was_said_before_it(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.set_attr("opening:1", {"by": "x"}, phase="final")
        made = proposal({}, {}, kind="confirm")
        assert ledger.append_final(made, [0.5], {"auc": 0.7}) == 0
        assert ledger.attrs("final") == {"opening:1": {"by": "x"}}
        assert ledger.rows("final")[0].attrs["auc"] == 0.7


def test_an_error_is_tried_again_and_its_words_are_kept(url: str) -> None:
    said = "Traceback: " + "é" * 1000
    with open_ledger(url) as ledger:
        ledger.finish(only(ledger, Search(1)), Failed("oom", said, retry=True))
        assert only(ledger, Search(1)).attempt == 1
        assert ledger.rows()[0].attrs["detail"] == said


def test_who_only_reads_makes_no_study(url: str) -> None:
    open_ledger(url, "a").close()
    with pytest.raises(StudyError, match="there is no study 'b'"):
        open_ledger(url, "b", create=False)
    opened = open_storage(url, must_exist=True)
    try:
        assert Family(opened, "a", 5.0).names() == ["a"]
    finally:
        opened.close()
