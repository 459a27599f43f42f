"""`selma card` and `selma push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.screen import say

FinishedRun = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Licence = Annotated[
    str | None, typer.Option("--license", help="One of the Hub's names; the base's if left out.")
]


def card(run: FinishedRun, licence: Licence = None) -> None:
    """Write the merged adapter's model card, with recipe, scores and images."""
    from selma.applications.publishing.card import write_card

    for path in write_card(run, licence=licence).files:
        say(path)


def push(
    run: FinishedRun,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files.")] = False,
    licence: Licence = None,
) -> None:
    """Upload the merged adapter with its card to the Hub, in one commit."""
    from selma.applications.publishing.pushing import push

    pushed = push(run, repository, private=private, dry_run=dry_run, licence=licence)
    for name, size in pushed.files.items():
        say(f"{name}  {size} bytes")
    say(f"Nothing was sent to {repository}." if pushed.url is None else pushed.url)


def register(app: typer.Typer) -> None:
    """Add `selma card` and `selma push`."""
    for command in (card, push):
        app.command()(command)
