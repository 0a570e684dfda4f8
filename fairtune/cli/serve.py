"""`fairtune serve-embeddings`."""

from __future__ import annotations

from typing import Annotated

import typer


def serve_embeddings(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of its YAML file.")],
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels; the model's default if not given.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="auto, none (random initialisation) or a weights file.")
    ] = "auto",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 0,
    token_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the bearer token that requests must have."),
    ] = None,
    batch_limit: Annotated[int, typer.Option(min=1, help="Most images of one request.")] = 256,
) -> None:
    """Serve a model as an endpoint for the loader `http`, until Ctrl-C or SIGTERM."""
    from fairtune.cli.live import interruptible
    from fairtune.config import settings
    from fairtune.errors import Interrupted
    from fairtune.models.serve import open_server

    try:
        with (
            interruptible(),
            open_server(
                name,
                settings(),
                image_size=image_size,
                weights=weights,
                host=host,
                port=port,
                token_env=token_env,
                most=batch_limit,
            ) as served,
        ):
            print(f"serving {served.version} at {served.url}")
            print("in a model file:")
            print(served.loader(token_env))
            if served.for_all:
                print(
                    "The channel is not encrypted"
                    + ("" if token_env else " and asks for no token")
                    + ": whoever reaches this port can read what is sent"
                    + ("" if token_env else " and ask as much as he likes")
                    + ". Put it behind a proxy that speaks https."
                )
            served.wait()
    except KeyboardInterrupt:
        raise Interrupted("the server has ended; clients ask again for a while") from None


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command("serve-embeddings")(serve_embeddings)
