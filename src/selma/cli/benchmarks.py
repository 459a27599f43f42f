"""`selma data`: the public files of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.console import Commands
from selma.outputs import written
from selma.screen import say

data = typer.Typer(help="The public files of benchmarks.", cls=Commands, no_args_is_help=True)
Known = Annotated[str, typer.Argument(metavar="NAME", help="As selma data list has it.")]


@data.command("list")
def list_benchmarks() -> None:
    """List the benchmarks that can be fetched: address, licence, checksums."""
    from selma.scores.benchmarks.fetching import fetchables, told

    for benchmark in fetchables():
        for line in told(benchmark):
            say(line)


@data.command()
def fetch(
    name: Known,
    to: Annotated[
        Path | None, typer.Option(callback=written, help="Folder; data/NAME if not given.")
    ] = None,
) -> None:
    """Fetch a benchmark's files, each checked by its checksum."""
    from selma.scores.benchmarks.fetching import describe, fetch, fetchable

    benchmark = fetchable(name)
    for line in describe(fetch(benchmark, to or Path("data") / benchmark.name)):
        say(line)


@data.command()
def verify(
    name: Known,
    folder: Annotated[Path | None, typer.Option(help="Folder; data/NAME if not given.")] = None,
) -> None:
    """Read a benchmark's files and compare their checksums."""
    from selma.scores.benchmarks.fetching import describe, fetchable, verify

    benchmark = fetchable(name)
    for line in describe(verify(benchmark, folder or Path("data") / benchmark.name)):
        say(line)
