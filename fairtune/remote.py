"""A folder that several machines reach by a URL: S3, a shared path, whatever fsspec can write.

Files are put and got whole. What may pass (a network that is cut, a server that is busy) is tried
again with growing pauses; what is refused is told at once, as one message. Credentials come from
the environment, as the library of each file system takes them, and never from the URL.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import logging
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fairtune.errors import ConfigError, StorageError

T = TypeVar("T")
log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds for which a remote that does not answer is asked again."""

ALLOWED = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, file:///PATH, or an absolute path"

_PAUSE, _LONGEST = 0.1, 15.0
_ONCE, _AGAIN = 20.0, 60.0
"""Seconds for one request, of what is asked once and of what is asked again."""

_AT_ONCE = 8
_SLOWEST = 2.0**20 / _AT_ONCE
"""Bytes a second that a network has to carry, of each of the files copied at once."""

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
# A name before an @, and all up to the last @ where a password may hold a slash.
_CREDENTIALS = re.compile(
    r"(?P<head>(?:[a-z][a-z0-9+.-]*://)?)(?:[^/@]*@|[^/@:]+:(?!\d+/|//).*@)", re.I
)
_WHERE = "FAIRTUNE_RUNS / --runs"
_EXTRAS = {"s3": "fairtune[s3]", "s3a": "fairtune[s3]", "gs": "gcsfs", "gcs": "gcsfs"}
_REFUSALS = (NotImplementedError, ValueError, TypeError)
# Of what an operating system, or a library in its words, says: this may pass, all else is refused.
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    None,
}
# Faults of the libraries' own kinds, known by name so that none of them is imported.
_UNSURE = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
_UNKNOWN = ("ProfileNotFound", "ParamValidationError", "NoRegionError", "DefaultCredentialsError")


@dataclass(frozen=True)
class Remote:
    """A folder at a URL.

    Attributes:
        url: Where it is, without credentials; see `at`.
        patience: Seconds for which one that does not answer is asked again.
    """

    url: str
    patience: float = PATIENCE

    @classmethod
    def at(cls, url: str, patience: float = PATIENCE) -> Remote:
        """Return the folder that `url` names; nothing is asked of it yet.

        Raises:
            ConfigError: It is no such URL, holds credentials, or its library is not installed.
        """
        return cls(_checked(url.strip()), patience)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None when there is none.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        return self._patiently(
            lambda: self._or_none(self._at(path), self._fs.cat_file), "read", path
        )

    def write(self, path: str, content: bytes) -> None:
        """Write a file.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        within = self._within(len(content))
        self._patiently(
            lambda: self._fs.pipe_file(self._at(path), content, **within), "write", path
        )

    def put(self, files: Mapping[str, Path]) -> None:
        """Copy local files to the paths that they are named by.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        pairs = [(str(file), self._at(path)) for path, file in files.items()]
        within = self._within(max((f.stat().st_size for f in files.values()), default=0))
        put = functools.partial(self._fs.put_file, **within)
        self._patiently(lambda: _each(put, pairs), "write", _first(files))

    def get(self, files: Mapping[str, Path]) -> bool:
        """Copy files to local paths; return False when one is not there.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        pairs = [(self._at(path), str(file)) for path, file in files.items()]
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        return self._patiently(lambda: self._got(pairs), "read", _first(files))

    def names(self, path: str) -> list[str]:
        """Return the paths of all files below `path`, sorted.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        found = self._patiently(lambda: self._found(self._at(path)), "list", path)
        return sorted(name[len(self._root) + 1 :] for name in found)

    def remove(self, paths: list[str]) -> None:
        """Remove files; one that is gone already is no fault.

        Raises:
            StorageError: The remote does not answer, or refuses.
        """
        for path in paths:
            remove = functools.partial(self._or_none, self._at(path), self._fs.rm_file)
            self._patiently(remove, "remove", path)

    def check(self) -> None:
        """Write a small file, read it back and remove it.

        Raises:
            StorageError: What was read is not what was written, or one of the three fails.
        """
        name, content = f".fairtune-{uuid.uuid4().hex}", uuid.uuid4().bytes
        self.write(name, content)
        if self.read(name) != content:
            raise StorageError("what is read back is not what was written", where=self.url)
        self.remove([name])

    @cached_property
    def _fs(self) -> Any:
        import fsspec

        scheme = self.url.split("://", 1)[0]
        once = self.patience <= 0
        made = fsspec.filesystem(scheme, **_options(scheme, once=once))
        if once and hasattr(made, "retries"):
            made.retries = 1  # s3fs asks five times of its own accord
        return made

    @cached_property
    def _root(self) -> str:
        return str(self._fs._strip_protocol(self.url)).rstrip("/")

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _got(self, pairs: Sequence[tuple[str, str]]) -> bool:
        try:
            _each(self._fs.get_file, pairs)
        except FileNotFoundError:
            return False
        return True

    def _found(self, path: str) -> list[str]:
        # Other machines write too: what was listed before says nothing of now.
        self._fs.invalidate_cache()
        return list(self._fs.find(path, **self._within(0)))

    def _or_none(self, path: str, do: Callable[..., T]) -> T | None:
        with contextlib.suppress(FileNotFoundError):
            return do(path, **self._within(0))
        return None

    def _within(self, size: int) -> dict[str, float]:
        """Return the limit of time for `size` bytes, where the file system takes one.

        The limits that a library has of its own leave gaps: aiohttp waits without end for a server
        that takes a connection and says nothing.
        """
        seconds = (_ONCE if self.patience <= 0 else _AGAIN) + size / _SLOWEST
        return {"timeout": seconds} if self._fs.async_impl else {}

    def _patiently(self, do: Callable[[], T], what: str, path: str) -> T:
        deadline, pause = time.monotonic() + self.patience, _PAUSE
        while True:
            try:
                return do()
            except Exception as error:
                if _is_refusal(error) or time.monotonic() + pause > deadline:
                    raise self._fault(error, what, path) from None
                said = _said(error)
                log.warning("%s: cannot %s: %s; again in %.1f s", self.url, what, said, pause)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST) * random.uniform(0.8, 1.2)

    def _fault(self, error: Exception, what: str, path: str) -> StorageError:
        refused = _is_refusal(error)
        return StorageError(
            f"cannot {what} {path}" + ("" if refused else ": the remote does not answer"),
            where=self.url,
            found=_said(error),
            todo="check that it exists and that the credentials in the environment may read and "
            "write there; `fairtune doctor` tries it",
        )


def _checked(url: str) -> str:
    if url.startswith("/"):
        url = f"file://{url}"
    shown = re.split(r"[?#]", _CREDENTIALS.sub(r"\g<head>***@", url))[0]
    if _CREDENTIALS.match(url):
        raise ConfigError(
            "a URL of runs holds no credentials",
            where=_WHERE,
            found=shown,
            todo="set them in the environment or the library's own files, and leave them out here",
        )
    match = _URL.fullmatch(url)
    if match is None or not match["rest"].strip("/") or any(m in url for m in ("::", "?", "#")):
        raise ConfigError("not a URL of a folder", where=_WHERE, found=shown, allowed=ALLOWED)
    _check_library(match["scheme"], url)
    return url.rstrip("/")


def _check_library(scheme: str, url: str) -> None:
    if importlib.util.find_spec("fsspec") is None:
        raise ConfigError(
            "the package fsspec is not installed",
            where=_WHERE,
            todo="pip install 'fairtune[remote]'",
        )
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise ConfigError(
            "unknown kind of URL", where=_WHERE, found=url, allowed=ALLOWED
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"the package that {scheme}:// needs is not installed",
            where=_WHERE,
            found=_said(error),
            todo=f"pip install '{_EXTRAS[scheme]}'" if scheme in _EXTRAS else None,
        ) from None


def _options(scheme: str, *, once: bool) -> dict[str, Any]:
    """Return what a file system is opened with; `once`: for what is not worth waiting for."""
    if scheme in ("file", "local"):
        return {"auto_mkdir": True}
    if scheme in ("s3", "s3a"):
        import fsspec.config

        # What a user has set for the library goes before; without limits of time one request to
        # a host that is gone takes minutes.
        own = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
        limits = {"connect_timeout": 5 if once else 10, "read_timeout": _ONCE if once else _AGAIN}
        return {"config_kwargs": limits | {"retries": {"max_attempts": 1}} | own}
    return {}


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return False
    if isinstance(error, OSError):
        known = (FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError)
        return isinstance(error, known) or error.errno not in _PASSING
    return type(error).__name__ in (*_UNSURE, *_UNKNOWN) or isinstance(error, _REFUSALS)


def _each(do: Callable[[str, str], Any], pairs: Sequence[tuple[str, str]]) -> None:
    """Copy files, several at a time.

    fsspec's own lists of files leave the other copies running where one fails or takes too long.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda pair: do(*pair), pairs))


def _said(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _first(files: Mapping[str, Path]) -> str:
    return next(iter(files), "")
