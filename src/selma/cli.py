"""The command `selma`: a command for each stage, and run, generate, status, check. No logic."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from selma.config import RunConfig
    from selma.records import Scorecard

app = typer.Typer(
    help="Makes a text-to-image diffusion model follow prompts better, with data it draws itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
toybox = typer.Typer(help="The embedded model and its world.", no_args_is_help=True)
app.add_typer(toybox, name="toybox")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file of settings.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="The run's folder, in place of the config's.")
]


@app.command()
def run(
    config: Config,
    folder: Folder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is there and what would be made.")
    ] = False,
) -> None:
    """Run all six stages; what is finished is not made again."""
    settings = _load(config, folder)
    if dry_run:
        return _show(settings)
    from selma import pipeline

    page = pipeline.run(settings)
    _print_scorecard(pipeline.scorecard(settings))
    return typer.echo(f"Report: {page}")


@app.command()
def prompts(config: Config, folder: Folder = None) -> None:
    """Stage 1: let a language model write prompts for each skill."""
    from selma import pipeline

    for skill, kept in pipeline.prompts(_load(config, folder)).items():
        typer.echo(f"{skill}: {len(kept)} prompts")


@app.command()
def images(config: Config, folder: Folder = None) -> None:
    """Stage 2: let the base model draw each prompt."""
    from selma import pipeline

    for skill, pairs in pipeline.images(_load(config, folder)).items():
        typer.echo(f"{skill}: {len(pairs)} pictures")


@app.command()
def experts(config: Config, folder: Folder = None) -> None:
    """Stage 3: train one adapter for each skill."""
    from selma import pipeline

    for expert in pipeline.experts(_load(config, folder)):
        typer.echo(f"{expert.skill}: {expert.folder}")


@app.command()
def merge(config: Config, folder: Folder = None) -> None:
    """Stage 4: merge the experts into one adapter."""
    from selma import pipeline

    typer.echo(f"Merged adapter: {pipeline.merge(_load(config, folder)).folder}")


@app.command()
def score(config: Config, folder: Folder = None) -> None:
    """Stage 5: let every model draw the exam, and judge the pictures."""
    from selma import pipeline

    _print_scorecard(pipeline.score(_load(config, folder)))


@app.command()
def report(config: Config, folder: Folder = None) -> None:
    """Stage 6: write what was found as one page."""
    from selma import pipeline

    typer.echo(f"Report: {pipeline.report(_load(config, folder))}")


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
) -> None:
    """Show what a run has, is missing, or holds with other settings."""
    from selma.runfile import read_run_file

    _show(read_run_file(run))


@app.command()
def check(config: Config, folder: Folder = None) -> None:
    """Find every mistake in the settings, without loading a model."""
    from selma.preflight import check

    check(_load(config, folder))
    typer.echo(f"{config}: no mistakes found.")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of an expert or of the merged adapter.")
    ] = None,
    base: Annotated[str, typer.Option(help='"toybox", a diffusers folder or a Hub id.')] = "toybox",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 7.5,
    count: Annotated[int, typer.Option("-n", min=1, help="How many pictures.")] = 1,
    out: Annotated[Path, typer.Option(help="PNG; numbered where there are several.")] = Path(
        "picture.png"
    ),
) -> None:
    """Draw one prompt, with or without an adapter."""
    from selma import pipeline
    from selma.config import BaseConfig

    pictures = pipeline.generate(
        prompt,
        base=BaseConfig(model=base),
        adapter=adapter,
        seed=seed,
        steps=steps,
        guidance=guidance,
        count=count,
    )
    for path in pipeline.save_pictures(pictures, out, count=count):
        typer.echo(path)


@toybox.command()
def path() -> None:
    """Print the folder of the embedded models."""
    from selma.toybox import weights_folder

    typer.echo(weights_folder())


class Stopped(BaseException):
    """A signal asked for the end; not an Exception, so that no library swallows it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def main() -> NoReturn:
    """Runs the command; an error of ours is its message and its exit code, without a traceback."""
    from selma.errors import SelmaError

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        app()
        sys.exit(0)
    except SelmaError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        typer.echo(
            "Stopped. What is finished is kept: the same command goes on from here.", err=True
        )
        sys.exit(stopped.exit_code)


def _stop(number: int, frame: object) -> None:
    # A second signal ends the process at once; whatever is half-written is made again.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise Stopped(number)


def _load(config: Path, folder: Path | None) -> RunConfig:
    from selma.config import load_config

    settings = load_config(config)
    return settings if folder is None else settings.model_copy(update={"folder": folder})


def _show(settings: RunConfig) -> None:
    from rich.console import Console

    from selma.standing import standings, table

    Console().print(table(standings(settings)))


def _print_scorecard(scorecard: Scorecard) -> None:
    from rich.console import Console

    from selma.report.tables import print_scorecard

    print_scorecard(scorecard, Console())
