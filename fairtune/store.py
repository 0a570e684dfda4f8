"""A content-addressed store of folders that are made once and read by many.

`get_or_make(kind, key, make)` returns `<cache>/<kind>/<key>/`. The folder appears by one atomic
rename after it is complete, with a checksum of every file; a crash leaves only a temporary folder
that the next call clears. A folder whose checksums do not hold is made again. Folders used
longest ago are removed when the store grows above its cap, but for what was paid for (`PAID`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import filelock

from fairtune.errors import StorageError

CHECKSUMS = "CHECKSUMS.json"
PAID = ("answers",)
"""Shelves of what cannot be made again without asking, and paying, somebody else: never removed,
and no part of what the cap is compared with."""

_USED = ".used"
_IN_USE_SECONDS = 24 * 3600.0
_HASH_LIMIT = 256 * 2**20


def get_or_make(
    kind: str,
    key: str,
    make: Callable[[Path], None],
    *,
    root: Path,
    cap_gib: float = 50.0,
    waiting: Callable[[], None] = lambda: None,
) -> Path:
    """Return the folder of `key`, calling `make` with an empty folder to fill if there is none.

    Args:
        kind: Name of the shelf, e.g. `packs`; one path component.
        key: Digest of everything that determines the content; one path component.
        make: Fills the folder it is given; whatever it raises leaves nothing behind.
        root: The store's folder.
        cap_gib: Size above which folders used longest ago are removed.
        waiting: Called about once a second while another process makes it; may raise.

    Raises:
        StorageError: The disk is full or the store cannot be written.
    """
    folder = root / kind / key
    # Marked as used before it is looked at: nobody evicts it in between.
    _touch(folder)
    if is_whole(folder):
        return folder
    with writing(folder.parent, what=f"{kind}/{key}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent / f".{key}.lock", waiting):
            if not is_whole(folder):
                _make(folder, make)
        evict(root, cap_gib, keep=folder)
    return folder


@contextlib.contextmanager
def _alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    lock = filelock.FileLock(path)
    while True:
        try:
            lock.acquire(timeout=1.0)
        except filelock.Timeout:
            waiting()
            continue
        break
    try:
        yield
    finally:
        lock.release()


def is_whole(folder: Path) -> bool:
    """Tell whether every file of `folder` has its recorded size and, up to 256 MiB, checksum."""
    return next(_damaged(folder, CHECKSUMS, _HASH_LIMIT), None) is None


def damaged(folder: Path, name: str = CHECKSUMS) -> list[str]:
    """Return the files of `folder` that are not as its checksum file `name` has them.

    That file itself is among them when it cannot be read.
    """
    return list(_damaged(folder, name))


def _damaged(folder: Path, record: str, limit: float = math.inf) -> Iterator[str]:
    """Yield damaged files; of those above `limit` bytes only the size is compared."""
    try:
        recorded: dict[str, tuple[int, str]] = json.loads((folder / record).read_text())
        wanted = [(name, int(size), str(sha)) for name, (size, sha) in recorded.items()]
    except (OSError, ValueError, TypeError, AttributeError):
        yield record
        return
    for name, size, sha in wanted:
        path = folder / name
        try:
            whole = path.stat().st_size == size
            whole = whole and (size > limit or file_sha256(path) == sha)
        except OSError:
            whole = False
        if not whole:
            yield name


def seal(folder: Path, name: str = CHECKSUMS, besides: Collection[str] = ()) -> None:
    """Write size and SHA-256 of every file below `folder` into its checksum file `name`.

    Files called as one of `besides` are left out.
    """
    record = {
        str(path.relative_to(folder)): [path.stat().st_size, file_sha256(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (name, _USED, *besides)
    }
    write_atomic(folder / name, json.dumps(record, indent=1).encode())


def replace_folder(made: Path, folder: Path) -> None:
    """Give the folder `made` the name `folder`, in place of what stands there."""
    aside = made.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old.part")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
    try:
        made.rename(folder)
    except OSError:
        with contextlib.suppress(OSError):
            aside.rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one.

    Args:
        path: The file.
        content: All of it.
        mode: Who may read and write it, less what the umask takes away.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with writing(path.parent, what=path.name):
        try:
            opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(opened, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Turn the operating system's write faults below `folder` into one clear message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full while writing {what}",
                where=folder,
                found=f"{_free_mib(folder)} MiB free",
                todo="free space, or point FAIRTUNE_CACHE / --out at a larger disk",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and _concerns(error, folder):
            raise StorageError(
                f"cannot write {what}",
                where=folder,
                found=error.strerror,
                todo="choose a folder you may write to (FAIRTUNE_CACHE, --out)",
            ) from None
        raise


def _concerns(error: OSError, folder: Path) -> bool:
    # While a folder is filled other files are read; one that is closed is no fault of the store.
    if not isinstance(error.filename, str | bytes):
        return True
    path = Path(os.fsdecode(error.filename)).absolute()
    return path.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(folder: Path) -> int:
    """Return the bytes of all files below `folder`; one that vanishes meanwhile counts nothing."""
    total = 0
    # Unlike `rglob`, `walk` goes on where a folder below vanishes while it is read.
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def evict(root: Path, cap_gib: float, *, keep: Path | None = None) -> list[Path]:
    """Remove folders used longest ago until the store fits its cap; return what was removed.

    A folder used within the last day is left alone: a running study may have it mapped. What a
    crash left half-made goes when nothing in it has changed for a day. Shelves of `PAID` stay.
    """
    now = time.time()
    for part in root.glob("*/.*.part"):
        if now - _last_change(part) > _IN_USE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
    found = (f for f in root.glob("*/*") if f.parent.name not in PAID)
    folders = [f for f in found if f.is_dir() and not f.name.startswith(".")]
    sizes = {folder: size_of(folder) for folder in folders}
    total, limit, removed = sum(sizes.values()), cap_gib * 2**30, []
    for folder in sorted(folders, key=_last_use):
        if total <= limit:
            break
        if folder == keep or now - _last_use(folder) < _IN_USE_SECONDS:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        total -= sizes[folder]
        removed.append(folder)
    return removed


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    temporary.mkdir()
    try:
        make(temporary)
        seal(temporary)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _touch(folder)


def _touch(folder: Path) -> None:
    # A read-only store can still be read; only its order of eviction is then unknown.
    with contextlib.suppress(OSError):
        (folder / _USED).touch()


def _last_use(folder: Path) -> float:
    mark = folder / _USED
    return _changed(mark) or _changed(folder)


def _last_change(folder: Path) -> float:
    latest = _changed(folder)
    for parent, folders, files in os.walk(folder):
        latest = max(latest, *(_changed(Path(parent) / name) for name in (*folders, *files)), 0)
    return latest


def _changed(path: Path) -> float:
    # Another process may evict at the same time: what is gone counts as unused for ever.
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _free_mib(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 2**20
