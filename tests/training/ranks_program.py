"""`fairtune`, as torchrun or alone, with a fault on the last process: `FAULT WORDS`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from fairtune.cli.app import main
from fairtune.study.worker import StopFlag
from fairtune.training.lane import Lane

LATE = 3
"""Steps of a lane that are taken, at least, before the fault."""


def fail(fault: str) -> None:
    """Break every lane of this process as it is built (`build`), or else in a step."""
    step, build = Lane.step, Lane.__init__
    told = threading.Event()
    request = StopFlag.request

    def asked(self: StopFlag, reason: str) -> None:
        request(self, reason)
        told.set()

    def broken(self: Lane, *batches: Any) -> Any:
        if self.taken >= LATE and not told.is_set():
            _break(fault, told)
        return step(self, *batches)

    def unbuilt(self: Lane, *words: Any) -> None:
        raise MemoryError("none left")

    StopFlag.request = asked  # type: ignore[method-assign]
    Lane.step = broken  # type: ignore[method-assign]
    Lane.__init__ = unbuilt if fault == "build" else build  # type: ignore[method-assign]


def _break(fault: str, told: threading.Event) -> None:
    if fault == "memory":
        raise MemoryError("none left")
    if fault == "torchrun":
        # It passes the signal on to all of its processes; the step waits until this one has it.
        os.kill(os.getppid(), signal.SIGTERM)
        assert told.wait(timeout=120)
    if fault.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[fault])


if __name__ == "__main__":
    if int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        fail(sys.argv[1])
    sys.argv = ["fairtune", *sys.argv[2:]]
    main()
