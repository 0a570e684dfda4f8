"""Telling other tools of runs while they go on: parameters, epochs, final values.

A tool may be slow, away or broken: it is told from a thread of its own, and what goes wrong there
is a warning, never the end of a run. It learns no identifier: no patient, no path, no host.
"""

from __future__ import annotations

import logging
import math
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fairtune.config import Config, Registry
from fairtune.config.dimensions import Scalar
from fairtune.errors import FairtuneError
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.scoring import evaluate_objectives

if TYPE_CHECKING:
    from fairtune.experiment.judge import Judge
    from fairtune.experiment.run import Watcher
    from fairtune.experiment.stored import StoredRun
    from fairtune.training.observer import Epoch
    from fairtune.training.recipe import Recipe, Seeds

log = logging.getLogger(__name__)

SINKS: Registry[Config] = Registry("sink", "fairtune.experiment.sinks")

WAITING = 10_000
"""Messages that may wait; further ones are dropped."""
PATIENCE = 120.0
"""Seconds that the end of a command waits for what is still to be told."""
FAILURES = 3
"""Failures one after another after which a sink is told no more."""
_ALONE = "finetune"
_FILES = ("data.dataset", "model.name", "model.weights")
_SIGNS = {"@": ".", "<": "lt", ">": "gt", "=": "eq", "+": "plus", "*": "x"}


@dataclass(frozen=True)
class RunName:
    """How a sink calls a run.

    Attributes:
        study: Name of its study.
        phase: `search`, `baseline`, `confirm` or `final`.
        number: From 1 in its phase; of a final run, the number of its seed.
        label: Name of its recipe, or nothing.
        key: Identity of the run; attempts of one run share it.
    """

    study: str
    phase: str
    number: int
    label: str
    key: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.phase, str(self.number), self.label)))


class Sink(Protocol):
    """A tool that is open. Each function may raise whatever it likes."""

    def begin(self, run: RunName, params: Mapping[str, Scalar]) -> None:
        """Take in that a run begins, or goes on in another attempt."""

    def epoch(self, run: RunName, number: int, values: Mapping[str, float]) -> None:
        """Take in the values after an epoch, counted from 1."""

    def end(self, run: RunName, state: str, values: Mapping[str, float]) -> None:
        """Take in the end of a run: `complete`, `pruned`, `failed` or `stopped`."""

    def close(self) -> None:
        """Write whatever is still held."""


@runtime_checkable
class SinkPart(Protocol):
    """Declaration of a sink."""

    def check(self) -> None:
        """Raise ConfigError where its library is not installed."""

    def open(self, out: Path, study: str) -> Sink:
        """Return the working sink; `out` is the results folder."""


class Sinks:
    """Tells several sinks of runs, in order, from one thread.

    Args:
        parts: Declarations by name; none means that nobody is told.
        out: Results folder.
        study: Name of the study.
    """

    def __init__(self, parts: Mapping[str, SinkPart], out: Path, study: str) -> None:
        self._parts, self._out, self._study = dict(parts), out, study
        self._messages: queue.Queue[Callable[[Sink], None] | None] = queue.Queue(WAITING)
        self._open: dict[RunName, None] = {}
        self._told: set[RunName] = set()
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name="fairtune-sinks", daemon=True)

    @classmethod
    def of(cls, names: Sequence[str], out: Path, study: str | None) -> Sinks:
        """Return the sinks called `names`.

        Raises:
            ConfigError: An unknown name, or its library is not installed.
        """
        parts: dict[str, SinkPart] = {}
        for name in dict.fromkeys(names):
            part = SINKS.parse(name)
            assert isinstance(part, SinkPart)
            part.check()
            parts[name] = part
        return cls(parts, out, study or _ALONE)

    def __enter__(self) -> Sinks:
        if self._parts:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._parts:
            return
        for run in list(self._open):
            self.end(run, "stopped", {})
        self._put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive() or self._dropped:
            left = self._messages.qsize() + self._dropped
            log.warning("%s: not told of %d messages", ", ".join(self._parts), left)

    def begin(self, run: RunName, params: Mapping[str, Any]) -> None:
        """Tell that a run begins."""
        self._open[run] = None
        shown = {clean(name): _scalar(value) for name, value in params.items()}
        self._put(lambda sink: sink.begin(run, shown))

    def epoch(self, run: RunName, number: int, values: Mapping[str, Any]) -> None:
        """Tell the values after an epoch."""
        self._told.add(run)
        figures = finite(values)
        self._put(lambda sink: sink.epoch(run, number, figures))

    def end(self, run: RunName, state: str, values: Mapping[str, Any]) -> None:
        """Tell that a run has ended."""
        self._open.pop(run, None)
        figures = finite(values)
        self._put(lambda sink: sink.end(run, state, figures))

    def has_epochs(self, run: RunName) -> bool:
        """Tell whether any epoch of `run` was told."""
        return run in self._told

    def _put(self, message: Callable[[Sink], None] | None) -> None:
        if not self._parts:
            return
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self._dropped += 1

    def _work(self) -> None:
        sinks: dict[str, Sink] = {}
        for name, part in self._parts.items():
            try:
                sinks[name] = part.open(self._out, self._study)
            except Exception as error:
                log.warning("%s cannot be told of runs: %s", name, _said(error))
        failures = dict.fromkeys(sinks, 0)
        while (message := self._messages.get()) is not None:
            for name in list(sinks):
                try:
                    message(sinks[name])
                    failures[name] = 0
                except Exception as error:
                    failures[name] += 1
                    log.warning("%s was not told: %s", name, _said(error))
                    if failures[name] >= FAILURES:
                        log.warning("%s is told no more", name)
                        del sinks[name]
        for name, sink in sinks.items():
            try:
                sink.close()
            except Exception as error:
                log.warning("%s: %s", name, _said(error))


def clean(name: str) -> str:
    """Return a name of letters, digits, `_`, `-`, `.` and `/`, as every tool takes it.

    Signs that tell groups apart become words: `auc@age/<60` is `auc.age/lt60`.
    """
    for sign, word in _SIGNS.items():
        name = name.replace(sign, word)
    return re.sub(r"[^\w./-]", "_", name)


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among `values` by clean names; what is not finite is left out."""
    return {
        clean(name): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def params_of(recipe: Mapping[str, Any], seeds: Mapping[str, int], mask: str) -> dict[str, Any]:
    """Return a canonical recipe as flat parameters, without paths of this machine.

    Args:
        recipe: `Recipe.canonical()`, or as a row of a study holds it.
        seeds: Seeds of the run.
        mask: The mask in a few characters; its units themselves are too many for a table.
    """
    found: dict[str, Any] = {f"seed.{name}": value for name, value in seeds.items()}
    for path, value in _flat(recipe):
        if path == "adaptation.mask":
            found |= {"mask": mask, "mask.units": len(value)}
        elif path in _FILES:
            found[path] = PurePath(str(value)).name
        else:
            found[path] = value
    return found


def epoch_values(report: Epoch, values: Mapping[str, float]) -> dict[str, float]:
    """Return what sinks are told of an epoch: losses, speed, objectives."""
    speed = report.images / max(report.seconds, 1e-9)
    losses = {"train_loss": report.train_loss, "val_loss": report.val_loss}
    return {**losses, "images_per_second": speed, **values}


@dataclass
class Logged:
    """A watcher that also tells sinks of a final run.

    Attributes:
        watcher: Whose decisions stand.
        sinks: Who is told.
        study: Name of the study, None without one.
        label: Name of the recipe.
        number: Number of the seed, from 1.
        run: The run, once it has begun.
    """

    watcher: Watcher
    sinks: Sinks
    study: str | None
    label: str
    number: int
    run: RunName | None = None

    def begin(self, recipe: Recipe, seeds: Seeds) -> None:
        """Tell that the run begins."""
        self.run = final_name(self.study, self.label, self.number, recipe.key(seeds))
        self.sinks.begin(self.run, params_of(recipe.canonical(), seeds.to_json(), ""))

    def epoch(self, report: Epoch, values: Mapping[str, float]) -> str | None:
        """Tell the epoch, and return what the watcher says."""
        if self.run is not None:
            self.sinks.epoch(self.run, report.number, epoch_values(report, values))
        return self.watcher.epoch(report, values)

    def poll(self) -> str | None:
        """Return what the watcher says."""
        return self.watcher.poll()


def final_name(study: str | None, label: str, number: int, key: str) -> RunName:
    """Return the name of a final run."""
    return RunName(study or _ALONE, "final", number, label, key)


def tell_tested(
    sinks: Sinks, study: str | None, runs: Mapping[str, Sequence[StoredRun]], judge: Judge
) -> None:
    """Tell sinks how runs did on test; of runs that were stored before, their epochs too."""
    for label, group in runs.items():
        for i, run in enumerate(group):
            name = final_name(study, label, i + 1, run.key)
            if not sinks.has_epochs(name):
                for epoch in run.epochs.to_dict("records"):
                    losses = {k: epoch[k] for k in ("train_loss", "val_loss")}
                    sinks.epoch(name, int(epoch["epoch"]), losses)
            values = {f"test/{k}": v for k, v in _on_test(run, judge).items()}
            sinks.end(name, "complete", {**run.costs, **values})


def _on_test(run: StoredRun, judge: Judge) -> dict[str, float]:
    cut: Any = run.operating["threshold"]
    threshold = tuple(cut) if isinstance(cut, list) else cut
    try:
        return evaluate_objectives(
            run.test(),
            list(dict.fromkeys([*judge.objectives, Objective.parse("auc")])),
            minimum=judge.validation.minimum,
            threshold=judge.validation.rule if threshold is None else threshold,
        )
    except FairtuneError:
        return {}


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        parts = [_flat(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()]
        return [item for part in parts for item in part]
    return [(path, value)]


def _scalar(value: Any) -> Scalar:
    if isinstance(value, bool | int | float | str):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _said(error: Exception) -> str:
    """Return what went wrong in one line, without a password of an address in it."""
    lines = str(error).strip().splitlines() or [""]
    told = re.sub(r"://[^/@\s]*@", "://***@", lines[0])[:300]
    return f"{type(error).__name__}: {told}"
