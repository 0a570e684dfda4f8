"""`fairtune` as torchrun starts it, with a fault on the last rank: `FAULT WORDS`."""

from __future__ import annotations

import os
import sys
from typing import Any

from fairtune.cli.app import main
from fairtune.training.lane import Lane

LATE = 3
"""Steps that are taken before the fault."""


def fail(fault: str) -> None:
    """Break the third step of every lane of this process."""
    step = Lane.step

    def broken(self: Lane, batch: Any) -> Any:
        if self.taken == LATE and fault == "memory":
            raise MemoryError("none left")
        if self.taken == LATE and fault == "signal":
            os.kill(os.getpid(), 15)
        return step(self, batch)

    Lane.step = broken  # type: ignore[method-assign]


if __name__ == "__main__":
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        fail(sys.argv[1])
    sys.argv = ["fairtune", *sys.argv[2:]]
    main()
