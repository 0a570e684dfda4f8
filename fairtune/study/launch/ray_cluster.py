"""Workers as actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import Field

from fairtune.config import Config
from fairtune.errors import ConfigError, StudyError
from fairtune.study.launch import LAUNCHERS, Crew
from fairtune.study.launch.ray_posts import Posts
from fairtune.study.worker import Stop

AUTO, NONE = "auto", "none"
_PATIENCE = 10.0


@LAUNCHERS.register("ray")
class Ray(Config):
    """Starts one actor for every worker, which runs it as a process, and waits for them.

    An actor whose node dies is placed elsewhere by Ray. This process has to stay; when it is told
    to leave, or dies, the workers keep the state of their runs and leave.

    Attributes:
        address: Of the cluster, `HOST:PORT`; `auto`: the one that `RAY_ADDRESS` or this machine
            knows; `none`: one of this machine alone, for as long as the workers need it.
        cpus: Cores of a worker.
        gpus: Accelerators of a worker; by default those that share a run, divided by the workers
            that share one, or 0 where the cluster has none.
        restarts: How often an actor or a worker that died is started again.
        grace: Seconds that workers have to leave once they were told to.
    """

    address: str = AUTO
    cpus: float = Field(default=1.0, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    restarts: int = Field(default=3, ge=0)
    grace: int = Field(default=300, ge=1)

    @property
    def elsewhere(self) -> bool:
        """Whether workers may run on other machines."""
        return self.address != NONE

    def launch(
        self,
        crew: Crew,
        stop: Stop,
        tell: Callable[[str], None],
        look: Callable[[], None],
    ) -> bool:
        """Start the workers and return when the last has left."""
        _check(crew)
        with self._cluster(crew) as ray:
            gpus = self.share(crew, ray)
            needs = {
                "num_cpus": self.cpus,
                "num_gpus": gpus,
                "max_restarts": self.restarts,
                "max_task_retries": -1,
            }
            tell(
                f"{crew.workers} workers with {self.cpus:g} cores and {gpus:g} accelerators each, "
                f"logs in {crew.folder}"
            )
            posts = Posts(ray, crew, needs, self.restarts, self.grace, tell)
            try:
                while posts.going():
                    if stop.reason() is not None:
                        posts.dismiss()
                    look()
                posts.check()
            finally:
                posts.end()
        return True

    def share(self, crew: Crew, ray: Any) -> float:
        """Return the accelerators, or the part of one, that a worker asks of a cluster."""
        if self.gpus is not None:
            return self.gpus
        return crew.processes / crew.per_device if ray.cluster_resources().get("GPU") else 0.0

    @contextlib.contextmanager
    def _cluster(self, crew: Crew) -> Iterator[Any]:
        """Connect to the cluster, or start one, and leave nothing of it behind."""
        try:
            import ray
        except ImportError:
            raise StudyError(
                "Ray is not installed",
                where="--launcher ray",
                todo="pip install 'fairtune[ray]'",
            ) from None
        self._reach()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray puts its own answer to SIGTERM in the place of the command's.
        before = signal.getsignal(signal.SIGTERM)
        own: dict[str, Any] = {"include_dashboard": False, "num_cpus": self._cores(crew)}
        try:
            ray.init(
                address="local" if self.address == NONE else self.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if self.address == NONE else {}),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise self._absent(str(error).splitlines()[0]) from None
        try:
            signal.signal(signal.SIGTERM, before)
            yield ray
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, before)

    def _reach(self) -> None:
        """Refuse an address at which nobody answers: Ray would ask for minutes."""
        named = os.environ.get("RAY_ADDRESS", "") if self.address == AUTO else self.address
        if named in ("", AUTO, NONE):
            return
        host, _, port = named.rpartition("://")[2].rpartition(":")
        try:
            with socket.create_connection((host, int(port)), _PATIENCE):
                return
        except (OSError, ValueError) as error:
            raise self._absent(str(error)) from None

    def _absent(self, found: str) -> StudyError:
        return StudyError(
            "there is no Ray cluster",
            where="--with address",
            found=f"{self.address}: {found}",
            allowed="HOST:PORT of its head, auto, or none for one of this machine",
        )

    def _cores(self, crew: Crew) -> int:
        """Return how many cores a cluster of this machine pretends to have: enough for all."""
        return max(os.cpu_count() or 1, int(-(-crew.workers * self.cpus // 1)))


def _check(crew: Crew) -> None:
    if crew.per_device > 1 and crew.processes > 1:
        raise ConfigError(
            "Ray gives either a part of an accelerator or several whole ones",
            where="--workers-per-gpu",
            found=crew.per_device,
            todo="leave out --workers-per-gpu or --gpus-per-run",
        )
