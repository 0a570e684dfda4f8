"""Runs as event files for TensorBoard: a folder for each."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairtune.config import Config
from fairtune.config.dimensions import Scalar
from fairtune.errors import ConfigError
from fairtune.experiment.sink import SINKS, RunName, Sink

FOLDER = "tensorboard"


@SINKS.register("tensorboard")
class TensorBoard(Config):
    """`<out>/tensorboard/<study>/<run>/`: scalars by epoch, then parameters with final values."""

    def check(self) -> None:
        """Raise ConfigError where TensorBoard is not installed."""
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "TensorBoard is not installed",
                where="--log tensorboard",
                todo="pip install 'fairtune[tensorboard]'",
            )

    def open(self, out: Path, study: str) -> Sink:
        """Return the working sink."""
        return Events(out / FOLDER / study)


@dataclass
class Events:
    """The working sink.

    Attributes:
        folder: Folder of the study.
        writers: Writers of the runs that have begun.
        params: Their parameters.
    """

    folder: Path
    writers: dict[RunName, Any] = field(default_factory=dict)
    params: dict[RunName, dict[str, Scalar]] = field(default_factory=dict)

    def begin(self, run: RunName, params: Mapping[str, Scalar]) -> None:
        """Keep the parameters until the end: TensorBoard wants them with the final values."""
        self.params[run] = dict(params)
        self._writer(run)

    def epoch(self, run: RunName, number: int, values: Mapping[str, float]) -> None:
        """Write the values at a step."""
        writer = self._writer(run)
        for name, value in values.items():
            writer.add_scalar(name, value, number)
        writer.flush()

    def end(self, run: RunName, state: str, values: Mapping[str, float]) -> None:
        """Write parameters and final values and close the file."""
        writer = self._writer(run)
        writer.add_text("state", state)
        shown = {f"final/{name}": value for name, value in values.items()}
        if shown:
            writer.add_hparams({**self.params.pop(run, {}), "state": state}, shown, run_name=".")
        writer.close()
        del self.writers[run]

    def close(self) -> None:
        """Close every file."""
        for writer in self.writers.values():
            writer.close()

    def _writer(self, run: RunName) -> Any:
        if run not in self.writers:
            from torch.utils.tensorboard import SummaryWriter

            parts = [run.phase, f"{run.number:03}", run.label, run.key[:6]]
            name = re.sub(r"[^\w.-]+", "-", "-".join(filter(None, parts)))
            self.writers[run] = SummaryWriter(str(self.folder / name))
        return self.writers[run]
