"""A worker that does as it is told in advance: a real process, for how launchers treat one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtune.study.launch import Crew

SECRET = "open-sesame-1234"
STORAGE = f"postgresql://me:{SECRET}@127.0.0.1/studies"

# What it does: `exit N`; `die`; `stay` until a signal, then exit 75; `deaf`: stay, whatever comes;
# `await`: stay until there is a file `go`, then exit 0.
_HAND = """\
#!{python} -IS
import json, os, signal, sys, time
slot = next(word for word in sys.argv if word.startswith("--slot=")).partition("=")[2]
here = os.path.dirname(os.path.abspath(__file__))
diary = os.path.join(here, slot + ".txt")
begun = open(diary).read().count("begun") if os.path.exists(diary) else 0
said = []

def say(line):
    with open(diary, "a") as file:
        file.write(line + "\\n")
    print(line, flush=True)

def hear(number, frame):
    said.append(number)
    say(signal.Signals(number).name)

for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, hear)
plan = json.load(open(os.path.join(here, "plan.json")))[slot]
mine = plan[min(begun, len(plan) - 1)]
with open(os.path.join(here, slot + ".env"), "w") as file:
    json.dump(dict(os.environ), file)
with open(os.path.join(here, slot + ".words"), "w") as file:
    json.dump(sys.argv[1:], file)
say("begun " + str(os.getpid()))
if mine == "die":
    os.kill(os.getpid(), signal.SIGKILL)
while mine == "deaf" or (mine == "stay" and not said):
    time.sleep(0.05)
if mine == "stay":
    time.sleep(1)  # it takes a moment to keep the state of a run
while mine == "await" and not os.path.exists(os.path.join(here, "go")):
    time.sleep(0.05)
code = {{"stay": 75, "await": 0}}.get(mine) if " " not in mine else int(mine.split()[1])
say("left " + str(code))
sys.exit(code)
"""


@dataclass(frozen=True)
class Hands:
    """Workers of a crew that follow a plan.

    Attributes:
        folder: With what they were told, and did.
        crew: Which starts them.
    """

    folder: Path
    crew: Crew

    def diary(self, slot: int) -> list[str]:
        """Return what a worker has written down: `begun`, signals, `left CODE`."""
        path = self.folder / f"{slot}.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def acts(self, slot: int) -> list[str]:
        """Return the diary without process numbers."""
        return [line.split()[0] if "begun" in line else line for line in self.diary(slot)]

    def pid(self, slot: int) -> int:
        """Return the number of the last process of a worker."""
        return int([line for line in self.diary(slot) if "begun" in line][-1].split()[1])

    def environment(self, slot: int) -> dict[str, str]:
        """Return the environment of a worker."""
        found: dict[str, str] = json.loads((self.folder / f"{slot}.env").read_text())
        return found

    def words(self, slot: int) -> list[str]:
        """Return the command line of a worker, after the interpreter."""
        found: list[str] = json.loads((self.folder / f"{slot}.words").read_text())
        return found


def hands(folder: Path, plan: Mapping[int, Sequence[str]], **changes: Any) -> Hands:
    """Return a crew of workers below `folder`.

    Args:
        folder: Of their diaries.
        plan: What each does, run by run; the last word holds for all further runs.
        changes: Fields of the crew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "hand"
    program.write_text(_HAND.format(python=sys.executable))
    program.chmod(0o755)
    (folder / "plan.json").write_text(json.dumps({str(k): list(v) for k, v in plan.items()}))
    given: dict[str, Any] = {"workers": len(plan), "python": str(program), **changes}
    return Hands(folder, Crew("tiny", STORAGE, folder / "logs", **given))
