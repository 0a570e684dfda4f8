"""The loop: alone, with others, stopped, killed and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kit_ledger import SPACE, Keyed, Search, execute, journal, open_ledger, sqlite

from fairtune.errors import Interrupted, StorageAway, StorageError, StudyError
from fairtune.study.ledger import Claim, Complete, Failed, Outcome
from fairtune.study.opening import once_there
from fairtune.study.rows import Row, counts, roots, valid
from fairtune.study.samplers.tpe import Tpe
from fairtune.study.worker import Exit, Limits, StopFlag, work

QUICK = Limits(idle=0.02)
HERE = Path(__file__).parent


def drawn(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dict(row.params) for row in roots(rows)]


def by_lr(params: Any) -> float:
    return float(params["lr"]) if params else 0.0


def test_it_runs_every_phase_and_leaves(tmp_path: Path) -> None:
    seen: list[str] = []

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            seen.append(claim.phase)
            yield claim, Complete([0.5])

    with open_ledger(tmp_path) as ledger:
        phases = [Keyed(["a", "b"]), Search(4), Keyed(["c"], name="confirm")]
        assert work(ledger, phases, run, Limits(together=3), StopFlag()) is Exit.DONE
        assert seen == ["baseline"] * 2 + ["search"] * 4 + ["confirm"]
        assert work(ledger, phases, run, QUICK, StopFlag()) is Exit.DONE
        assert len(seen) == 7
        assert [len(ledger.rows(p)) for p in ("baseline", "search", "confirm")] == [2, 4, 1]


def test_outcomes_are_stored_as_they_come(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger, open_ledger(tmp_path) as reader:
        done: list[int] = []

        def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
            for claim in claims:
                done.append(counts(reader.rows())["complete"])
                yield claim, Complete([0.5])

        work(ledger, [Search(3)], run, Limits(together=3), StopFlag())
        assert done == [0, 1, 2]


def test_a_stop_leaves_after_the_run_and_gives_back_the_rest(tmp_path: Path) -> None:
    stop = StopFlag()

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        yield claims[0], Complete([0.5])
        stop.request("Ctrl-C")

    with open_ledger(tmp_path) as ledger:
        limits = Limits(together=3)
        assert work(ledger, [Search(5)], run, limits, stop) is Exit.STOPPED
        assert stop.reason() == "Ctrl-C"
        assert [row.reason for row in ledger.rows()] == [None, "stopped", "stopped"]
        assert work(ledger, [Search(5)], execute(), limits, StopFlag()) is Exit.DONE
        assert counts(ledger.rows())["complete"] == len(roots(ledger.rows())) == 5
        assert [(r.attempt, r.root) for r in ledger.rows()[3:5]] == [(1, 1), (1, 2)]


def test_a_worker_whose_node_is_broken_leaves(tmp_path: Path) -> None:
    def broken(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, Failed("error", "no CUDA device", retry=True)

    stop = StopFlag()
    with open_ledger(tmp_path) as ledger:
        assert work(ledger, [Search(50)], broken, Limits(failures=3), stop) is Exit.STOPPED
        assert stop.reason() == "3 runs failed one after another"
        assert len(ledger.rows()) == 3


def test_one_success_between_failures_is_enough_to_stay(tmp_path: Path) -> None:
    def sometimes(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            fine = claim.number % 3 == 2
            yield claim, Complete([0.5]) if fine else Failed("error", "x")

    with open_ledger(tmp_path) as ledger:
        assert work(ledger, [Search(9)], sometimes, Limits(), StopFlag()) is Exit.DONE
        assert counts(ledger.rows())["failed"] == 6


def test_a_stop_flag_ends_by_its_own_clock() -> None:
    now = [0.0]
    stop = StopFlag(10.0, clock=lambda: now[0])
    assert stop.reason() is None
    now[0] = 10.0
    stop.wait(1000.0)
    assert stop.reason() == "the time is over"
    stop.request("later")
    assert stop.reason() == "the time is over"


def test_it_waits_while_others_run_and_takes_over_when_they_vanish(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as lost:
        (claim,) = lost.claim([Search(1)], at_most=1)
        with open_ledger(tmp_path, grace=0.3) as ledger:
            before = time.monotonic()
            assert work(ledger, [Search(1)], execute(), QUICK, StopFlag()) is Exit.DONE
            assert time.monotonic() - before >= 0.3
            rows = ledger.rows()
            assert [(r.state, r.reason) for r in rows] == [
                ("failed", "stale"),
                ("complete", None),
            ]
            assert rows[1].key == claim.proposal.key


def in_threads(url: str, count: int, run: Callable[[int], None]) -> None:
    faults: list[BaseException] = []

    def guarded(slot: int) -> None:
        try:
            run(slot)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=guarded, args=(slot,)) for slot in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


def six_workers(url: str, same_slot: bool, trials: int) -> None:
    """Six workers on one study: exactly as many runs as the budget, no key twice."""
    phases = [Keyed(["a", "b", "c", "d"]), Search(trials)]

    def run(slot: int) -> None:
        with open_ledger(url, slot=0 if same_slot else slot, patience=60.0) as ledger:
            assert work(ledger, phases, execute(by_lr), QUICK, StopFlag()) is Exit.DONE

    open_ledger(url).close()
    in_threads(url, 6, run)
    with open_ledger(url) as ledger:
        rows, keyed = ledger.rows(), ledger.rows("baseline")
        done = [row.key for row in rows if row.state == "complete"]
        assert len(done) == len(set(done)) == len(roots(rows)) == trials
        assert len(valid(keyed)) == 4
        assert sorted(r.attrs["label"] for r in keyed if r.state == "complete") == list("abcd")
        others = {row.reason for row in [*rows, *keyed] if row.state != "complete"}
        assert others <= {"budget", "duplicate"}
        assert [row.number for row in rows] == list(range(len(rows)))


@pytest.mark.slow
@pytest.mark.parametrize("make", [sqlite, journal])
@pytest.mark.parametrize("same_slot", [True, False])
def test_six_workers_keep_the_budget(
    tmp_path: Path, make: Callable[[Path], str], same_slot: bool
) -> None:
    six_workers(make(tmp_path), same_slot, trials=20)


@pytest.mark.slow
@pytest.mark.needs("postgres")
def test_six_workers_keep_the_budget_on_postgresql(postgres_url: str) -> None:
    six_workers(postgres_url, same_slot=True, trials=30)


def test_six_workers_on_one_journal(tmp_path: Path) -> None:
    six_workers(journal(tmp_path), same_slot=True, trials=8)


def study_of(folder: Path, stops: Sequence[int], trials: int = 16) -> list[Row]:
    """Run a study that is stopped during the rows `stops` and resumed each time."""
    folder.mkdir()
    left = list(stops)
    while True:
        stop = StopFlag()

        def run(claims: Sequence[Claim], stop: StopFlag = stop) -> Iterator[tuple[Claim, Outcome]]:
            (claim,) = claims
            if left and claim.number >= left[0]:
                left.pop(0)
                stop.request("Ctrl-C")
                return
            yield claim, Complete([by_lr(claim.proposal.params)])

        with open_ledger(folder, sampler=Tpe(startup=4), seed=7) as ledger:
            if work(ledger, [Search(trials)], run, Limits(), stop) is Exit.DONE:
                return ledger.rows()


def test_with_one_worker_a_seed_gives_the_same_points(tmp_path: Path) -> None:
    one, two = study_of(tmp_path / "1", []), study_of(tmp_path / "2", [])
    assert drawn(one) == drawn(two)
    assert [r.values for r in one] == [r.values for r in two]
    with open_ledger(tmp_path / "1", "other", seed=8, sampler=Tpe(startup=4)) as ledger:
        work(ledger, [Search(16)], execute(by_lr), Limits(), StopFlag())
        assert drawn(ledger.rows())[0] != drawn(one)[0]


def test_a_study_stopped_and_resumed_draws_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, pieces = study_of(tmp_path / "1", []), study_of(tmp_path / "2", [3, 9, 10])
    assert len(pieces) == len(whole) + 3
    assert drawn(pieces) == drawn(whole)
    assert [r.params for r in pieces if r.state == "complete"] == [r.params for r in whole]


WORKER = """
import sys, time
sys.path.insert(0, {here!r})
from kit_ledger import *
from fairtune.study.worker import *

def run(claims):
    for claim in claims:
        print(claim.number, flush=True)
        if claim.number == {hang}:
            time.sleep(600)
        yield claim, Complete([0.5])

with open_ledger({url!r}, grace={grace}, beat_every=0.1) as ledger:
    print(work(ledger, [Search(6)], run, Limits(idle=0.05), StopFlag()))
"""


@pytest.mark.parametrize("make", [sqlite, journal])
def test_a_killed_worker_costs_no_finished_row(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    url = make(tmp_path)
    script = WORKER.format(here=str(HERE), url=url, hang=3, grace=60.0)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert [int(killed.stdout.readline()) for _ in range(4)] == [0, 1, 2, 3]
        with open_ledger(url) as watcher:
            while watcher.rows()[3].beat < 2:
                time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    script = WORKER.format(here=str(HERE), url=url, hang=-1, grace=0.5)
    fresh = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert fresh.stdout.splitlines()[-1] == "Exit.DONE"
    with open_ledger(url) as ledger:
        rows = ledger.rows()
        assert [row.number for row in rows if row.state == "complete"] == [0, 1, 2, 4, 5, 6]
        assert (rows[3].state, rows[3].reason) == ("failed", "stale")
        retry = next(row for row in rows if row.attempt == 1)
        assert (retry.root, retry.key, retry.state) == (3, rows[3].key, "complete")
        assert len({row.worker for row in rows}) == 2
        assert len(roots(rows)) == 6


def test_no_torch_and_no_output(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from kit_ledger import *\n"
        "from fairtune.study.worker import *\n"
        f"with open_ledger({journal(tmp_path)!r}) as ledger:\n"
        "    work(ledger, [Search(2)], execute(), Limits(), StopFlag())\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_space_of_the_kit_is_what_is_drawn(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        work(ledger, [Search(5)], execute(by_lr), Limits(), StopFlag())
        for row in ledger.rows():
            assert row.dimensions == SPACE
            assert all(SPACE[name].contains(value) for name, value in row.params.items())


def test_a_worker_leaves_after_the_runs_it_may_make(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        limits = Limits(together=2, runs=3)
        assert work(ledger, [Search(8)], execute(), limits, StopFlag()) is Exit.SPENT
        assert counts(ledger.rows())["complete"] == 3
        assert work(ledger, [Search(3)], execute(), limits, StopFlag()) is Exit.DONE


def test_a_worker_need_not_wait_for_others(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as other, open_ledger(tmp_path) as ledger:
        other.claim([Search(1)], at_most=1)
        left = work(ledger, [Search(1)], execute(), Limits(waits=False), StopFlag())
        assert left is Exit.IDLE


def test_a_worker_that_is_to_leave_does_not_insist_on_a_storage_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopFlag()
    with open_ledger(tmp_path) as ledger:

        def away(phases: object = ()) -> list[Row]:
            raise StorageError("the storage did not answer")

        monkeypatch.setattr(ledger, "reap", away)
        with pytest.raises(StorageError):
            work(ledger, [Search(1)], execute(), QUICK, stop)

        def away_and_told(phases: object = ()) -> list[Row]:
            stop.request("SIGTERM")
            return away()

        monkeypatch.setattr(ledger, "reap", away_and_told)
        assert work(ledger, [Search(1)], execute(), QUICK, stop) is Exit.STOPPED


def test_a_worker_waits_for_a_storage_that_comes_late() -> None:
    asked: list[int] = []

    def late() -> str:
        asked.append(1)
        if len(asked) < 2:
            raise StorageAway("the storage cannot be opened")
        return "open"

    assert once_there(late, StopFlag()) == "open"
    with pytest.raises(StorageAway):
        once_there(raising(StorageAway("nobody")), StopFlag(), seconds=0.0)
    with pytest.raises(StudyError):
        once_there(raising(StudyError("no such study")), StopFlag())
    stop = StopFlag()
    stop.request("SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM"):
        once_there(raising(StorageAway("nobody")), stop)


def raising(error: Exception) -> Callable[[], str]:
    def open_() -> str:
        raise error

    return open_
