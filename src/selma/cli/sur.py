"""`selma sur`: the SUR-adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.cli.shared import Config, Folder, load

sur = typer.Typer(
    help="The SUR-adapter: a language model's understanding for plain prompts.",
    no_args_is_help=True,
)


@sur.command("collect")
def collect_triples(config: Config, folder: Folder = None) -> None:
    """Collect triples of plain prompt, keyword prompt and picture; count what is rejected."""
    from selma import understanding

    triples, rejected = understanding.collect(load(config, folder))
    typer.echo(f"{len(triples)} triples: {triples[0].image.parent}")
    for reason, count in rejected.items():
        typer.echo(f"  rejected, {reason}: {count}")


@sur.command("train")
def train_sur(config: Config, folder: Folder = None) -> None:
    """Train the adapter on the collected triples."""
    from selma import understanding

    typer.echo(f"SUR-adapter: {understanding.train(load(config, folder)).folder}")


@sur.command("draw")
def draw_sur(
    config: Config,
    folder: Folder = None,
    experts: Annotated[
        bool, typer.Option("--experts", help="Also with the run's merged experts.")
    ] = False,
) -> None:
    """Draw the exam with the adapter and without."""
    from selma import understanding

    for name, place in understanding.draw(load(config, folder), experts=experts).items():
        typer.echo(f"{name}: {place}")


@sur.command("convert")
def convert_sur(
    source: Annotated[Path, typer.Argument(metavar="PT", help="A checkpoint of the release.")],
    out: Annotated[Path, typer.Argument(help="Folder for the adapter's file.")],
    weight: Annotated[
        float, typer.Option(min=0, help="adapter_weight; the release keeps it in a folder's name.")
    ],
    attention: Annotated[
        str, typer.Option(help="What its encoder looks across: batch as released, or tokens.")
    ] = "batch",
) -> None:
    """Turn a released checkpoint into a SUR-adapter's file; nothing in it is run."""
    from selma.adapters.sur_files import convert_released

    typer.echo(convert_released(source, out, weight=weight, attention=attention))
