"""The folder of finished runs: written once, read by search, selection and report without torch.

```
<out>/runs/<key[:2]>/<key>/
    recipe.json      recipe, seeds, what it was judged by, provenance
    mask.txt         the mask for people: one unit a line, with its method where it is not `direct`
    epochs.parquet   epoch, train_loss, val_loss, seconds, images
    val.parquet      row, patient (keyed hash), label(s), attributes, score(s) of the kept epoch
    val_scores.npy   (epochs, rows, outputs) fp32 logits
    test.parquet     like val.parquet; final runs only
    operating.json   threshold and the epoch that was kept; `post`, what post-processing found on
                     all of validation, where the recipe has any
    mitigations.json what each mitigation did, and its weight beside the task; where there is any
    costs.json       seconds, images, trained parameters
                     of several folds together: the sum; val.parquet has a column `fold:`
    model.safetensors  what trained; final runs only
    DONE             size and SHA-256 of every file; a folder without it does not count
    README.md        the model card, beside the model to deploy; not of the checksums
    .shared          where and as what the run is shared already; not of the checksums
```

Where runs are shared (`fairtune.experiment.shared`), what stands here is also the cache of what
other machines have made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fairtune import store
from fairtune.experiment.shared import MARK, SharedRuns, SharedStates
from fairtune.experiment.stored import DONE, TEST, WEIGHTS, StoredRun
from fairtune.remote import Remote

CARD = "README.md"


@dataclass(frozen=True)
class Runs:
    """All runs below one results folder, and those that other machines share with it.

    Attributes:
        out: The results folder.
        shared: Where machines share their runs; None without such a place.
    """

    out: Path
    shared: SharedRuns | None = None

    @classmethod
    def at(cls, out: Path, url: str | None) -> Runs:
        """Return the runs below `out`, shared at `url` where there is one.

        Raises:
            ConfigError: `url` names no folder that runs can be shared in.
        """
        return cls(out, None if url is None else SharedRuns(Remote.at(url)))

    def check(self) -> None:
        """Try the place where runs are shared, before any work is done.

        Raises:
            StorageError: It cannot be written and read back.
        """
        if self.shared is not None:
            self.shared.remote.check()

    def folder(self, key: str) -> Path:
        """Return where the run `key` stands or would stand."""
        return self.out / "runs" / key[:2] / key

    def get(self, key: str, *, weights: bool = False) -> StoredRun | None:
        """Return the finished run `key`, made here or on another machine, or None.

        A run that stands here and is not shared yet is put first. Another machine is asked for a
        run that stands here only while it may have been tested there.

        Args:
            key: Key of the run.
            weights: One without weights will not do: another machine may have it with them.

        Raises:
            StorageError: The place where runs are shared does not answer, or refuses.
        """
        folder = self.folder(key)
        if self.shared is not None:
            self._settle(self.shared, key, weights)
        return StoredRun(folder) if (folder / DONE).is_file() else None

    def write(self, key: str, fill: Callable[[Path], None]) -> StoredRun:
        """Let `fill` write the files of run `key`, then make them appear at once.

        Raises:
            StorageError: The disk is full or cannot be written, then nothing is left behind; or
                the run cannot be shared, then it stands here and is put when it is next asked for.
        """
        folder = self.folder(key)
        temporary = folder.with_name(f".{key}.{uuid.uuid4().hex[:8]}.part")
        with store.writing(self.out, what=f"run {key}"):
            temporary.mkdir(parents=True)
            try:
                fill(temporary)
                store.seal(temporary, DONE, besides=(CARD, MARK))
                store.replace_folder(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        if self.shared is not None:
            self.shared.put(folder)
        return StoredRun(folder)

    def update(self, run: StoredRun, files: Mapping[str, bytes]) -> StoredRun:
        """Add or replace files of a finished run, all at once.

        Raises:
            StorageError: The disk is full, then the run stays as it was; or it cannot be shared.
        """

        def fill(folder: Path) -> None:
            for path in sorted(run.folder.rglob("*")):
                to = folder / path.relative_to(run.folder)
                if path.is_dir():
                    to.mkdir()
                elif str(path.relative_to(run.folder)) not in (DONE, *files):
                    _link(path, to)
            for name, content in files.items():
                (folder / name).write_bytes(content)

        return self.write(run.folder.name, fill)

    def states(self, key: str) -> SharedStates | None:
        """Return where states of unfinished attempts at `key` are shared, or None."""
        return None if self.shared is None else self.shared.states(key)

    def _settle(self, shared: SharedRuns, key: str, weights: bool) -> None:
        folder = self.folder(key)
        if not (folder / DONE).is_file():
            shared.get(key, folder)
            return
        held = shared.holds(folder)
        kept = (folder / WEIGHTS).is_file()
        may_change = not (folder / TEST).is_file() if kept else weights
        if held and not may_change:
            return
        if shared.is_ahead(folder):
            shared.get(key, folder)
        elif not held:
            shared.put(folder)


def _link(path: Path, to: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such thing."""
    with contextlib.suppress(OSError):
        os.link(path, to)
        return
    shutil.copyfile(path, to)
