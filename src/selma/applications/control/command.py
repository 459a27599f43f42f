"""`selma control`: images generated from a condition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selma.console import Commands, Config, Folder, Keep
from selma.plurals import counted
from selma.screen import say

if TYPE_CHECKING:
    from selma.applications.control.settings import ControlRun

control = typer.Typer(
    cls=Commands,
    help="Images from a condition: edges, segmentation maps, landmarks, ... (OFT's control).",
    no_args_is_help=True,
)
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help="methods, blocks or magnitudes; all if left out."),
]


@control.command("prepare")
def prepare_control(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Prepare images, conditions and prompts: squares of one size, with captions if set."""
    from selma.applications.control import pipeline

    for split, samples in pipeline.prepare(_settings(config, folder)).items():
        say(f"{split}: {counted(len(samples), 'image')}, {samples[0].image.parent.parent}")


@control.command("train")
def train_control(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Train the network on the prepared images, then its magnitudes if set."""
    from selma.applications.control import pipeline

    say(f"Control network: {pipeline.train(_settings(config, folder)).folder}")


@control.command("generate")
def generate_control(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Generate the validation images from their conditions, and from the prompts alone."""
    from selma.applications.control import pipeline

    for name, images in pipeline.generate(_settings(config, folder)).items():
        say(f"{name}: {images}")


@control.command("score")
def score_control(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Score how well the generated images follow their conditions; write the page."""
    from selma.applications.control import pipeline
    from selma.applications.control.page import print_card
    from selma.rich_screen import Screen

    card, page = pipeline.score(_settings(config, folder))
    print_card(card, Screen())
    say(f"Page: {page}")


@control.command("compare")
def compare_control(
    config: Config, folder: Folder = None, keep: Keep = False, table: Tables = None
) -> None:
    """Train, generate and score every network of the OFT paper's tables 2 to 4; write the page."""
    from selma.applications.control import pipeline
    from selma.applications.control.page import print_card
    from selma.rich_screen import Screen

    cards, page = pipeline.compare(_settings(config, folder), pipeline.tables_of(table))
    for card in cards:
        print_card(card, Screen())
    say(f"Page: {page}")


def _settings(config: Path, folder: Path | None) -> ControlRun:
    from selma.applications.control.settings import ControlRun
    from selma.applications.loading import load_config

    return load_config(config, ControlRun, folder=folder)


def register(app: typer.Typer) -> None:
    """Add `selma control`."""
    app.add_typer(control, name="control")
