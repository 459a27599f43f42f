"""`selma oft`: the OFT paper's toy experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.console import Commands, Seed
from selma.outputs import written
from selma.screen import say

oft = typer.Typer(help="Experiments of the OFT paper.", cls=Commands, no_args_is_help=True)


@oft.callback()
def _group() -> None:
    """Keeps `angles` a command of its own, though it is the only one."""


@oft.command()
def angles(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help='"toybox" or a folder of images.')
    ] = "toybox",
    out: Annotated[
        Path, typer.Option(callback=written, help="Folder for figure, numbers and checkpoint.")
    ] = Path("angles"),
    count: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1)] = 200,
    seed: Seed = 0,
) -> None:
    """Show what angles and magnitudes carry: an autoencoder decodes either alone."""
    from selma.applications.angles.experiment import run_angles
    from selma.applications.angles.table import print_angles
    from selma.rich_screen import Screen

    numbers = run_angles(source, out, count=count, epochs=epochs, seed=seed)
    print_angles(numbers, Screen())
    say(f"Figure: {out / 'angles.png'}")


def register(app: typer.Typer) -> None:
    """Add `selma oft`."""
    app.add_typer(oft, name="oft")
