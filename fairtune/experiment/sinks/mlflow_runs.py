"""Runs in MLflow: one for each, found again by its key."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairtune.config import Config
from fairtune.config.dimensions import Scalar
from fairtune.errors import ConfigError
from fairtune.experiment.sink import SINKS, RunName, Sink

_KEY = "fairtune.key"
_LONGEST = 500
_STATES = {"failed": "FAILED", "stopped": "KILLED"}


@SINKS.register("mlflow")
class Mlflow(Config):
    """An experiment for the study, a run for each run.

    Where MLFLOW_TRACKING_URI is not set, they go to an SQLite file in the results folder.
    """

    def check(self) -> None:
        """Raise ConfigError where MLflow is not installed."""
        if importlib.util.find_spec("mlflow") is None:
            raise ConfigError(
                "MLflow is not installed",
                where="--log mlflow",
                todo="pip install 'fairtune[mlflow]'",
            )

    def open(self, out: Path, study: str) -> Sink:
        """Return the working sink."""
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        local = out.resolve() / "mlflow"
        api: Any = mlflow
        if api.is_tracking_uri_set():
            client = mlflow.MlflowClient()
            return Runs(client, _experiment(client, study, None))
        local.mkdir(parents=True, exist_ok=True)
        client = mlflow.MlflowClient(f"sqlite:///{local / 'mlflow.db'}")
        return Runs(client, _experiment(client, study, (local / "artifacts").as_uri()))


def _experiment(client: Any, study: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(study)
    if found is None:
        try:
            return str(client.create_experiment(study, artifact_location=artifacts))
        except MlflowException:
            # Another worker of the study was quicker; any other fault shows here again.
            found = client.get_experiment_by_name(study)
            if found is None:
                raise
    return str(found.experiment_id)


@dataclass
class Runs:
    """The working sink.

    Attributes:
        client: MLflow's client.
        experiment: Id of the experiment.
        ids: MLflow's ids of the runs that have begun.
    """

    client: Any
    experiment: str
    ids: dict[str, str] = field(default_factory=dict)

    def begin(self, run: RunName, params: Mapping[str, Scalar]) -> None:
        """Make the run, or go on with that of an earlier attempt."""
        from mlflow.entities import Param

        old = self._find(run)
        if old is not None:
            self.client.update_run(old, status="RUNNING")
            return
        tags = {_KEY: run.key, "fairtune.phase": run.phase, "fairtune.label": run.label}
        made = self.client.create_run(self.experiment, tags=tags, run_name=str(run))
        self.ids[run.key] = made.info.run_id
        shown = [Param(name, str(value)[:_LONGEST]) for name, value in params.items()]
        self.client.log_batch(made.info.run_id, params=shown)

    def epoch(self, run: RunName, number: int, values: Mapping[str, float]) -> None:
        """Log the values at a step."""
        self._log(run, values, number)

    def end(self, run: RunName, state: str, values: Mapping[str, float]) -> None:
        """Log the final values and end the run."""
        self._log(run, {f"final/{name}": value for name, value in values.items()}, 0)
        place = self._id(run)
        self.client.set_tag(place, "fairtune.state", state)
        self.client.set_terminated(place, _STATES.get(state, "FINISHED"))

    def close(self) -> None:
        """Do nothing: every message is sent when it comes."""

    def _log(self, run: RunName, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self._id(run), metrics=metrics)

    def _id(self, run: RunName) -> str:
        if self._find(run) is None:
            self.begin(run, {})
        return self.ids[run.key]

    def _find(self, run: RunName) -> str | None:
        if run.key not in self.ids:
            found = self.client.search_runs(
                [self.experiment], f"tags.`{_KEY}` = '{run.key}'", max_results=1
            )
            if not found:
                return None
            self.ids[run.key] = found[0].info.run_id
        return self.ids[run.key]
