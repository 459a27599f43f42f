"""`selma sur`: the SUR-adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selma.console import Commands, Config, Folder, Json, Keep
from selma.outputs import written
from selma.plurals import counted
from selma.screen import say

if TYPE_CHECKING:
    from selma.applications.sur.settings import SurRun

sur = typer.Typer(
    cls=Commands,
    help="The SUR-adapter: a language model's understanding for plain prompts.",
    no_args_is_help=True,
)
Experts = Annotated[bool, typer.Option("--experts", help="Also with the run's merged experts.")]


@sur.command("collect")
def collect_samples(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Collect samples of plain prompt, keyword prompt and image; count what is rejected."""
    from selma.applications.sur import pipeline

    samples, rejected = pipeline.collect(_settings(config, folder))
    say(f"{counted(len(samples), 'sample')}: {samples[0].image.parent}")
    for reason, count in rejected.items():
        say(f"  rejected, {reason}: {count}")


@sur.command("train")
def train_sur(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Train the adapter on the collected samples."""
    from selma.applications.sur import pipeline

    say(f"SUR-adapter: {pipeline.train(_settings(config, folder)).folder}")


@sur.command("generate")
def generate_sur(
    config: Config,
    folder: Folder = None,
    keep: Keep = False,
    experts: Experts = False,
) -> None:
    """Generate the benchmark with the adapter and without, and by keyword prompts."""
    from selma.applications.sur import pipeline

    for name, images in pipeline.generate(_settings(config, folder), experts=experts).items():
        say(f"{name}: {images}")


@sur.command("score")
def score_sur(
    config: Config,
    folder: Folder = None,
    keep: Keep = False,
    experts: Experts = False,
    json: Json = None,
) -> None:
    """Score plain prompts with the adapter and without, and keyword prompts; by kind of question.

    What is not generated yet is generated. Everything is in 5-scores, a page in 6-report/sur.html.
    """
    from selma.applications.sur import pipeline
    from selma.applications.sur.page import print_result
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    result, page = pipeline.score(_settings(config, folder), experts=experts)
    if json:
        write_json(json, result.model_dump(mode="json"))
    print_result(result, Screen())
    say(f"Report: {page}")


@sur.command("ablate")
def ablate_sur(
    config: Config,
    folder: Folder = None,
    keep: Keep = False,
    only: Annotated[
        list[str] | None, typer.Option(help="A variant's name; may be given several times.")
    ] = None,
    experts: Experts = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the variants' names.")] = False,
    json: Json = None,
) -> None:
    """Train, generate and score variants of the adapter, each beside the base, on dev prompts."""
    from selma.applications.sur import ablation
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    settings = _settings(config, folder)
    if only:
        settings = ablation.only(settings, only)
    if dry_run:
        for name in ablation.variants(settings):
            say(name)
        return
    from selma.applications.sur.page import print_ablation

    result = ablation.ablate(settings, experts=experts)
    if json:
        write_json(json, result.model_dump(mode="json"))
    print_ablation(result, Screen())


@sur.command("convert")
def convert_sur(
    source: Annotated[Path, typer.Argument(metavar="PT", help="A checkpoint of the release.")],
    out: Annotated[Path, typer.Argument(callback=written, help="Folder for the adapter's file.")],
    weight: Annotated[
        float, typer.Option(min=0, help="adapter_weight; the release keeps it in a folder's name.")
    ],
    attention: Annotated[
        str, typer.Option(help="What its encoder looks across: batch as released, or tokens.")
    ] = "batch",
) -> None:
    """Turn a released checkpoint into a SUR-adapter's file; nothing in it is run."""
    from selma.adapters.sur.files import convert_released

    say(convert_released(source, out, weight=weight, attention=attention))


def _settings(config: Path, folder: Path | None) -> SurRun:
    from selma.applications.loading import load_config
    from selma.applications.sur.settings import SurRun

    return load_config(config, SurRun, folder=folder)


def register(app: typer.Typer) -> None:
    app.add_typer(sur, name="sur")
