"""What stands between this machine and a study, looked at before one is started."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fairtune import store
from fairtune.config import Settings
from fairtune.errors import FairtuneError
from fairtune.models import tokenizer, weights
from fairtune.models.spec import ModelSpec, load, names
from fairtune.remote import Remote

State: TypeAlias = Literal["ok", "warn", "fail"]

_GIB = 2**30
_WARN_GIB, _FAIL_GIB = 5.0, 1.0
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([0-9.]+))?")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: What was looked at.
        state: `fail` means that a study cannot run.
        detail: What was found.
        todo: What to do about a warning or a failure.
    """

    name: str
    state: State
    detail: str
    todo: str | None = None


def examine(settings: Settings) -> list[Check]:
    """Return all checks; those that ask a network give up after seconds."""
    parts: list[Callable[[], Iterator[Check]]] = [
        _software,
        lambda: _device(settings.device),
        lambda: _disk("cache", settings.cache),
        lambda: _disk("results", settings.out),
        lambda: _runs(settings.runs),
        lambda: _cache(settings),
        lambda: _data(settings.data),
        lambda: _weights(settings),
        lambda: _tokenizers(settings),
    ]
    return [check for part in parts for check in part()]


def _software() -> Iterator[Check]:
    yield Check("Python", "ok", platform.python_version())
    try:
        wanted = importlib.metadata.requires("fairtune") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check(
            "packages", "warn", "fairtune runs from a folder", "install it: pip install -e ."
        )
        return
    matches = [_REQUIREMENT.match(line) for line in wanted if "extra ==" not in line]
    checks = [package(match[1], match[2] or "0") for match in matches if match]
    good = [f"{check.name} {check.detail}" for check in checks if check.state == "ok"]
    if good:
        yield Check("packages", "ok", ", ".join(good))
    yield from (check for check in checks if check.state != "ok")


def package(name: str, least: str) -> Check:
    """Check that the package `name` is installed in version `least` or a later one."""
    todo = f"pip install '{name}>={least}'"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", todo)
    if _numbers(found) < _numbers(least):
        return Check(name, "fail", f"{found}, at least {least} is needed", todo)
    return Check(name, "ok", found)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9.]+", version)
    return tuple(int(part) for part in match[0].strip(".").split(".")) if match else ()


def _device(asked: str | None) -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("device", "fail", f"torch cannot be imported: {error}", "reinstall torch")
        return
    from fairtune.models.precision import has_bf16

    auto = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(asked) if asked else auto
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        yield Check(
            "device",
            "fail",
            f"FAIRTUNE_DEVICE={asked} cannot be used",
            f"unset it, or use {auto.type}",
        )
        return
    if device.type == "cuda":
        name = f"{device} ({torch.cuda.get_device_name(device)})"
    else:
        name = f"{device}, {torch.get_num_threads()} threads of {os.cpu_count()} processors"
    yield Check("device", "ok", name)
    yield Check("bf16", "ok", "in hardware" if has_bf16(device) else "not in hardware: fp32")


def _disk(what: str, folder: Path) -> Iterator[Check]:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / _GIB
    detail = f"{free:.1f} GiB free at {folder}"
    variable = "FAIRTUNE_CACHE" if what == "cache" else "FAIRTUNE_OUT"
    todo = f"point {variable} at another disk"
    if not os.access(there, os.W_OK):
        yield Check(what, "fail", f"{there} cannot be written", todo)
    elif free < _WARN_GIB:
        yield Check(what, "fail" if free < _FAIL_GIB else "warn", detail, todo)
    else:
        yield Check(what, "ok", detail)


def _runs(url: str | None) -> Iterator[Check]:
    if url is None:
        return
    try:
        remote = Remote.at(url, patience=0.0)
        remote.check()
    except FairtuneError as error:
        detail = error.what if error.found is None else f"{error.what}: {error.found}"
        yield Check("runs", "fail", detail, error.todo)
        return
    yield Check("runs", "ok", f"{remote.url} can be written and read back")


def _cache(settings: Settings) -> Iterator[Check]:
    paid = sum(store.size_of(settings.cache / shelf) for shelf in store.PAID) / _GIB
    used = store.size_of(settings.cache) / _GIB - paid if settings.cache.is_dir() else 0.0
    detail = f"{used:.1f} of {settings.cache_gib:g} GiB used"
    detail += f", besides {paid:.1f} GiB of answers that stay" if paid else ""
    full = used > 0.9 * settings.cache_gib
    yield Check(
        "cache size",
        "warn" if full else "ok",
        detail,
        "raise FAIRTUNE_CACHE_GIB; folders used longest ago are removed" if full else None,
    )


def _data(roots: tuple[Path, ...]) -> Iterator[Check]:
    if not roots:
        yield Check(
            "data",
            "warn",
            "FAIRTUNE_DATA is not set: only the data that come with fairtune are found",
            "set it to the folder that holds your data sets, or give --data-root",
        )
    for root in roots:
        if root.is_dir():
            yield Check("data", "ok", str(root))
        else:
            yield Check("data", "fail", f"no such folder: {root}", "correct FAIRTUNE_DATA")


def _weights(settings: Settings) -> Iterator[Check]:
    specs = [spec for spec in map(load, names()) if spec.weights]
    # At the same time, because each one that does not answer takes its full time to say so.
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from pool.map(lambda spec: _weights_of(spec, settings), specs)


def _tokenizers(settings: Settings) -> Iterator[Check]:
    specs = [spec for spec in map(load, names()) if spec.tokenizer is not None]
    if specs and importlib.util.find_spec("tokenizers") is None:
        todo = "pip install 'fairtune[clip]'"
        yield Check("tokenizers", "warn", "not installed: no model reads texts", todo)
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from pool.map(lambda spec: _tokenizer_of(spec, settings), specs)


def _tokenizer_of(spec: ModelSpec, settings: Settings) -> Check:
    name, rule = f"tokenizer {spec.name}", spec.tokenizer
    assert rule is not None
    held = tokenizer.cached(spec, settings)
    if held is not None:
        return Check(name, "ok", f"at hand, from {held}; texts of up to {rule.limit} tokens")
    if rule.kind == "open_clip":
        todo = "pip install 'fairtune[clip]'"
        return Check(name, "warn", "the package open_clip_torch is not installed", todo)
    return _sought(name, spec, rule.sources, settings, f"fairtune models pull {spec.name}")


def _weights_of(spec: ModelSpec, settings: Settings) -> Check:
    name = f"weights {spec.name}"
    held = weights.cached(spec, settings)
    if held is not None:
        return Check(name, "ok", f"cached, from {held.source}")
    todo = f"fairtune models pull {spec.name} --from FILE"
    return _sought(name, spec, spec.weights, settings, todo)


def _sought(
    name: str, spec: ModelSpec, sources: Sequence[Any], settings: Settings, todo: str
) -> Check:
    """Return whether one of `sources` can be had, or why none can."""
    reasons = []
    for source in sources:
        try:
            reason = source.reachable(spec, settings)
        except FairtuneError as error:
            reason = error.what
        if reason is None:
            return Check(name, "ok", f"can be had from {source.label()}")
        reasons.append(f"{source.label()}: {reason}")
    return Check(name, "warn", "; ".join(reasons) or "its spec names no source", todo)
