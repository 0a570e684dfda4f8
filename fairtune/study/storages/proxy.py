"""Serving a database to machines that cannot reach it: the other end of `grpc://HOST:PORT`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from fairtune.errors import StorageError
from fairtune.study.storages import faults, open_storage
from fairtune.study.storages.opened import Opened, engine_of
from fairtune.study.storages.proxied import KEPT_ALIVE, require

THREADS = 16
"""Questions that are answered at once, each on a connection of its own to the database."""
_GRACE_SECONDS = 10.0
_OPTIONS = (
    *KEPT_ALIVE,
    # Two proxies on one port would each get some of the workers.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class Proxy:
    """A proxy that answers from threads of this process until it is closed.

    The channel is neither encrypted nor authenticated: whoever reaches the port can read and
    write every study of the storage.

    Args:
        url: The storage: PostgreSQL, MySQL or `local:FOLDER`.
        host: Address to listen on.
        port: 0 takes a free one.

    Raises:
        StorageError: gRPC is missing, the storage cannot be reached or is a file, or the port
            cannot be had.
    """

    def __init__(self, url: str, host: str, port: int) -> None:
        require()
        self._opened = open_storage(url, connections=THREADS)
        self.shown = self._opened.shown
        try:
            engine = engine_of(self._opened.storage)
            if engine is None or engine.dialect.name == "sqlite":
                raise StorageError(
                    "a proxy needs a database server behind it: Optuna's cannot serve a journal "
                    "file, and SQLite takes one worker",
                    where="--storage",
                    found=self.shown,
                    allowed="local, postgresql://..., mysql://...",
                )
            self._server, self.port = _serve(self._opened, host, port)
        except BaseException:
            self._opened.close()
            raise

    def wait(self) -> None:
        """Return when the proxy has ended; Ctrl-C gets through."""
        while self._server.wait_for_termination(timeout=1.0):
            pass

    def close(self) -> None:
        """Answer what was asked, take nothing more, and close the storage."""
        self._server.stop(_GRACE_SECONDS).wait()
        self._opened.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _serve(opened: Opened, host: str, port: int) -> tuple[Any, int]:
    """Return a server that runs, and its port."""
    import grpc
    from optuna.storages._grpc.auto_generated import api_pb2_grpc
    from optuna.storages._grpc.servicer import OptunaStorageProxyService

    server = grpc.server(
        ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="fairtune-proxy"),
        options=_OPTIONS,
    )
    service = _Telling(OptunaStorageProxyService(opened.storage), opened)
    api_pb2_grpc.add_StorageServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    try:
        taken = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        taken = 0
    if taken == 0:
        raise StorageError(
            "the port cannot be used",
            where="--port",
            found=f"{host}:{port}",
            todo="choose another; 0 takes a free one",
        )
    server.start()
    return server, taken


class _Telling:
    """Optuna's service, which tells a database that is away from a question that is wrong."""

    def __init__(self, service: Any, opened: Opened) -> None:
        self._service, self._opened = service, opened

    def __getattr__(self, name: str) -> Callable[[Any, Any], Any]:
        import grpc

        answer = getattr(self._service, name)

        def told(request: Any, context: Any) -> Any:
            try:
                return answer(request, context)
            except faults.PASSING as error:
                said = self._opened.scrub(faults.first_line(error))
                if not faults.may_pass(error):
                    context.abort(grpc.StatusCode.INTERNAL, said)
                self._opened.revive()
                context.abort(grpc.StatusCode.UNAVAILABLE, said)

        return told
