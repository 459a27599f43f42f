"""`selma study`: people choose between two models' images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.console import Commands, Json
from selma.outputs import written
from selma.randomness import SEEDS
from selma.screen import say

study = typer.Typer(
    cls=Commands,
    help="People choose between two models' images, as in the paper.",
    no_args_is_help=True,
)
StudiedRun = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
StudyName = Annotated[str, typer.Option(help="Which study of the run: RUN/study/<name>.sqlite.")]


@study.command()
def serve(
    run: StudiedRun,
    prompts: Annotated[
        int, typer.Option(min=1, help="Number of prompts, evenly over groups.")
    ] = 200,
    model: Annotated[str, typer.Option(help="Whose wins are counted.")] = "merged",
    against: Annotated[str, typer.Option(help="The model to compare with.")] = "base",
    seed: Annotated[
        int, typer.Option(min=0, max=SEEDS - 1, help="Seed of the annotators' orders.")
    ] = 0,
    name: StudyName = "votes",
    host: Annotated[
        str, typer.Option(help="Any address but the default opens the page to others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8642,
) -> None:
    """Serve the page on which people vote; the same command resumes a study."""
    from selma.applications.study.opening import serve_study

    serve_study(
        run,
        models=(against, model),
        prompts=prompts,
        seed=seed,
        name=name,
        host=host,
        port=port,
        say=say,
    )


@study.command("report")
def report_study(
    run: StudiedRun,
    name: StudyName = "votes",
    json: Json = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", callback=written, help="Write each vote to this file.")
    ] = None,
) -> None:
    """Show win, lose and tie for each group, with intervals and annotators' agreement; write a page
    and a section of the run's report."""
    from selma.applications.study.ballot import read_ballot
    from selma.applications.study.database import study_file
    from selma.applications.study.results import studied, write_study_page
    from selma.applications.study.summary import print_summary, write_votes
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    ballot = read_ballot(study_file(run, name))
    study = studied(run, ballot)
    if json:
        write_json(json, study.summary.model_dump(mode="json"))
    if csv:
        write_votes(csv, ballot)
    print_summary(study.summary, Screen())
    if study.summary.votes:
        say(f"Page: {write_study_page(run, name, study)}")


def register(app: typer.Typer) -> None:
    """Add `selma study`."""
    app.add_typer(study, name="study")
