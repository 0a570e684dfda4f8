"""The processes that share every batch of a run, started and ended together.

torchrun does the same for a person, but it tells a scheduler nothing: whatever its processes said
when they left, it leaves with 1, and a signal that it does not know ends it alone. Here signals
reach every process, and what the first one says is what the command says.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fairtune.training.tied import tied

GRACE_SECONDS = 60.0
"""For which the others may stay once one has left: rank 0 hears of it when it next talks to it."""

_PAUSE = 0.1
_PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def spawn(count: int, command: Sequence[str], grace: float = GRACE_SECONDS) -> int:
    """Run `command` in `count` processes that share its runs; none is left when this returns.

    Args:
        count: Processes; on CUDA each takes the accelerator of its number.
        command: Of each; they are told apart by what torchrun would put in their environment.
        grace: Seconds for which the others may stay once one has left.

    Returns:
        The exit code of the first process, 1 where a signal ended it.
    """
    told: list[int] = []
    with _passing(told), _started(count, command) as ranks:
        end, passed = None, 0
        while any(rank.poll() is None for rank in ranks):
            for number in told[passed:]:
                _send(ranks, number)
            passed = len(told)
            left = any(rank.poll() is not None for rank in ranks)
            if left and end is None:
                end = time.monotonic() + grace
            if end is not None and time.monotonic() >= end:
                _send(ranks, signal.SIGKILL)
            time.sleep(_PAUSE)
    return max(ranks[0].returncode, 0) or int(ranks[0].returncode < 0)


def shared_by(count: int, environ: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the environment of each process, as torchrun would make it."""
    port, run = _free_port(), secrets.token_hex(8)
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": run,
        # As torchrun does: with all cores each, the processes would fight for them.
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", "1"),
    }
    return [
        {**environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)
    ]


@contextmanager
def _passing(told: list[int]) -> Iterator[None]:
    def pass_on(number: int, frame: Any) -> None:
        told.append(number)

    old = {number: signal.signal(number, pass_on) for number in _PASSED}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _started(count: int, command: Sequence[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for environment in shared_by(count, os.environ):
            ranks.append(subprocess.Popen(tied(command), env=environment))
        yield ranks
    finally:
        _send(ranks, signal.SIGKILL)
        for rank in ranks:
            rank.wait()


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        rank.send_signal(number)  # nothing, where it has left


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
