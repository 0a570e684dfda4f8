"""Telling other tools of runs: nothing they do ends a run, and they learn no identifier."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairtune.errors import ConfigError
from fairtune.experiment.run import Unwatched
from fairtune.experiment.sink import (
    FAILURES,
    SINKS,
    Logged,
    RunName,
    Sinks,
    clean,
    finite,
    params_of,
)
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Recipe, Seeds

RUN = RunName("study", "search", 3, "", "a" * 32)


@dataclass
class Tape:
    """A sink that keeps what it is told, and fails at what it is asked to fail at."""

    fails: tuple[str, ...] = ()
    told: list[tuple[Any, ...]] = field(default_factory=list)
    gate: threading.Event | None = None

    def check(self) -> None:
        pass

    def open(self, out: Path, study: str) -> Tape:
        if "open" in self.fails:
            raise OSError("no way to postgres://me:secret@host/db")
        return self

    def begin(self, run: RunName, params: Mapping[str, Any]) -> None:
        self._take("begin", run, dict(params))

    def epoch(self, run: RunName, number: int, values: Mapping[str, float]) -> None:
        self._take("epoch", run, number, dict(values))

    def end(self, run: RunName, state: str, values: Mapping[str, float]) -> None:
        self._take("end", run, state, dict(values))

    def close(self) -> None:
        self._take("close")

    def _take(self, *what: Any) -> None:
        if self.gate is not None:
            self.gate.wait(30)
        if what[0] in self.fails:
            raise RuntimeError(f"broken: {what[0]}")
        self.told.append(what)


def epoch(number: int, **more: Any) -> Epoch:
    values: dict[str, Any] = {
        "of": 4, "scores": np.zeros((2, 1), np.float32), "train_loss": 0.5,
        "val_loss": float("nan"), "seconds": 2.0, "images": 100, **more,
    }  # fmt: skip
    return Epoch(number=number, **values)


def test_what_is_told_comes_in_order_and_an_open_run_is_stopped(tmp_path: Path) -> None:
    tape = Tape()
    with Sinks({"tape": tape}, tmp_path, "study") as sinks:
        sinks.begin(RUN, {"optim.lr": 1e-4, "types": ("a", "b"), "on": True})
        sinks.epoch(RUN, 1, {"worst_auc@age": 0.7, "loss": float("inf"), "word": "x"})
        other = RunName("study", "search", 4, "", "b")
        sinks.begin(other, {})
        sinks.end(other, "complete", {"auc@age/<60": 0.8})
    assert tape.told == [
        ("begin", RUN, {"optim.lr": 1e-4, "types": "a, b", "on": True}),
        ("epoch", RUN, 1, {"worst_auc.age": 0.7}),
        ("begin", other, {}),
        ("end", other, "complete", {"auc.age/lt60": 0.8}),
        ("end", RUN, "stopped", {}),
        ("close",),
    ]


def test_a_failing_sink_costs_warnings_and_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, away = Tape(), Tape(fails=("epoch", "close")), Tape(fails=("open",))
    with (
        caplog.at_level(logging.WARNING),
        Sinks({"bad": bad, "away": away, "good": good}, tmp_path, "study") as sinks,
    ):
        sinks.begin(RUN, {})
        for number in range(1, FAILURES + 3):
            sinks.epoch(RUN, number, {"auc": 0.5})
    assert [what for what, *_ in bad.told] == ["begin"]
    assert [what for what, *_ in good.told] == [
        "begin",
        *["epoch"] * (FAILURES + 2),
        "end",
        "close",
    ]
    said = [record.getMessage() for record in caplog.records]
    assert said.count("bad was not told: RuntimeError: broken: epoch") == FAILURES
    assert "bad is told no more" in said
    assert "away cannot be told of runs: OSError: no way to postgres://***@host/db" in said


def test_a_slow_sink_holds_nobody_up(tmp_path: Path) -> None:
    gate = threading.Event()
    tape = Tape(gate=gate)
    with Sinks({"slow": tape}, tmp_path, "study") as sinks:
        for number in range(50):
            sinks.epoch(RUN, number, {"auc": 0.5})
        assert tape.told == []
        gate.set()
    assert len(tape.told) == 51


def test_a_final_run_is_told_through_its_watcher(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "data": {"dataset": "/home/me/secret/ham.yaml", "target": "t", "attributes": ["age"]},
            "model": {"name": "tiny", "image_size": 64},
            "optim": {"epochs": 2},
            "fit": {"precision": "fp32"},
        }
    )
    tape = Tape()
    with Sinks({"tape": tape}, tmp_path, "study") as sinks:
        watcher = Logged(Unwatched(), sinks, "study", "fullft", 2)
        watcher.begin(recipe, Seeds(data=1, init=2))
        assert watcher.epoch(epoch(1), {"auc": 0.6}) is None
    (_, run, params), (_, same, number, values), *_ = tape.told
    assert (run.phase, run.label, run.number) == ("final", "fullft", 2)
    assert run.key == recipe.key(Seeds(data=1, init=2))
    assert (same, number) == (run, 1)
    assert values == {"train_loss": 0.5, "images_per_second": 50.0, "auc": 0.6}
    assert (params["data.dataset"], params["seed.init"]) == ("ham.yaml", 2)
    assert "/home" not in repr(params)
    assert params["mask.units"] == 0


def test_names_of_groups_stay_apart_and_numbers_are_finite() -> None:
    names = ["auc@age/<60", "auc@age/>60", "auc@age/60+", "auc@age/=60", "tpr@spec=0.9@sex*age"]
    cleaned = [clean(name) for name in names]
    assert len(set(cleaned)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-./") for name in cleaned)
    assert finite({"a": True, "b": 1, "c": float("nan"), "d": "x", "e": None}) == {"b": 1.0}


def test_parameters_are_flat_and_the_mask_is_brief() -> None:
    recipe = {
        "adaptation": {"mask": ["u1", "u2"], "method": {"direct": {}}},
        "fit": {"rows": "train"},
    }
    assert params_of(recipe, {"data": 1}, "..#") == {
        "seed.data": 1, "mask": "..#", "mask.units": 2, "adaptation.method.direct": {},
        "fit.rows": "train",
    }  # fmt: skip


def test_names_are_checked_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown sink"):
        Sinks.of(["wandb"], tmp_path, "study")
    assert SINKS.names() == ["mlflow", "tensorboard"]
    with Sinks.of([], tmp_path, None) as nobody:
        nobody.begin(RUN, {})
    assert list(tmp_path.iterdir()) == []


def told_twice(name: str, out: Path) -> None:
    """Tell of a run that is stopped and goes on in another process."""
    final = {"worst_auc@age": 0.71, "auc": 0.8}
    for first, last, state in ((1, 2, None), (2, 3, "complete")):
        with Sinks.of([name], out, "study") as sinks:
            sinks.begin(RUN, {"optim.lr": 1e-4, "mask": "..#"})
            for number in range(first, last + 1):
                sinks.epoch(RUN, number, {"worst_auc@age": 0.5 + 0.1 * number})
            if state is not None:
                sinks.end(RUN, state, final)


@pytest.mark.slow
def test_tensorboard_reads_what_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told_twice("tensorboard", tmp_path)
    assert caplog.messages == []
    (folder,) = (tmp_path / "tensorboard" / "study").iterdir()
    assert folder.name == "search-003-aaaaaa"
    events = EventAccumulator(str(folder))
    events.Reload()
    steps = {e.step: e.value for e in events.Scalars("worst_auc.age")}
    assert steps == {n: pytest.approx(0.5 + 0.1 * n) for n in (1, 2, 3)}
    assert events.Scalars("final/auc")[0].value == pytest.approx(0.8)
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow uses what its own dependencies call old
def test_mlflow_reads_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told_twice("mlflow", tmp_path)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("fairtune")] == []
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "search 3")
    assert run.data.params == {"optim.lr": "0.0001", "mask": "..#"}
    assert run.data.metrics["final/worst_auc.age"] == 0.71
    history = client.get_metric_history(run.info.run_id, "worst_auc.age")
    assert {m.step: m.value for m in history} == {
        n: pytest.approx(0.5 + 0.1 * n) for n in (1, 2, 3)
    }
    assert run.data.tags["fairtune.state"] == "complete"
    assert not any(tag.startswith(("mlflow.user", "mlflow.source")) for tag in run.data.tags)


def test_a_missing_library_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in SINKS.names():
        with pytest.raises(ConfigError, match=rf"fairtune\[{name}\]"):
            Sinks.of([name], tmp_path, "study")
