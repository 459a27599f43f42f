"""`selma export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.outputs import word, written
from selma.plurals import counted
from selma.screen import say


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[
        Path, typer.Option("--webdataset", callback=written, help="A new folder, for tar shards.")
    ],
    skill: Annotated[
        list[str] | None, typer.Option(callback=word, help="Of this skill alone; may be repeated.")
    ] = None,
    per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard.")] = 1000,
) -> None:
    """Write a run's training pairs as tar shards, which `webdataset` and `datasets` read."""
    from selma.applications.exporting.shards import export_shards

    shards = export_shards(run, out, skills=skill or (), per_shard=per_shard)
    say(f"{out}: {counted(len(shards), 'shard')}")


def register(app: typer.Typer) -> None:
    """Add `selma export`."""
    app.command()(export)
