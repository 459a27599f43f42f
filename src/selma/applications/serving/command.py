"""`selma serve`: the base, the experts and the merged model over HTTP, with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.screen import say


def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    host: Annotated[
        str, typer.Option(help="Any address but the default opens it to others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8643,
) -> None:
    """Serve a run's models by OpenAI's images protocol, with a page that draws base and merged
    side by side."""
    from selma.applications.serving.opening import serve_models

    serve_models(run, host=host, port=port, say=say)


def register(app: typer.Typer) -> None:
    """Add `selma serve`."""
    app.command()(serve)
