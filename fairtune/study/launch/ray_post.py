"""What keeps a worker on a node of a Ray cluster; see `Post`.

This module travels whole, by value, to a process that stays beside the worker as long as it runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence


class Post:
    """Runs one worker as a process of its own, with the accelerators that Ray has given.

    Ray makes it anew, perhaps on another node, when it or its node dies; so does its worker begin
    anew. No call of it waits.

    Args:
        command: Of the worker; where the node has not its interpreter, it takes its own.
        environment: What is added to that of the node; the storage's password is in it, which
            Ray's own pages would show if it stood in a runtime environment.
        cwd: Where the worker runs, if the node has that folder.
        log: What the worker says is added to it.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: str, log: str
    ) -> None:
        self.command, self.environment, self.log = list(command), dict(environment), log
        self.cwd = cwd if os.path.isdir(cwd) else None
        self.process = self._start()

    def code(self) -> int | None:
        """Return the exit code of the worker, None while it runs."""
        return self.process.poll()

    def tell(self, number: int) -> None:
        """Send the worker a signal."""
        self.process.send_signal(number)

    def again(self) -> None:
        """Start the worker anew."""
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        from fairtune.training.tied import tied

        program, *words = self.command
        if not os.access(program, os.X_OK):
            program = sys.executable
        os.makedirs(os.path.dirname(self.log), exist_ok=True)
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                tied([program, *words]),
                env={**os.environ, **self.environment},
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
