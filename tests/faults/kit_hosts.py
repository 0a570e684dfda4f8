"""Hosts of their own on one machine: a network and a name each, linked to ours by a cable."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crew import Orders
from kit_servers import end_all

HERE = Path(__file__).resolve().parent
OURS = "10.213.{net}.1"


class Host:
    """A host with a name and an address of its own; its workers know nothing of ours.

    Args:
        number: From 0; hosts at one time have different ones.
        folder: For what its workers say.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"ft{secrets.token_hex(3)}"
        self._net, self._folder = 100 + number, folder
        self._workers: list[subprocess.Popen[bytes]] = []
        ends = self._near, self._far = f"{self.name}n", f"{self.name}f"
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            _ip("link", "set", self._far, "netns", self.name)
            _ip("addr", "add", f"{self.ours}/24", "dev", self._near)
            _ip("link", "set", self._near, "up")
            theirs = f"10.213.{self._net}.2/24"
            _ip("-n", self.name, "addr", "add", theirs, "dev", self._far)
            _ip("-n", self.name, "link", "set", self._far, "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ours(self) -> str:
        """Our address as it sees us."""
        return OURS.format(net=self._net)

    def start(self, orders: Orders) -> subprocess.Popen[bytes]:
        """Start a worker there."""
        alone = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        named = f'hostname {self.name}; exec "$@"'
        worker = [sys.executable, str(HERE / "crew.py"), json.dumps(asdict(orders))]
        path = os.pathsep.join([*filter(None, sys.path), str(HERE)])
        with (self._folder / f"log-{self.name}-{len(self._workers)}").open("wb") as log:
            started = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *alone, "sh", "-c", named, "sh", *worker],
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
            )
        self._workers.append(started)
        return started

    def cut(self) -> None:
        """Cut the cable: packets vanish, and nobody is told."""
        _ip("link", "set", self._near, "down")

    def mend(self) -> None:
        """Let packets through again."""
        _ip("link", "set", self._near, "up")

    def close(self) -> None:
        """End its workers and remove it."""
        end_all(self._workers)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._near)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)


@contextlib.contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """Yield hosts that are there for as long as it is open."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Host(number, folder)) for number in range(count)]


def _ip(*words: str) -> Any:
    return subprocess.run(["ip", *words], check=True, capture_output=True)
