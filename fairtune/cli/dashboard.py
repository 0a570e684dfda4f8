"""`fairtune dashboard`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fairtune.cli.options import Out, Storage


def dashboard(
    study: Annotated[
        str | None,
        typer.Argument(help="Name of the study (default: every study of the storage)."),
    ] = None,
    storage: Storage = None,
    out: Out = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Serve optuna-dashboard on this machine, with figures and notes of fairtune, until Ctrl-C."""
    from fairtune.cli.live import interruptible
    from fairtune.cli.options import place_of
    from fairtune.errors import Interrupted
    from fairtune.report.publish import artifact_folder, publish, require
    from fairtune.report.serve import Dashboard
    from fairtune.study.places import studies_at

    require()
    places = studies_at(place_of(study or "", out, storage))
    pages = []
    for place in places:
        made = publish(place)
        pages.append(made.study_id)
        figures, files = (", ".join(x) or "none" for x in (made.figures, made.files))
        print(f"{place.name}: figures {figures}; {made.notes} new notes; files {files}")
        for said in made.said:
            print(f"{place.name}: {said}", file=sys.stderr)
    try:
        with interruptible(), Dashboard(places[0].url, artifact_folder(places[0]), port) as served:
            page = served.page(pages[0]) if len(pages) == 1 else served.address
            again = "Ctrl-C ends it; give the command again to draw figures and notes anew"
            print(f"{page}\n{again}", flush=True)
            if browser:
                import webbrowser

                webbrowser.open(page)
            served.wait()
    except KeyboardInterrupt:
        raise Interrupted("the dashboard has ended; notes and figures stay") from None


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(dashboard)
