"""A real SLURM on this machine: three plain processes, a private configuration, loopback only."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120.0

# After a requeue a job waits for `cred_expire` and one second more; the default is two minutes.
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/munge/munge.sock,cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdLogFile={home}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
JobRequeue=1
ReturnToService=2
KillWait=20
PropagateResourceLimits=NONE
NodeName=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def search_path() -> str:
    """Return PATH with the folder of daemons, which an ordinary account's has not."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Cluster:
    """A running SLURM.

    Attributes:
        home: Its private folder.
        environment: What its clients need in their environment.
    """

    home: Path
    environment: Mapping[str, str]

    def run(self, *words: object) -> str:
        """Return what a client command prints."""
        done = subprocess.run(
            [str(word) for word in words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def tasks(self, job: str = "") -> dict[str, str]:
        """Return the state of every job, or task of `job`, that SLURM still knows."""
        words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"]
        said = self.run(*words, *([f"--jobs={job}"] if job else []))
        return dict(line.split("|") for line in said.splitlines())

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        """Return what `until` gives once it is true."""
        return wait_until(until, lambda: f"{what}; {self.tasks()}\n{self.logs()}")

    def logs(self) -> str:
        """Return the last lines of every daemon."""
        logs = sorted((self.home / "log").glob("*"))
        return "\n".join(f"{p.name}:\n{p.read_text(errors='replace')[-3000:]}" for p in logs)


def wait_until(until: Callable[[], Any], what: Callable[[], str]) -> Any:
    """Return what `until` gives once it is true; fail with `what` when it never is."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := until():
            return found
        time.sleep(0.1)
    pytest.fail(f"this never came: {what()}")


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a SLURM of one node; end its jobs and itself."""
    # Short and open to all: munged refuses a socket below a folder that others cannot enter.
    home = Path(tempfile.mkdtemp(prefix="ft-slurm-"))
    home.chmod(0o755)
    environment = _prepare(home)
    made = Cluster(home, environment)
    running: list[subprocess.Popen[bytes]] = []
    try:
        _start(made, running)
        yield made
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            made.run("scancel", "--user", getpass.getuser())
            made.run("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
            _until_empty(made)
        for daemon in reversed(running):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(running):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(home, ignore_errors=True)


def _prepare(home: Path) -> dict[str, str]:
    for name in ("munge", "state", "spool", "log"):
        (home / name).mkdir(mode=0o755)
    key = home / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    config = home / "slurm.conf"
    ports = _free_ports(2)
    config.write_text(CONFIG.format(user=getpass.getuser(), home=home, ports=ports))
    return {"SLURM_CONF": str(config), "PATH": search_path()}


def _start(made: Cluster, running: list[subprocess.Popen[bytes]]) -> None:
    munge = made.home / "munge"
    files = [f"--{what}={munge / name}" for what, name in _MUNGE_FILES.items()]
    _daemon(
        made,
        running,
        ["munged", "--foreground", *files, "--num-threads=2", "--origin=127.0.0.1"],
    )
    wait_until((munge / "munge.sock").exists, made.logs)
    _daemon(made, running, ["slurmctld", "-D", "-i"])
    _daemon(made, running, ["slurmd", "-D", "-N", "localhost"])
    wait_until(lambda: _state(made) == "idle", made.logs)


_MUNGE_FILES = {
    "key-file": "key",
    "socket": "munge.sock",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munged.seed",
}


def _daemon(made: Cluster, running: list[subprocess.Popen[bytes]], words: Sequence[str]) -> None:
    program = shutil.which(words[0], path=search_path())
    with (made.home / "log" / f"{words[0]}.out").open("wb") as log:
        running.append(
            subprocess.Popen(
                [str(program), *words[1:]],
                env=_clean() | dict(made.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )


def _clean() -> dict[str, str]:
    foreign = ("SLURM_", "SBATCH_", "SUBMITIT_")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign)}


def _state(made: Cluster) -> str:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        env={**os.environ, **made.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


def _until_empty(made: Cluster) -> None:
    end = time.monotonic() + 30
    while made.run("squeue", "--noheader") and time.monotonic() < end:
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
