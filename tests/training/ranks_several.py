"""`fairtune` command after command in the processes of one torchrun: `COMMANDS.json`.

Starting processes that load torch costs more than a small command. The file holds a list of lists
of words; what each says and its exit code are written beside it, by number and rank.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import distributed
from torch.distributed.rendezvous import rendezvous

from fairtune.cli.app import main


def apart(number: int) -> Any:
    """Return a start of the group of processes that meets nothing an earlier group has left."""

    def start(backend: str, **more: Any) -> None:
        store, rank, world = next(rendezvous("env://"))
        own = distributed.PrefixStore(str(number), store)
        begin(backend, store=own, rank=rank, world_size=world, **more)

    return start


def run(words: Sequence[str], said: Path) -> int:
    """Run `fairtune WORDS` and return its exit code; its words go to `said`.out and .err."""
    sys.argv = ["fairtune", *words]
    for number, name in ((1, "out"), (2, "err")):
        with said.with_suffix(f".{name}").open("wb") as file:
            os.dup2(file.fileno(), number)
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


if __name__ == "__main__":
    begin = distributed.init_process_group
    file = Path(sys.argv[1])
    for number, words in enumerate(json.loads(file.read_text())):
        distributed.init_process_group = apart(number)
        said = file.with_name(f"{number}-{os.environ['RANK']}")
        said.with_suffix(".code").write_text(str(run(words, said)))
