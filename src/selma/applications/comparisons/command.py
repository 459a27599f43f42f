"""`selma compare`: recipes as the rows of one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.console import Folder, Json, Keep
from selma.screen import say

File = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file with rows.")]


def compare(
    file: File,
    folder: Folder = None,
    keep: Keep = False,
    only: Annotated[
        list[str] | None, typer.Option(help="A row's name; may be given several times.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what each row would make, and what is there.")
    ] = False,
    json: Json = None,
) -> None:
    """Make every row's model, and score all on the same benchmarks from the same seeds.

    Rows share what they have in common; what is finished is not made again.
    """
    from selma.applications.comparisons import planning, recipes, table
    from selma.rich_screen import Screen

    plan = recipes.load_comparison(file, folder=folder)
    if only:
        plan = recipes.only(plan, only)
    if dry_run:
        recipes.check(plan)
        planning.print_plan(plan, Screen())
        return
    from selma.applications.comparisons.comparing import compare_rows
    from selma.workspace import write_json

    compared, page = compare_rows(plan, report=not only)
    if json:
        write_json(json, compared.model_dump(mode="json"))
    table.print_compared(compared, Screen())
    if page is not None:
        say(f"Report: {page}")


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)
