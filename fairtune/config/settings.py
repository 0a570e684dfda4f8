"""Every environment variable that fairtune reads, in one place."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fairtune.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        data: Folders searched for data sets (`FAIRTUNE_DATA`, separated like PATH).
        cache: Folder of packs and weights (`FAIRTUNE_CACHE`).
        cache_gib: Cap of the cache in GiB (`FAIRTUNE_CACHE_GIB`).
        out: Folder of results (`FAIRTUNE_OUT`).
        storage: Optuna storage URL (`FAIRTUNE_STORAGE`, then `OPTUNA_STORAGE`).
        runs: URL where machines share finished runs (`FAIRTUNE_RUNS`); None: each has its own.
        offline: Never ask a model hub (`FAIRTUNE_OFFLINE`, or `HF_HUB_OFFLINE`).
        device: Torch device (`FAIRTUNE_DEVICE`); None picks an accelerator when there is one.
        processes: Processes that torchrun started for this command (`WORLD_SIZE`); 1 without it.
        local_rank: Number of this one among those of its machine (`LOCAL_RANK`).
        study: Name of the study that a worker works on (`FAIRTUNE_STUDY`).
    """

    data: tuple[Path, ...]
    cache: Path
    cache_gib: float
    out: Path
    storage: str | None
    offline: bool
    device: str | None
    processes: int = 1
    local_rank: int = 0
    study: str | None = None
    runs: str | None = None


def settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ`, by default the process environment.

    Raises:
        ConfigError: A variable holds something that cannot be read as its type.
    """
    env = os.environ if environ is None else environ
    home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = [Path(p).expanduser() for p in env.get("FAIRTUNE_DATA", "").split(os.pathsep) if p]
    processes, local_rank = launched(env)
    return Settings(
        data=tuple(folders),
        cache=Path(env.get("FAIRTUNE_CACHE") or home / "fairtune").expanduser(),
        cache_gib=_positive(env, "FAIRTUNE_CACHE_GIB", 50.0),
        out=Path(env.get("FAIRTUNE_OUT") or "results").expanduser(),
        storage=env.get("FAIRTUNE_STORAGE") or env.get("OPTUNA_STORAGE") or None,
        study=env.get("FAIRTUNE_STUDY") or None,
        offline=_flag(env, "FAIRTUNE_OFFLINE") or _flag(env, "HF_HUB_OFFLINE"),
        device=env.get("FAIRTUNE_DEVICE") or None,
        processes=processes,
        local_rank=local_rank,
        runs=env.get("FAIRTUNE_RUNS") or None,
    )


def launched(environ: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return how many processes torchrun started, and this one's number on its machine."""
    env = os.environ if environ is None else environ
    # Others set WORLD_SIZE too; the id of the launch is torchrun's own.
    if "TORCHELASTIC_RUN_ID" not in env:
        return 1, 0
    return int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"])


def threads_here(share: int, environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return what says to a process that it computes on `share` threads.

    Where the user has chosen their number (`OMP_NUM_THREADS`) that stands.
    """
    env = os.environ if environ is None else environ
    return {"OMP_NUM_THREADS": env.get("OMP_NUM_THREADS") or str(share)}


def devices_named(count: int, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return what `CUDA_VISIBLE_DEVICES` calls each of the `count` CUDA devices seen here."""
    env = os.environ if environ is None else environ
    named = [name.strip() for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    known = [name for name in named if name]
    return tuple((known or [str(i) for i in range(count)])[:count])


def secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return what the environment variable `name`, which a model file names, holds, if anything.

    The caller writes it nowhere.
    """
    env = os.environ if environ is None else environ
    return env.get(name, "").strip() or None


def proxy_of(url: str) -> str | None:
    """Return the proxy through which `url` is asked (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`)."""
    import urllib.request

    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def cpp_compiler(environ: Mapping[str, str] | None = None) -> str:
    """Return the C++ compiler that torch calls on a CPU (`CXX`)."""
    env = os.environ if environ is None else environ
    return env.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def c_compilers(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the C compilers of which triton calls the first that is there (`CC`)."""
    env = os.environ if environ is None else environ
    return (env["CC"],) if env.get("CC") else ("gcc", "clang")


def keep_compiled_code(folder: Path) -> Path:
    """Let torch keep what it compiles in `folder`, unless `TORCHINDUCTOR_CACHE_DIR` says where.

    The variable is set for this process and those it starts: torch knows no other way, and would
    take a folder below /tmp that others can guess. The folder is the user's alone.

    Raises:
        OSError: The folder cannot be made.
    """
    chosen = Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.absolute())))
    if chosen == folder.absolute():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return chosen


def _positive(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError("expected a number above 0", where=f"environment {name}", found=text)
    return value


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").strip().lower()
    if text in ("", "0", "false", "no", "off"):
        return False
    if text in ("1", "true", "yes", "on"):
        return True
    raise ConfigError("expected 0 or 1", where=f"environment {name}", found=text)
