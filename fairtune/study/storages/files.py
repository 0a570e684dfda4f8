"""Where the file of a storage lies, and whether it can be used there."""

from __future__ import annotations

from pathlib import Path

import psutil

from fairtune.errors import StorageError

_REMOTE = (
    *("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "afs", "sshfs", "glusterfs"),
    *("panfs", "weka", "juicefs", "moosefs", "9p"),
)


def is_remote(path: Path) -> bool:
    """Tell whether `path` lies on a network file system, where locks of files may not hold."""
    place = path.resolve()
    mounts = [
        part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)
    ]
    if not mounts:
        return False
    kind = max(mounts, key=lambda part: len(part.mountpoint)).fstype.lower()
    return any(name in kind for name in _REMOTE)


def check_file(path: Path, must_exist: bool) -> None:
    """Refuse a file that is not there although it must be, or whose folder is not there.

    Raises:
        StorageError: That is so.
    """
    if must_exist and not path.exists():
        raise StorageError("there is no such storage file", where=path, todo="check --storage")
    if not path.parent.is_dir():
        raise StorageError(
            "the folder of the storage file does not exist",
            where=path,
            found=str(path.parent),
            todo="make the folder, or choose another --storage",
        )
