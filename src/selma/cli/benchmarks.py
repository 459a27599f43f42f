"""`selma data`: the public files of benchmarks, and the data sets that have owners."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.console import Commands
from selma.outputs import written
from selma.screen import say

data = typer.Typer(
    help="Benchmarks' files and the papers' data sets.", cls=Commands, no_args_is_help=True
)
Known = Annotated[str, typer.Argument(metavar="NAME", help="As selma data list has it.")]


@data.command("list")
def list_benchmarks() -> None:
    """List the benchmarks that can be fetched, and the papers' data sets: address, licence, files.

    A data set is brought by whoever accepts its licence; its lines say what to do then.
    """
    from selma.applications.loading import data_sets
    from selma.scores.benchmarks.fetching import fetchables, told

    for benchmark in fetchables():
        for line in told(benchmark):
            say(line)
    for data_set in data_sets():
        for line in data_set.told():
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

    _require_free(name)
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

    _require_free(name)
    benchmark = fetchable(name)
    for line in describe(verify(benchmark, folder or Path("data") / benchmark.name)):
        say(line)


def _require_free(name: str) -> None:
    """Raise ConfigError for a data set that has owners: nothing of it is fetched."""
    from selma.applications.loading import data_sets
    from selma.errors import ConfigError

    for data_set in data_sets():
        if data_set.name == name:
            raise ConfigError(
                f"{name} must be brought by whoever accepts its licence ({data_set.licence}), from "
                f"{data_set.source}. Then {data_set.after}."
            )
