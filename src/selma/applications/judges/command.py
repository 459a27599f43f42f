"""`selma judge check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selma.applications.judges import SCENES
from selma.console import Commands, Folder, Json, Keep
from selma.screen import say

if TYPE_CHECKING:
    from selma.records.judges import PeopleCheck

judge = typer.Typer(help="What a judge's word is worth.", cls=Commands, no_args_is_help=True)


@judge.callback()
def _group() -> None:
    """Keeps `check` a command of its own, though it is the only one."""


@judge.command()
def check(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A YAML file of settings.")
    ] = None,
    folder: Folder = None,
    keep: Keep = False,
    scenes: Annotated[int, typer.Option(min=2, help="How many drawn scenes.")] = SCENES,
    votes: Annotated[
        Path | None,
        typer.Option(help="People's votes on images: GenAI-Bench's genai_image.json, or a CSV with "
                     "t2i_model, item_id, answer."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Those images: a folder for each model, files named by prompt."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="In place of CONFIG and --images, scores that are there already: a CSV "
                     "with t2i_model, item_id, score."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="The prompts' questions, where the votes' file has none; by default the "
                     "config's benchmark."),
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Judge a run's judges by images whose content is known, and by people's votes."""
    from selma.applications.judges.people import check_scores

    _require_options(config, votes, images, scores)
    if config is None:
        assert votes is not None and scores is not None
        _show_people(check_scores(votes, scores, benchmark=benchmark), json)
        return
    from selma.applications.judges.checking import check_judges
    from selma.applications.judges.table import judges_page, print_checks
    from selma.applications.loading import load_config
    from selma.report.pages import write_page
    from selma.rich_screen import Screen
    from selma.workspace import Workspace, write_json

    settings = load_config(config, folder=folder)
    checks = check_judges(settings, scenes=scenes, votes=votes, images=images, benchmark=benchmark)
    if json:
        content = {
            name: each.drawn.model_dump(mode="json")
            | ({"people": each.people.model_dump(mode="json")} if each.people else {})
            for name, each in checks.items()
        }
        write_json(json, content)
    write_page(judges_page(checks), Workspace(settings.run_folder))
    print_checks(checks, Screen())
    say("The run's report shows this: selma report.")


def _require_options(
    config: Path | None, votes: Path | None, images: Path | None, scores: Path | None
) -> None:
    """Raises ConfigError unless the options of `selma judge check` say one thing to do."""
    from selma.errors import ConfigError

    if votes is None and (images or scores):
        raise ConfigError("--images and --scores go with --votes: what people said of the images.")
    if votes is not None and (images is None) == (scores is None):
        raise ConfigError(
            "--votes needs --images to ask the judges about, or --scores that are there already."
        )
    if config is None and scores is None:
        raise ConfigError("Name a CONFIG, whose judges are checked, or --votes with --scores.")
    if config is not None and scores is not None:
        raise ConfigError("--scores asks no judge and needs no CONFIG. Leave one of them out.")


def _show_people(check: PeopleCheck, json: Path | None) -> None:
    from selma.applications.judges.table import print_people
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    if json:
        write_json(json, check.model_dump(mode="json"))
    print_people([check], Screen())


def register(app: typer.Typer) -> None:
    """Add `selma judge`."""
    app.add_typer(judge, name="judge")
