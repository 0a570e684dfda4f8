"""The store under crashes, races, damage and a full disk: real processes, a real file system."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fairtune import store
from fairtune.errors import StorageError

DAY = 24 * 3600.0


def fill(text: str = "content") -> Callable[[Path], None]:
    """Return a `make` that writes two files, one of them in a folder."""

    def make(folder: Path) -> None:
        (folder / "a.txt").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "b.bin").write_bytes(bytes(range(256)))

    return make


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} was made although it was there")


def everything(root: Path) -> list[str]:
    """Return every path below `root` that is not a lock."""
    paths = (str(p.relative_to(root)) for p in root.rglob("*"))
    return sorted(path for path in paths if not path.endswith(".lock"))


def run(code: str, *arguments: object, **keywords: object) -> subprocess.Popen[str]:
    """Start `code` in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords
    )  # type: ignore[call-overload]


def age(folder: Path, days: float) -> None:
    """Make `folder` look last used `days` ago."""
    then = time.time() - days * DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    folder = store.get_or_make("packs", "k1", fill(), root=tmp_path)
    assert folder == tmp_path / "packs" / "k1"
    assert (folder / "a.txt").read_text() == "content"
    assert store.get_or_make("packs", "k1", never, root=tmp_path) == folder


def test_the_checksums_name_every_file(tmp_path: Path) -> None:
    folder = store.get_or_make("packs", "k1", fill(), root=tmp_path)
    record = json.loads((folder / store.CHECKSUMS).read_text())
    assert set(record) == {"a.txt", "deep/b.bin"}
    assert record["deep/b.bin"] == [256, store.file_sha256(folder / "deep" / "b.bin")]


def test_a_make_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        fill()(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.get_or_make("packs", "k1", make, root=tmp_path)
    assert everything(tmp_path) == ["packs"]


def test_a_killed_make_is_never_seen_and_is_cleared_by_the_next(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from fairtune import store

        def make(folder):
            (folder / "a.txt").write_text("half")
            print("half", flush=True)
            time.sleep(60)

        store.get_or_make("packs", "k1", make, root=Path(sys.argv[1]))
    """
    with run(code, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "packs" / "k1").exists()
    assert any(name.endswith("a.txt") for name in everything(tmp_path))
    folder = store.get_or_make("packs", "k1", fill("whole"), root=tmp_path)
    assert (folder / "a.txt").read_text() == "whole"
    assert not any(".part" in name for name in everything(tmp_path))


def test_two_processes_make_one_folder(tmp_path: Path) -> None:
    code = """
        import os, sys, time
        from pathlib import Path
        from fairtune import store

        def make(folder):
            (folder / "maker").write_text(str(os.getpid()))
            time.sleep(0.3)
            with open(sys.argv[1] + "/made", "a") as log:
                log.write("made\\n")

        root = Path(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        print((store.get_or_make("packs", "k1", make, root=root) / "maker").read_text())
    """
    processes = [run(code, tmp_path, stdin=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, error = process.communicate(timeout=30)
        assert process.returncode == 0, error
        said.append(out)
    assert len(set(said)) == 1
    assert (tmp_path / "made").read_text() == "made\n"


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda folder: flip(folder / "deep" / "b.bin"),
    "a truncated file": lambda folder: os.truncate(folder / "a.txt", 2),
    "a missing file": lambda folder: (folder / "a.txt").unlink(),
    "no checksums": lambda folder: (folder / store.CHECKSUMS).unlink(),
    "checksums that are no JSON": lambda folder: os.truncate(folder / store.CHECKSUMS, 5),
    "checksums of another form": lambda f: (f / store.CHECKSUMS).write_text("[1]") and None,
}


def test_who_waits_for_another_process_can_leave(tmp_path: Path) -> None:
    began, may_end = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        (folder / "x").write_text("1")
        began.set()
        assert may_end.wait(60)

    def leave() -> None:
        raise KeyboardInterrupt

    other = threading.Thread(target=lambda: store.get_or_make("k", "a", slow, root=tmp_path))
    other.start()
    try:
        assert began.wait(60)
        with pytest.raises(KeyboardInterrupt):
            store.get_or_make("k", "a", slow, root=tmp_path, waiting=leave)
    finally:
        may_end.set()
        other.join(60)
    made = store.get_or_make("k", "a", slow, root=tmp_path, waiting=leave)
    assert (made / "x").read_text() == "1"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_folder_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = store.get_or_make("packs", "k1", fill("old"), root=tmp_path)
    assert store.is_whole(folder)
    damage(folder)
    assert not store.is_whole(folder)
    store.get_or_make("packs", "k1", fill("new"), root=tmp_path)
    assert store.is_whole(folder)
    assert (folder / "a.txt").read_text() == "new"


def test_a_folder_that_is_not_there_is_not_whole(tmp_path: Path) -> None:
    assert not store.is_whole(tmp_path / "nothing")


def test_seal_under_another_name_leaves_itself_out(tmp_path: Path) -> None:
    fill()(tmp_path)
    store.seal(tmp_path, "DONE")
    assert set(json.loads((tmp_path / "DONE").read_text())) == {"a.txt", "deep/b.bin"}


def test_seal_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    fill()(tmp_path)
    store.seal(tmp_path, "DONE", besides=("a.txt", "other"))
    assert set(json.loads((tmp_path / "DONE").read_text())) == {"deep/b.bin"}


def test_a_folder_takes_the_place_of_another_or_leaves_it(tmp_path: Path) -> None:
    old, made = tmp_path / "run", tmp_path / ".run.part"
    for folder, text in ((old, "old"), (made, "new")):
        folder.mkdir()
        (folder / "x").write_text(text)
    store.replace_folder(made, old)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (old / "x").read_text() == "new"
    with pytest.raises(FileNotFoundError):
        store.replace_folder(made, old)
    assert (old / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def one_kib(folder: Path) -> None:
    (folder / "x").write_bytes(bytes(1024))


def test_eviction_takes_what_was_used_longest_ago(tmp_path: Path) -> None:
    for days, key in [(3, "three"), (5, "five"), (4, "four")]:
        age(store.get_or_make("packs", key, one_kib, root=tmp_path), days)
    size = store.size_of(tmp_path / "packs" / "three")
    removed = store.evict(tmp_path, cap_gib=(2 * size + 1) / 2**30)
    assert [folder.name for folder in removed] == ["five"]
    assert not removed[0].exists()


def test_eviction_respects_a_later_use(tmp_path: Path) -> None:
    for days, key in [(3, "three"), (5, "five")]:
        age(store.get_or_make("packs", key, one_kib, root=tmp_path), days)
    store.get_or_make("packs", "five", never, root=tmp_path)
    assert [f.name for f in store.evict(tmp_path, cap_gib=0)] == ["three"]
    assert (tmp_path / "packs" / "five").is_dir()


def test_eviction_keeps_what_was_just_asked_for(tmp_path: Path) -> None:
    folder = store.get_or_make("packs", "k1", one_kib, root=tmp_path)
    age(folder, 9)
    assert store.evict(tmp_path, cap_gib=0, keep=folder) == []


def test_making_evicts_above_the_cap(tmp_path: Path) -> None:
    age(store.get_or_make("weights", "old", one_kib, root=tmp_path), 2)
    store.get_or_make("packs", "new", one_kib, root=tmp_path, cap_gib=1024 / 2**30)
    assert not (tmp_path / "weights" / "old").exists()
    assert (tmp_path / "packs" / "new").is_dir()


def test_nothing_is_evicted_below_the_cap(tmp_path: Path) -> None:
    age(store.get_or_make("packs", "k1", one_kib, root=tmp_path), 99)
    assert store.evict(tmp_path, cap_gib=1) == []


def test_what_was_paid_for_stays_and_pushes_nothing_out(tmp_path: Path) -> None:
    (paid,) = store.PAID
    for shelf in (paid, "packs"):
        age(store.get_or_make(shelf, "k1", one_kib, root=tmp_path), 99)
    size = store.size_of(tmp_path / "packs")
    assert store.evict(tmp_path, cap_gib=(size + 1) / 2**30) == []
    assert [f.parent.name for f in store.evict(tmp_path, cap_gib=0)] == ["packs"]
    assert store.is_whole(tmp_path / paid / "k1")


def test_eviction_clears_what_a_crash_left_a_day_ago(tmp_path: Path) -> None:
    old, new = (tmp_path / "packs" / f".k{i}.ab.part" for i in (1, 2))
    for part in (old, new):
        part.mkdir(parents=True)
        (part / "x").write_text("half")
    age(old, 2)
    os.utime(new, (time.time() - 2 * DAY,) * 2)
    store.evict(tmp_path, cap_gib=1)
    assert not old.exists()
    assert new.exists(), "a file in it has changed today: somebody still writes"


def test_evicting_at_the_same_time_is_no_fault(tmp_path: Path) -> None:
    for number in range(60):
        age(store.get_or_make("packs", f"k{number}", one_kib, root=tmp_path), 2)
    code = """
        import sys
        from pathlib import Path
        from fairtune import store
        print("ready", flush=True)
        sys.stdin.readline()
        store.evict(Path(sys.argv[1]), cap_gib=0)
    """
    processes = [run(code, tmp_path, stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, error = process.communicate(timeout=30)
        assert process.returncode == 0, error
    assert not any(p.is_dir() for p in (tmp_path / "packs").iterdir())


def test_write_atomic_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    store.write_atomic(path, b"old and long")
    store.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert everything(tmp_path) == ["x.json"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from fairtune import store
        end = time.monotonic() + 1.5
        print("ready", flush=True)
        while time.monotonic() < end:
            for letter in (b"a", b"b"):
                store.write_atomic(Path(sys.argv[1]), letter * 200_000)
    """
    path = tmp_path / "x.bin"
    store.write_atomic(path, b"a" * 200_000)
    seen: set[tuple[int, int]] = set()
    with run(code, path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))
    assert process.returncode == 0
    assert seen == {(200_000, 1)}


def test_a_device_without_space_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="the disk is full while writing the log") as caught,
        store.writing(tmp_path, what="the log"),
        Path("/dev/full").open("wb", buffering=0) as device,
    ):
        device.write(b"x")
    assert "MiB free" in str(caught.value)
    assert "FAIRTUNE_CACHE" in str(caught.value)


FULL_DISK = """
    import subprocess, sys
    from pathlib import Path
    from fairtune import store
    from fairtune.errors import StorageError

    root = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", root], check=True)
    store.get_or_make("packs", "small", lambda f: (f / "x").write_bytes(b"1"), root=root)
    (root / "x.json").write_bytes(b"old")
    said = []
    for write in (
        lambda: store.get_or_make(
            "packs", "big", lambda f: (f / "x").write_bytes(bytes(2**20)), root=root
        ),
        lambda: store.write_atomic(root / "x.json", bytes(2**20)),
    ):
        try:
            write()
        except StorageError as error:
            said.append(str(error).splitlines()[0])
    print(said)
    print((root / "x.json").read_bytes())
    print(sorted(p.name for p in root.rglob("*") if not p.name.endswith(".lock")))
"""


@pytest.mark.needs("small-disk")
def test_a_full_disk_is_one_clear_message_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    # A mount name space of its own: whatever becomes of the process, no mount is left behind.
    apart = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    command = [*apart, sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said, content, left = done.stdout.splitlines()
    assert said == str(
        [
            f"{tmp_path}/packs: the disk is full while writing packs/big",
            f"{tmp_path}: the disk is full while writing x.json",
        ]
    )
    assert content == "b'old'"
    assert left == str(sorted([".used", "CHECKSUMS.json", "packs", "small", "x", "x.json"]))


CLOSED = """
    import os, sys, tempfile
    from pathlib import Path
    from fairtune import store
    from fairtune.errors import StorageError

    # Loads what the store loads late: the account chosen below may not read the packages.
    with tempfile.TemporaryDirectory() as folder:
        store.get_or_make("packs", "k1", lambda f: None, root=Path(folder))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        store.get_or_make("packs", "k1", lambda f: None, root=Path("/etc/fairtune-test"))
    except StorageError as error:
        print(error)
    with tempfile.TemporaryDirectory() as folder:
        try:
            store.get_or_make("packs", "k1", lambda f: open("/etc/shadow"), root=Path(folder))
        except PermissionError as error:
            print("as it is:", error.filename)
"""


def test_only_a_folder_that_may_not_be_written_is_a_fault_of_the_store() -> None:
    process = run(CLOSED, cwd="/")
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert out.splitlines() == [
        "/etc/fairtune-test/packs: cannot write packs/k1",
        "  found:   'Permission denied'",
        "  do:      choose a folder you may write to (FAIRTUNE_CACHE, --out)",
        "as it is: /etc/shadow",
    ]
