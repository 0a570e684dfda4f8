"""SQLite takes one worker, whoever reads."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from kit_ledger import journal, open_ledger, sqlite

from fairtune.errors import StudyError
from fairtune.study.storages import open_storage, sole_worker

HOLD = """
import sys
from fairtune.study.storages import open_storage, sole_worker

with sole_worker(open_storage(sys.argv[1])):
    print("working", flush=True)
    sys.stdin.read()
"""


def test_a_second_worker_of_sqlite_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with open_ledger(sqlite(tmp_path)) as one, open_ledger(sqlite(tmp_path)) as two:
        with one.alone():
            with pytest.raises(StudyError, match="another worker works on this SQLite") as caught:
                two.alone().__enter__()
            assert "--storage local" in str(caught.value)
            assert "fairtune merge" in str(caught.value)
            assert two.rows() == []
            two.set_attr("a", 1)
        with two.alone():
            pass


def test_the_lock_ends_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, sqlite(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    opened = open_storage(sqlite(tmp_path))
    assert not opened.many
    with pytest.raises(StudyError), sole_worker(opened):
        pass
    child.kill()
    child.communicate()
    with sole_worker(opened):
        pass
    opened.close()


def test_other_storages_take_several_workers(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            ledger = stack.enter_context(open_ledger(journal(tmp_path)))
            stack.enter_context(ledger.alone())
        assert open_storage(journal(tmp_path)).many
