"""`selma score`: a run's fifth stage. Applications add commands to the group."""

from __future__ import annotations

from typing import Any

import typer

from selma.cli.loading import load
from selma.console import Commands, Config, Folder, Keep, Shard, show_scorecard, show_shard


class ConfigOrCommand(Commands):
    """`selma score CONFIG` is the stage; `selma score dsg` and its like score what is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["stage", *args]
        return super().parse_args(ctx, args)


score = typer.Typer(
    help="Stage 5: CONFIG generates and scores a benchmark's images. Or score answers you have.",
    cls=ConfigOrCommand,
    no_args_is_help=True,
    subcommand_metavar="CONFIG | COMMAND [ARGS]...",
)


@score.command()
def stage(config: Config, folder: Folder = None, keep: Keep = False, shard: Shard = None) -> None:
    """Let every model of a run generate the benchmark's images, and score them."""
    from selma import pipeline

    if shard is not None:
        show_shard(load(config, folder), "score", shard)
        return
    show_scorecard(pipeline.score(load(config, folder)))
