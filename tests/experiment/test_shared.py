"""Runs that machines share: one law for every kind of place, with results folders as machines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit import session, tiny_recipe
from kit_tiny import MINIMUM

from fairtune import store
from fairtune.errors import StorageError
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import Stopped, Unwatched, run
from fairtune.experiment.runs import Runs
from fairtune.experiment.shared import MARK, SharedRuns
from fairtune.experiment.stored import DONE, TEST, WEIGHTS, StoredRun
from fairtune.remote import Remote
from fairtune.training import checkpoint
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job

JUDGE = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})
KINDS = ["file", "memory", pytest.param("s3", marks=pytest.mark.needs("s3"))]
KEY = "ab" + "0" * 30
FILES = {"recipe.json": b"{}", "val.parquet": b"v" * 1000, "attempts/0/log.jsonl": b"", "é": b"1"}


class Killed(BaseException):
    """What a kill looks like from inside: nothing is cleared up."""


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where machines share runs."""
    return place(request, tmp_path)


def place(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/runs"
    return (folder / "shared").as_uri()


@pytest.fixture
def machines(url: str, tmp_path: Path) -> tuple[Runs, Runs, Runs]:
    """Three machines that see the same runs and no file of each other."""
    one, two, three = (Runs.at(tmp_path / name, url) for name in "abc")
    return one, two, three


def filled(runs: Runs, files: Mapping[str, bytes] = FILES, key: str = KEY) -> StoredRun:
    def fill(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    return runs.write(key, fill)


def content(run: StoredRun | None) -> dict[str, bytes]:
    assert run is not None
    return {
        str(p.relative_to(run.folder)): p.read_bytes()
        for p in run.folder.rglob("*")
        if p.is_file() and p.name not in (DONE, MARK)
    }


def remote(runs: Runs) -> Remote:
    assert runs.shared is not None
    return runs.shared.remote


def cut(runs: Runs) -> Runs:
    """The same machine with its network cut: whatever is asked fails."""

    class Cut:
        url = remote(runs).url

        def __getattr__(self, name: str) -> object:
            raise StorageError(f"the network is cut: {name}")

    return replace(runs, shared=SharedRuns(Cut()))  # type: ignore[arg-type]


def test_what_one_machine_writes_another_gets(machines: tuple[Runs, Runs, Runs]) -> None:
    one, two, _ = machines
    assert one.get(KEY) is None
    made = filled(one)
    got = two.get(KEY)
    assert content(got) == content(made) == FILES
    assert got is not None
    assert got.folder == two.folder(KEY)
    assert (got.folder / DONE).read_bytes() == (made.folder / DONE).read_bytes()
    # What is here and shared is read without asking anybody.
    for runs in (one, two):
        assert content(cut(runs).get(KEY)) == FILES
    with pytest.raises(StorageError, match="cut"):
        cut(two).get("ac" + KEY[2:])


def test_what_another_machine_added_is_got_while_it_may_be(
    machines: tuple[Runs, Runs, Runs],
) -> None:
    one, two, three = machines
    with_weights = FILES | {WEIGHTS: b"w" * 5000}
    made = filled(one, with_weights)
    assert content(two.get(KEY)) == with_weights
    one.update(made, {TEST: b"t", "recipe.json": b"{1}"})
    tested = with_weights | {TEST: b"t", "recipe.json": b"{1}"}
    assert content(one.get(KEY)) == tested
    got = two.get(KEY)
    assert content(got) == tested
    assert got is not None
    assert got.has_test
    assert content(cut(two).get(KEY)) == tested
    assert content(three.get(KEY)) == tested


def test_a_run_made_again_with_weights_is_got_by_who_wants_them(
    machines: tuple[Runs, Runs, Runs],
) -> None:
    one, two, _ = machines
    filled(one)
    two.get(KEY)
    filled(one, FILES | {WEIGHTS: b"w"})
    assert content(two.get(KEY)) == FILES
    assert content(two.get(KEY, weights=True)) == FILES | {WEIGHTS: b"w"}


def test_only_what_is_new_is_put_again(
    machines: tuple[Runs, Runs, Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = machines
    made = filled(one, FILES | {WEIGHTS: b"w" * 5000})
    put: list[str] = []
    real = Remote.put

    def counted(self: Remote, files: Mapping[str, Path]) -> None:
        put.extend(path.rsplit("/", 1)[1] for path in files)
        real(self, files)

    monkeypatch.setattr(Remote, "put", counted)
    one.update(made, {TEST: b"t"})
    assert put == [TEST]
    assert content(two.get(KEY)) == FILES | {WEIGHTS: b"w" * 5000, TEST: b"t"}


@pytest.mark.parametrize("at", ["put", "write"])
def test_a_run_that_was_not_put_whole_does_not_count_and_is_put_later(
    at: str, machines: tuple[Runs, Runs, Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = machines

    def die(self: Remote, *given: object) -> None:
        if at == "put":
            (path, file), *_ = given[0].items()  # type: ignore[attr-defined]
            self.write(path, file.read_bytes()[:10])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Remote, at, die)
        with pytest.raises(Killed):
            filled(one)
    assert content(StoredRun(one.folder(KEY))) == FILES
    assert two.get(KEY) is None
    assert not two.folder(KEY).exists()
    assert content(one.get(KEY)) == FILES
    assert content(two.get(KEY)) == FILES


def test_a_run_that_cannot_be_put_stays_and_is_put_when_asked_for(
    machines: tuple[Runs, Runs, Runs],
) -> None:
    one, two, _ = machines
    with pytest.raises(StorageError, match="cut"):
        filled(cut(one))
    with pytest.raises(StorageError, match="cut"):
        cut(one).get(KEY)
    assert two.get(KEY) is None
    assert content(one.get(KEY)) == FILES
    assert content(two.get(KEY)) == FILES


def test_a_run_from_before_runs_were_shared_is_put_when_asked_for(
    machines: tuple[Runs, Runs, Runs],
) -> None:
    one, two, _ = machines
    filled(Runs(one.out))
    assert two.get(KEY) is None
    assert content(one.get(KEY)) == FILES
    assert content(two.get(KEY)) == FILES


def test_a_run_not_put_gives_way_to_the_same_run_tested_elsewhere(
    machines: tuple[Runs, Runs, Runs],
) -> None:
    one, two, three = machines
    filled(Runs(one.out), FILES | {WEIGHTS: b"1"})
    made = filled(two, FILES | {WEIGHTS: b"2"})
    two.update(made, {TEST: b"t"})
    for runs in (one, three):
        assert content(runs.get(KEY)) == FILES | {WEIGHTS: b"2", TEST: b"t"}


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "DONE"])
def test_a_damaged_run_is_refused_and_mended_by_who_makes_it(
    damage: str, machines: tuple[Runs, Runs, Runs], caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = machines
    filled(one)
    there = remote(one)
    (file,) = [name for name in there.names(KEY[:2]) if name.endswith("/val.parquet")]
    if damage == "gone":
        there.remove([file])
    elif damage == "DONE":
        there.write(f"{KEY[:2]}/{KEY}/{DONE}", b'{"val.parquet": [1000')
    else:
        there.write(file, b"x" * 1000 if damage == "changed" else b"v" * 999)
    with caplog.at_level(logging.WARNING):
        assert two.get(KEY) is None
    assert "is damaged and does not count" in caplog.text
    assert not [p for p in two.out.rglob("*") if p.is_file() and p.name != ".lock"]
    filled(two)
    assert content(three.get(KEY)) == FILES
    # Where a good copy lies, what the message says puts it anew.
    if damage != "DONE":
        there.write(file, b"")
    (one.folder(KEY) / MARK).unlink()
    one.get(KEY)
    assert content(Runs(three.out / "d", three.shared).get(KEY)) == FILES


@pytest.mark.parametrize("name", ["../../../out", "/tmp/fairtune-out", "a/../../../out"])
def test_a_run_cannot_write_outside_its_folder(
    name: str, machines: tuple[Runs, Runs, Runs], tmp_path: Path
) -> None:
    one, two, _ = machines
    sha = store.file_sha256(filled(one, {"x": b"1"}).folder / "x")
    remote(one).write(f"{KEY[:2]}/{KEY}/{DONE}", json.dumps({name: [1, sha]}).encode())
    assert two.get(KEY) is None
    assert not list(tmp_path.rglob("out"))
    assert not Path("/tmp/fairtune-out").exists()


def test_of_several_writers_one_wins_wholly(machines: tuple[Runs, Runs, Runs]) -> None:
    one, two, three = machines
    ends = threading.Event()

    def write(runs: Runs, mark: bytes) -> None:
        for number in range(6):
            filled(runs, {n: mark + bytes([number]) for n in ("x", "y", "z")})
        ends.set()

    threads = [threading.Thread(target=write, args=a) for a in ((one, b"1"), (two, b"2"))]
    for thread in threads:
        thread.start()
    seen = []
    while not ends.is_set() or not seen:
        got = Runs(three.out / str(len(seen)), three.shared).get(KEY)
        if got is not None:
            seen.append(content(got))
    for thread in threads:
        thread.join()
    seen.append(content(Runs(three.out / "last", three.shared).get(KEY)))
    assert all(len(set(files.values())) == 1 and len(files) == 3 for files in seen)
    assert set(seen[-1].values()) in ({b"1\x05"}, {b"2\x05"})


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_states_are_found_elsewhere_and_go_with_the_end(
    machines: tuple[Runs, Runs, Runs], tmp_path: Path
) -> None:
    one, two, _ = machines
    folder = tmp_path / "attempt"
    folder.mkdir()
    (tensors, state) = (folder / "checkpoint-1.safetensors", folder / "state.json")
    tensors.write_bytes(b"1" * 100)
    state.write_bytes(b"{}")
    here, there = one.states(KEY), two.states(KEY)
    assert here is not None
    assert there is not None
    assert there.attempts() == {}
    here.put("0-aa", [tensors, state])
    assert there.attempts() == {"0-aa": {tensors.name, state.name}}
    assert there.read("0-aa", state.name) == b"{}"
    assert there.read("0-aa", "other") is None
    assert there.get("0-aa", [tensors.name], tmp_path / "got")
    assert (tmp_path / "got" / tensors.name).read_bytes() == b"1" * 100
    assert not there.get("0-aa", ["checkpoint-9.safetensors"], tmp_path / "got")
    # One that went on from it takes its place; one that is unknown to it does not.
    there.put("1-bb", [tensors, state])
    here.put("1-cc", [tensors, state])
    assert set(here.attempts()) == {"1-bb", "1-cc"}
    filled(two)
    assert here.attempts() == {}


class Leaving(Unwatched):
    """Leaves after some epochs and steps, as a worker does that is told to."""

    def __init__(self, after: int, steps: int = 0) -> None:
        self.after, self.steps = after, steps
        self.seen: list[int] = []

    def epoch(self, report: Epoch, values: Mapping[str, float]) -> str | None:
        self.seen.append(report.number)
        return None

    def poll(self) -> str | None:
        if len(self.seen) < self.after:
            return None
        self.steps -= 1
        return "SIGTERM" if self.steps < 0 else None


def test_a_run_goes_on_on_another_machine_as_if_nothing_had_happened(
    machines: tuple[Runs, Runs, Runs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    one, two, three = machines
    opened = session(tmp_path)
    job = Job(opened.resolve(tiny_recipe(optim__epochs=4)), Seeds())
    whole = run(job, opened, Runs(tmp_path / "alone"), JUDGE, keep_weights=True)
    for runs, leaving in ((one, Leaving(1)), (two, Leaving(2, steps=2))):
        left = run(job, opened, runs, JUDGE, watcher=leaving, keep_weights=True)
        assert isinstance(left, Stopped)
        assert left.epochs == leaving.after
    watcher = Leaving(9)
    made = run(job, opened, three, JUDGE, watcher=watcher, keep_weights=True)
    assert isinstance(made, StoredRun)
    assert isinstance(whole, StoredRun)
    assert np.array_equal(made.scores, whole.scores)
    assert (made.folder / WEIGHTS).read_bytes() == (whole.folder / WEIGHTS).read_bytes()
    logs = [
        json.loads(line)
        for file in sorted(made.folder.glob("attempts/*/log.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert [line["epochs_done"] for line in logs if line["event"] == "start"] == [0, 1, 2]
    there = remote(one)
    assert there.names(f"{made.key[:2]}/{made.key}/attempts") == []
    # Who left earlier gets the whole run in place of its own beginnings.
    got = one.get(made.key)
    assert content(got) == content(made)
    no_paths(there, tmp_path)


def no_paths(there: Remote, folder: Path) -> None:
    """Nothing that is shared says where it lay on the machine that made it."""
    names = there.names("")
    assert names
    for name in names:
        assert str(folder).encode() not in (there.read(name) or b""), name


def test_a_place_that_does_not_answer_costs_no_run_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    opened = session(tmp_path)
    job = Job(opened.resolve(tiny_recipe(optim__epochs=3)), Seeds())
    runs = Runs.at(tmp_path / "one", (tmp_path / "shared").as_uri())

    def silent(self: Remote, files: Mapping[str, Path]) -> None:
        raise StorageError("no answer", where=self.url)

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(Remote, "put", silent)
        assert isinstance(run(job, opened, runs, JUDGE, watcher=Leaving(2)), Stopped)
    assert "on this machine alone" in caplog.text
    watcher = Leaving(9)
    assert isinstance(run(job, opened, runs, JUDGE, watcher=watcher), StoredRun)
    lines = (runs.folder(job.recipe.key(job.seeds)) / "attempts/1/log.jsonl").read_text()
    assert '"epochs_done": 2' in lines
    assert watcher.seen == [1, 2, 3]


WRITER = """
import sys
from pathlib import Path
from fairtune.experiment.runs import Runs

def fill(folder):
    for number in range(200):
        (folder / str(number)).write_bytes(bytes([number]) * 100_000)

print("ready", flush=True)
Runs.at(Path(sys.argv[1]), sys.argv[2]).write(sys.argv[3], fill)
"""


@pytest.mark.parametrize("seen", [1, 60, 150])
def test_a_process_killed_while_it_puts_leaves_no_half_run(seen: int, tmp_path: Path) -> None:
    shared, out = tmp_path / "shared", tmp_path / "a"
    command = [sys.executable, "-c", WRITER, str(out), shared.as_uri(), KEY]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as writer:
        deadline = time.monotonic() + 60
        while len(list(shared.rglob("*"))) < seen and writer.poll() is None:
            assert time.monotonic() < deadline
        writer.kill()
    one, two = (Runs.at(tmp_path / name, shared.as_uri()) for name in "ab")
    there = two.get(KEY)
    assert there is None or len(content(there)) == 200
    assert len(content(one.get(KEY))) == 200
    assert content(two.get(KEY)) == content(one.get(KEY))


def test_alone_nothing_but_the_folder_is_written(tmp_path: Path) -> None:
    made = filled(Runs(tmp_path))
    assert sorted(p.name for p in made.folder.parent.iterdir()) == [KEY]
    assert not (made.folder / MARK).exists()
    Runs(tmp_path).update(made, {"x": b"1"})
    assert content(Runs(tmp_path).get(KEY)) == FILES | {"x": b"1"}
    assert set(json.loads((made.folder / DONE).read_text())) == {*FILES, "x"}


@pytest.fixture
def broken_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without second names of files."""

    def refuse(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("fairtune.experiment.runs.os.link", refuse)


@pytest.mark.usefixtures("broken_link")
def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path) -> None:
    made = filled(Runs(tmp_path))
    Runs(tmp_path).update(made, {"x": b"1"})
    assert content(Runs(tmp_path).get(KEY)) == FILES | {"x": b"1"}
