"""torchrun with the exit code of its first process, which says whether to start it again.

`python -m fairtune.training.torchrun` takes what torchrun takes. torchrun itself leaves with 1
whatever its processes said, so that a worker that left in time looks like one that died.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence

DIED = 1
"""Exit code where a process died."""

INTERRUPTED, REQUEUE = 130, 75
"""Exit codes of a command that Ctrl-C, or any other signal, has told to leave."""


def code_of(codes: Mapping[int, int]) -> int:
    """Return the exit code for those of the processes that failed, by rank.

    A process that a signal has ended died, unless it was SIGTERM, with which torchrun ends the
    others. Where none died it is the first process that knows.

    Args:
        codes: Below 0 for a signal of that number.
    """
    if any(code < 0 and code != -signal.SIGTERM for code in codes.values()):
        return DIED
    first = codes.get(0, DIED)
    return first if first > 0 else DIED


def run(words: Sequence[str]) -> int:
    """Run torchrun with `words`; return the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as torchrun

    try:
        torchrun(parse_args(list(words)))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        return code_of({rank: failure.exitcode for rank, failure in failed.failures.items()})
    except SignalException as told:
        return INTERRUPTED if told.sigval == signal.SIGINT else REQUEUE
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
