"""`fairtune proxy`."""

from __future__ import annotations

from typing import Annotated

import typer

from fairtune.cli.options import Out, Storage


def proxy(
    storage: Storage = None,
    out: Out = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 13000,
) -> None:
    """Serve a database to workers that cannot reach it, until Ctrl-C or SIGTERM."""
    import socket

    from fairtune.cli.live import interruptible
    from fairtune.cli.options import place_of
    from fairtune.errors import ConfigError, Interrupted
    from fairtune.study.storages.proxy import Proxy

    place = place_of("", out, storage)
    if place.storage is None:
        raise ConfigError("which database?", where="--storage", todo="give its URL, or local")
    try:
        with interruptible(), Proxy(place.url, host, port) as served:
            here = host in ("127.0.0.1", "localhost", "::1")
            name = host if here else socket.gethostname()
            print(f"serving {served.shown}")
            print(f"on the workers: --storage grpc://{name}:{served.port}")
            print(
                "The channel is neither encrypted nor authenticated: whoever reaches this port "
                "can read and change every study of the storage."
            )
            if here:
                print(
                    "It listens on this machine alone; workers elsewhere come through a tunnel, "
                    f"e.g. ssh -L {served.port}:127.0.0.1:{served.port} THIS-MACHINE"
                )
            served.wait()
    except KeyboardInterrupt:
        raise Interrupted("the proxy has ended; workers wait until it is started again") from None


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(proxy)
