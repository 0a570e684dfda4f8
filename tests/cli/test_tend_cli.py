"""`stop`, `retry`, `zombies`, `enqueue`, `merge` and `doctor --study` as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from kit_cli import files, here, process
from kit_tiny import Tiny, write_study

from fairtune.study.ledger import Failed, Ledger, Options
from fairtune.study.orders import STOPPED_BY
from fairtune.study.place import Place
from fairtune.study.rows import due

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return lambda *words: here(words, monkeypatch, capsys)


@pytest.fixture
def copied(tiny: Tiny, tmp_path: Path) -> Tiny:
    return tiny.copy(tmp_path / "out")


def at(tiny: Tiny) -> list[object]:
    return ["tiny", "--out", tiny.place.out]


def lost(tiny: Tiny, worker: str) -> Ledger:
    """Let another worker take one more trial of the search, and return its ledger."""
    from fairtune.study.search import phases

    plan = tiny.plan({"budget": {"trials": 6}})
    options = Options(sampler=plan.study.sampler, worker=worker, patience=20.0)  # type: ignore[arg-type]
    ledger = Ledger.open(tiny.place.url, "tiny", options=options)
    (claim,) = ledger.claim([phases(plan)[1]], at_most=1)
    assert claim.number == 4
    return ledger


def test_stop_says_whom_it_reaches(copied: Tiny, call: Call) -> None:
    code, out, _ = call("stop", *at(copied))
    assert code == 0
    assert "leave after their run" in out
    assert "none has a run under way" in out
    with lost(copied, "node7:12:x:y"):
        code, out, _ = call("stop", *at(copied), "--now")
        assert "leave at the next step: they hear it within a minute" in out
        assert "  search 5 on node7:12" in out
        _, out, _ = call("status", *at(copied))
        assert "its workers leave at the next step of search 5" in out


def test_retry_names_what_it_will_try(copied: Tiny, call: Call) -> None:
    code, out, _ = call("retry", *at(copied), "--failed")
    assert (code, out) == (0, "no run of tiny has failed for good\n")
    code, _, err = call("retry", *at(copied))
    assert (code, "--failed for all" in err) == (2, True)
    code, _, err = call("retry", *at(copied), "1")
    assert (code, "has not failed for good" in err) == (2, True)
    with lost(copied, "node7:12:x:y") as ledger:
        claim = next(iter(ledger._mine.values()))
        ledger.finish(claim, Failed("nan"))
        code, out, _ = call("retry", *at(copied), "--failed", "5")
        assert code == 0
        assert out.splitlines() == [
            "1 run(s) will be tried again, as if for the first time:",
            "  search 5, failed by nan  (waits: the search has fewer trials now)",
        ]
        assert len(due(ledger.rows())) == 1


def test_zombies_are_listed_and_given_up(copied: Tiny, call: Call) -> None:
    assert call("zombies", *at(copied))[1] == "tiny has none\n"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    from fairtune.study.options import worker_name

    host, _, space, mark = worker_name().split(":")
    with lost(copied, f"{host}:{gone.pid}:{space}:{mark}") as ledger:
        _, out, _ = call("zombies", *at(copied))
        assert f"search 5 on {host}:{gone.pid}: its process has ended\n" in out
        assert "`--fail` gives them up" in out
        _, out, _ = call("zombies", *at(copied), "--fail")
        assert "(given up: it is tried again)" in out
        assert [row.reason for row in due(ledger.rows())] == ["stale"]
    assert call("zombies", *at(copied), "--fail")[1] == "tiny has none\n"
    code, _, err = call("zombies", *at(copied), "--seconds", 5)
    assert (code, "120" in err) == (2, True)


def test_enqueue_says_all_that_the_point_is(copied: Tiny, call: Call) -> None:
    code, out, _ = call(
        "enqueue", *at(copied), "--mask", "block:0", "--set", "optim.lr=2e-3", "--label", "mine"
    )
    assert code == 0
    head, note = out.splitlines()
    assert head.startswith("mine comes next: mask ")
    assert head.endswith(", optim.lr 0.002 (--set)")
    assert note.startswith("the search has ended (budget.trials: 4 trials)")
    assert "enqueued: mine" in call("status", *at(copied))[1]
    recipe = copied.view.runs.folder(copied.view.rows["search"][0].key) / "recipe.json"
    code, _, err = call("enqueue", *at(copied), "--mask", recipe)
    assert (code, "the point was run already" in err) == (2, True)
    code, _, err = call("enqueue", *at(copied), "--mask", "block:0", "--layout", "auto_peft1")
    assert (code, "--layout" in err) == (2, True)
    copied.search(budget={"trials": 5}, confirm={"top": 0})
    last = copied.view.rows["search"][-1]
    assert (last.kind, last.state, last.attrs["label"]) == ("enqueued", "complete", "mine")
    assert last.recipe["optim"]["lr"] == 2e-3


def test_merge_moves_a_study_and_the_folder_remembers(
    copied: Tiny, tmp_path: Path, call: Call
) -> None:
    target = f"journal:{tmp_path / 'to.journal'}"
    words = ["merge", *at(copied), "--from", copied.place.url, "--storage", target]
    code, out, _ = call(*words)
    assert code == 0
    assert out.startswith(f"made tiny in {target}: ")
    assert " 4 search" in out
    code, out, _ = call(*words)
    assert "added to tiny" in out
    assert ": nothing\n" in out
    assert "had a result there already" in out
    code, out, _ = call("status", *at(copied))
    assert target in out.splitlines()[0]
    code, _, err = call("merge", *at(copied), "--from", f"{tmp_path}/none.db")
    assert (code, "there is no such storage file" in err) == (2, True)


def test_doctor_says_that_a_study_holds_or_not(copied: Tiny, call: Call) -> None:
    words = ["doctor", "--study", *at(copied)]
    code, out, _ = call(*words)
    assert code == 0
    assert out.startswith("study tiny: ")
    assert out.endswith(" values computed anew: all of it agrees\n")
    run = copied.view.runs.folder(copied.view.rows["search"][0].key)
    (run / "val.parquet").write_bytes(b"")
    code, out, _ = call(*words)
    assert code == 1
    assert out.startswith("search 1: val.parquet is not what was written")
    assert out.endswith(": 1 finding\n")
    code, out, _ = call(*words, "--format", "json")
    assert (code, len(json.loads(out)["findings"])) == (1, 1)
    code, _, err = call("doctor", "--storage", "x.db")
    assert (code, "--study NAME" in err) == (2, True)


TORCHLESS = """
import json, sys
from fairtune.cli.app import main

for words in json.loads(sys.argv[1]):
    sys.argv = ["fairtune", *words]
    try:
        main()
    except SystemExit as left:
        assert not left.code, (words, left.code)
    assert "torch" not in sys.modules, words
"""


def test_tending_needs_no_torch(copied: Tiny, tmp_path: Path) -> None:
    commands: Sequence[Sequence[str]] = (
        ("status",),
        ("stop",),
        ("retry", "--failed"),
        ("zombies",),
        ("enqueue", "--mask", "block:0"),
        ("doctor", "--study"),
        ("merge", "--storage", f"journal:{tmp_path}/to.journal", "--from", copied.place.url),
    )
    given = [[*words, "tiny", "--out", str(copied.place.out)] for words in commands]
    done = subprocess.run(
        [sys.executable, "-c", TORCHLESS, json.dumps(given)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["stop", "retry", "zombies", "enqueue", "merge"])
def test_a_study_that_is_not_there_leaves_nothing_behind(
    tmp_path: Path, call: Call, command: str
) -> None:
    more = {
        "retry": ["--failed"], "enqueue": ["--mask", "norm:all"],
        "merge": ["--from", f"sqlite:///{tmp_path}/none.db"],
    }.get(command, [])  # fmt: skip
    code, _, err = call(command, "none", "--out", tmp_path, *more)
    assert code == 2
    assert "Traceback" not in err
    assert files(tmp_path) == set()


@pytest.mark.slow  # a real search in a process of its own, from start to its second trial
def test_a_search_is_stopped_from_elsewhere_and_goes_on(tmp_path: Path, call: Call) -> None:
    file = write_study(
        tmp_path / "in", baselines=["norm:all"], confirm={"top": 0}, budget={"trials": 40}
    )
    out = tmp_path / "out"
    child = process(["search", file, "--out", out])
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("search 1/40"):
            break
    code, _, _ = call("stop", "tiny", "--out", out)
    assert code == 0
    rest, err = child.communicate(timeout=300)
    assert child.returncode == 130, err
    assert STOPPED_BY in rest
    with Ledger.open(Place(out, "tiny").url, "tiny") as ledger:
        rows = ledger.rows()
    assert 0 < len(rows) < 40
    assert {row.state for row in rows} == {"complete"}
    assert "stopped by `fairtune stop`" in call("status", "tiny", "--out", out)[1]
