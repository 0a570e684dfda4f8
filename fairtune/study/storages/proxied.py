"""A storage behind `fairtune proxy`, for machines that cannot reach the database itself."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.storages import GrpcStorageProxy

from fairtune.errors import StorageAway, StorageError
from fairtune.study.storages.address import GRPC
from fairtune.study.storages.opened import Opened

PORT = 13000
CONNECT_SECONDS = 15.0
ASK_SECONDS = 60.0
KEPT_ALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A proxy of the web, as clusters name in the environment, knows no way to this one.
    ("grpc.enable_http_proxy", 0),
)
# What is an answer to the question; Optuna knows these.
_ANSWERS = ("NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED")


def require() -> None:
    """Check that gRPC is installed.

    Raises:
        StorageError: It is not.
    """
    if importlib.util.find_spec("grpc") is None:
        raise StorageError(
            "a proxy needs gRPC, which is not installed", todo="pip install 'fairtune[grpc]'"
        )


def open_proxied(url: str) -> Opened:
    """Open the storage behind the proxy at `grpc://HOST:PORT`.

    Raises:
        StorageAway: Nothing answers.
        StorageError: The address is none, or gRPC is not installed.
    """
    host, port = _address(url)
    require()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = GrpcStorageProxy(host=host, port=port)
    _wire(storage, f"{host}:{port}")
    import grpc

    try:
        grpc.channel_ready_future(storage._channel).result(timeout=CONNECT_SECONDS)
    except grpc.FutureTimeoutError:
        storage.close()
        raise StorageAway(
            "no proxy answers",
            where=url,
            todo="start it with `fairtune proxy --storage URL` where the database can be reached",
        ) from None
    return Opened(storage, url, (), leave=storage.close)


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix(GRPC).rstrip("/").rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536 or not host or "@" in host or "/" in host:
        raise StorageError(
            "not the address of a proxy",
            found=url.rpartition("@")[2] if "@" in url else url,
            allowed=f"{GRPC}HOST:PORT, e.g. {GRPC}login1:{PORT}",
        )
    return host, int(port)


def _wire(storage: GrpcStorageProxy, target: str) -> None:
    """Give Optuna's client a channel that notices a cut link, and bounds for each question."""
    import grpc
    from optuna.storages._grpc.auto_generated import api_pb2_grpc
    from optuna.storages._grpc.client import GrpcClientCache

    storage.close()
    storage._channel = grpc.insecure_channel(target, options=KEPT_ALIVE)
    stub = api_pb2_grpc.StorageServiceStub(storage._channel)  # type: ignore[no-untyped-call]
    storage._stub = _Asked(stub, target)  # type: ignore[assignment]
    storage._cache = GrpcClientCache(storage._stub)


class _Asked:
    """Optuna's stub, with an end to every wait and faults that are told apart."""

    def __init__(self, stub: Any, target: str) -> None:
        self._stub, self._target = stub, target

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        import grpc

        call = getattr(self._stub, name)

        def ask(request: Any) -> Any:
            try:
                return call(request, timeout=ASK_SECONDS)
            except grpc.RpcError as error:
                code, said = error.code().name, str(error.details() or "")
                if code in _ANSWERS:
                    raise
                if code in _PASSING:
                    raise ConnectionError(f"proxy: {code}: {said}") from None
                raise StorageError(
                    "the proxy refused what was asked",
                    where=f"{GRPC}{self._target}",
                    found=f"{code}: {said}"[:300],
                ) from None

        return ask
