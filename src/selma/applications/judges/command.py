"""`selma judge check`."""

from __future__ import annotations

from typing import Annotated

import typer

from selma.applications.judges import SCENES
from selma.console import Commands, Config, Folder, Json, Keep
from selma.screen import say

judge = typer.Typer(help="What a judge's word is worth.", cls=Commands, no_args_is_help=True)


@judge.callback()
def _group() -> None:
    """Keeps `check` a command of its own, though it is the only one."""


@judge.command()
def check(
    config: Config,
    folder: Folder = None,
    keep: Keep = False,
    scenes: Annotated[int, typer.Option(min=2, help="How many drawn scenes.")] = SCENES,
    json: Json = None,
) -> None:
    """Judge a run's judges by images that need no network to be understood."""
    from selma.applications.judges.checking import check_judges
    from selma.applications.judges.table import judges_page, print_checks
    from selma.applications.loading import load_config
    from selma.report.pages import write_page
    from selma.rich_screen import Screen
    from selma.workspace import Workspace, write_json

    settings = load_config(config, folder=folder)
    checks = check_judges(settings, scenes=scenes)
    if json:
        write_json(json, {name: found.model_dump(mode="json") for name, found in checks.items()})
    write_page(judges_page(checks), Workspace(settings.run_folder))
    print_checks(checks, Screen())
    say("The run's report shows this: selma report.")


def register(app: typer.Typer) -> None:
    """Add `selma judge`."""
    app.add_typer(judge, name="judge")
