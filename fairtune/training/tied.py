"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# It becomes the command itself, so that the process keeps its number. A parent that was gone
# before Linux was asked would never be missed: so it is looked at.
_TIE = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def tied(command: Sequence[str]) -> list[str]:
    """Return `command` so that its process is sent SIGTERM when this one dies, however it dies.

    Only Linux can do so; elsewhere, and where the first word is no path, the command stays as it
    is. What is started has to be waited for by the thread that starts it.
    """
    if sys.platform != "linux" or not os.path.isabs(command[0]):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]
