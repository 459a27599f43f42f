"""What several commands share: arguments, and how results are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from selma.errors import WorkspaceError
from selma.outputs import with_inputs_kept, written
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.randomness import SEEDS
from selma.screen import say
from selma.versions import keeping

if TYPE_CHECKING:
    from selma.config import RunConfig
    from selma.records.images import Pair, PreferenceCount, Survivors
    from selma.records.scores import Scorecard

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file of settings.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        parser=as_path,
        metavar="PATH",
        help="The run's folder, in place of the config's.",
    ),
]


def _keep(context: typer.Context, keep: bool) -> bool:
    context.with_resource(keeping(keep))
    return keep


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 10_000):
        raise typer.BadParameter(f"must be I/N with 1 ≤ I ≤ N, as 2/8, but {text!r:.30} came.")
    return int(number) - 1, int(count)


Shard = Annotated[
    Any,
    typer.Option(
        "--shard",
        parser=_shard,
        metavar="I/N",
        help="Only the I-th of N parts, which N commands make side by side.",
    ),
]
"""(number from 0, count), or None."""
Keep = Annotated[
    bool,
    typer.Option(
        "--keep",
        callback=_keep,
        help="Take what other versions of selma and its libraries made as it is.",
    ),
]
"""Nobody reads it: from here on, items are."""
Base = Annotated[
    str | None,
    typer.Option(help="A short name or a diffusers folder; where a format's names need it."),
]
AllLayers = Annotated[
    bool, typer.Option("--all-layers", help="Show each layer, not the five farthest from the mean.")
]
Seed = Annotated[int, typer.Option(min=0, max=SEEDS - 1, help="Whole number below 2^64.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", callback=written, help="Write everything to this file."),
]


class Commands(TyperGroup):
    """A group whose list of commands shows each one's first sentence whole, and whose commands
    write over nothing that they are given to read."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not isinstance(command, TyperGroup):
            command.callback = with_inputs_kept(ctx, command.callback)
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        names = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
        rows = [(name, self.commands[name].get_short_help_str(limit=1000)) for name in names]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def group(app: typer.Typer, name: str) -> typer.Typer:
    """The group of commands with this name, to which an application adds its own."""
    return next(
        info.typer_instance
        for info in app.registered_groups
        if info.name == name and info.typer_instance is not None
    )


def show_status(settings: RunConfig, *, to_make: bool) -> None:
    """What a run has. to_make: with every stage that a run would make, whoever worked there."""
    from selma.backbones.hub import commits_or_unknown
    from selma.rich_screen import Screen
    from selma.status import present, statuses, table

    with commits_or_unknown() as unknown:
        shown = (statuses if to_make else present)(settings)
    Screen().print(table(shown))
    for status in shown:
        if status.why:
            say(f"{status.stage}/{status.name}: {status.why}")
    show_unknown(unknown)


def show_faults(run: AnyPath) -> None:
    """Every finished file in the run's folder that is not what was written. Raises WorkspaceError
    if there is any."""
    from selma.manifests import all_faults

    damaged = 0
    for path, fault in all_faults(as_path(run)):
        say(f"{path}: {fault}", err=True)
        damaged += 1
    if damaged:
        raise WorkspaceError(
            f"{counted(damaged, 'file is', 'files are')} damaged in {run}. The same `selma run` "
            "puts aside what it can make again; replies that were paid for must be restored."
        )
    say("Every finished file is what was written.")


def show_unknown(reasons: Mapping[str, str]) -> None:
    """Models whose commit cannot be told now, by which what they made would be recognised."""
    for model, reason in reasons.items():
        what = "its commit or version cannot be told"
        say(f"What {model} made counts as missing, since {what}: {reason}")


def show_benchmark_length(prompts: int, over_limit: int) -> None:
    """How many of the benchmark's prompts were not read to their end."""
    say(
        f"benchmark: {counted(prompts, 'prompt')}, {over_limit} over the text encoder's token limit"
    )


def show_pairs(
    pairs: Mapping[str, Sequence[Pair]], survivors: Mapping[str, Survivors] | None = None
) -> None:
    """How many images each skill has, and how many of its prompts were not read to their end.

    survivors: what choosing by thresholds left of the prompts, where there are any.
    """
    from selma.records.images import over_token_limit

    for skill, of_skill in pairs.items():
        say(
            f"{skill}: {counted(len(of_skill), 'image')}, "
            f"{counted(over_token_limit(of_skill), 'prompt')} over the text encoder's token limit"
        )
        if left := (survivors or {}).get(skill):
            low = f"{counted(left.below_score, 'has', 'have')} none that scores high enough, "
            say(
                f"  {100 * left.share:.1f}% of "
                f"{counted(left.prompts, 'prompt has', 'prompts have')} an accepted image; "
                f"{counted(left.rejected, 'has', 'have')} none, "
                f"{low if left.below_score else ''}"
                f"{counted(left.without_questions, 'has', 'have')} no questions"
            )


def show_preferences(counts: Mapping[str, PreferenceCount]) -> None:
    """How many pairs of winner and loser each skill has, and how many were dropped."""
    for skill, count in counts.items():
        how = "measured" if count.measured else "set"
        say(
            f"{skill}: {count.pairs} pairs of winner and loser, of {count.prompts} prompts; "
            f"{count.dropped} differed by no more than {count.least_difference:.4g} ({how}) and "
            "were dropped"
        )


def show_shard(config: RunConfig, command: str, shard: tuple[int, int]) -> None:
    """Make a shard's part of a command's stage, and say what is left to others."""
    from selma import pipeline
    from selma.finished import COMMANDS

    number, count = shard
    stage = next(stage for stage, its in COMMANDS.items() if its == command)
    left = pipeline.shard(config, stage, number, count)
    for line in left:
        say(line)
    rest = "nothing is left to others." if not left else "the rest is left to others."
    say(f"Shard {number + 1} of {count} is done; {rest}")


def show_scorecard(scorecard: Scorecard) -> None:
    from selma.report.tables import print_scorecard
    from selma.rich_screen import Screen

    print_scorecard(scorecard, Screen())


def show_verified(rows: dict[str, dict[str, Any]]) -> None:
    """What a merged file holds, beside what it was to hold: each layer."""
    from selma.merged.verifying import total_error
    from selma.report.models import print_verified
    from selma.rich_screen import Screen

    print_verified(rows, total_error(rows), Screen())


def show_diagnostics(diagnostics: dict[str, Any], *, all_layers: bool) -> None:
    """What a merge did; nothing of an adapter that is none."""
    from selma.report.models import print_diagnostics
    from selma.rich_screen import Screen

    if diagnostics:
        print_diagnostics(diagnostics, Screen(), all_layers=all_layers)
