"""A command for each stage, and those that look before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.cli.loading import load
from selma.console import (
    Config,
    Folder,
    Json,
    Keep,
    Shard,
    show_benchmark_length,
    show_faults,
    show_pairs,
    show_preferences,
    show_scorecard,
    show_shard,
    show_status,
)
from selma.plurals import counted
from selma.screen import say


def run(
    config: Config,
    folder: Folder = None,
    keep: Keep = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is there and what would be made.")
    ] = False,
) -> None:
    """Run all six stages; what is finished is not made again."""
    settings = load(config, folder)
    if dry_run:
        from selma.preflight import check

        check(settings)  # what would keep the run from starting
        return show_status(settings, to_make=True)
    from selma import pipeline

    outcome = pipeline.run_stages(settings)
    show_scorecard(outcome.scorecard)
    show_pairs(outcome.pairs, outcome.survivors)
    show_preferences(pipeline.preference_counts(settings, outcome.pairs))
    over_limit = pipeline.benchmark_over_limit(outcome.images["base"], seeds=settings.scores.seeds)
    show_benchmark_length(outcome.scorecard.prompts, over_limit)
    return say(f"Report: {outcome.page}")


def prompts(config: Config, folder: Folder = None, keep: Keep = False, shard: Shard = None) -> None:
    """Stage 1: let a language model write prompts for each skill."""
    from selma import pipeline

    settings = load(config, folder)
    if shard is not None:
        show_shard(settings, "prompts", shard)
        return
    written = pipeline.prompts(settings)
    asked = pipeline.questions(settings, written)
    for skill, skill_prompts in written.items():
        line = f"{skill}: {counted(len(skill_prompts), 'prompt')}"
        if skill in asked:
            line += f", {len(asked[skill])} of them with questions"
        say(line)


def images(config: Config, folder: Folder = None, keep: Keep = False, shard: Shard = None) -> None:
    """Stage 2: let the base model generate an image for each prompt."""
    from selma import pipeline

    settings = load(config, folder)
    if shard is not None:
        show_shard(settings, "images", shard)
        return
    pairs = pipeline.images(settings)
    show_pairs(pairs, pipeline.survivors(settings, pairs))
    show_preferences(pipeline.preference_counts(settings, pairs))


def experts(config: Config, folder: Folder = None, keep: Keep = False, shard: Shard = None) -> None:
    """Stage 3: train one adapter for each skill."""
    from selma import pipeline

    settings = load(config, folder)
    if shard is not None:
        show_shard(settings, "experts", shard)
        return
    for expert in pipeline.experts(settings):
        say(f"{expert.skill}: {expert.folder}")


def report(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Stage 6: write what was found as one page."""
    from selma import pipeline

    say(f"Report: {pipeline.report(load(config, folder))}")


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every finished file and compare its sha256.")
    ] = False,
    keep: Keep = False,
) -> None:
    """Show what a run has, is missing, or holds with other settings."""
    from selma.applications.loading import read_run_file

    show_status(read_run_file(run), to_make=False)
    if verify:
        show_faults(run)


def check(config: Config, folder: Folder = None) -> None:
    """Find every mistake in the settings, without loading a model."""
    from selma.applications.loading import check_config

    check_config(config, folder=folder)
    say(f"{config}: no mistakes found.")


def memory(
    config: Config,
    limit: Annotated[
        float | None, typer.Option(min=0, help="GiB that the device has; found out if left out.")
    ] = None,
) -> None:
    """Estimate what a run needs of its device's memory; say what to change if it is too much."""
    from functools import cache

    from selma.applications.loading import guides_of, runs_of
    from selma.backbones.memory import parts_of
    from selma.capacity import computing, memory_of_each
    from selma.config.networks import ServedBase
    from selma.progress import console
    from selma.report.models import print_computing, print_memory
    from selma.rich_screen import Screen

    most = None if limit is None else int(limit * 2**30)
    shapes, runs = cache(parts_of), runs_of(config)
    console.print("Counting on shapes, which takes some seconds for a large base.", style="dim")
    every = memory_of_each(runs, most, guides=guides_of(config), shapes=shapes)
    for names, (needs, changes) in every.items():
        if len(every) > 1:
            say(f"{', '.join(names)}:")
        base, drawing = runs[names[0]].base, runs[names[0]].images.base
        if served := [each.model for each in (base, drawing) if isinstance(each, ServedBase)]:
            say(f"On a server, which needs no memory of this machine: {' and '.join(served)}.")
        if needs:
            print_memory(needs, changes, most, Screen())
        if not isinstance(base, ServedBase):
            print_computing(computing(runs[names[0]], shapes=shapes), Screen())


def plan(
    config: Config,
    kind: Annotated[
        str, typer.Option(help="Of device: l40, l40s, a100, h100, h200, rtx4090 or cpu (a thread).")
    ],
    gpus: Annotated[int, typer.Option(min=1, max=100_000, help="How many of them.")] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="Of cpu: time this machine, for its own peak.")
    ] = False,
    json: Json = None,
) -> None:
    """Estimate what a run takes before it starts: arithmetic, hours, disk, requests and money."""
    from functools import cache

    from selma import devices
    from selma.applications.loading import runs_of
    from selma.backbones.memory import parts_of
    from selma.planning import plan as planned
    from selma.planning.table import print_plan
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    device = devices.DEVICES.find(kind, setting="--kind")
    if measure:
        device = devices.measured(device)
    shapes = cache(parts_of)
    plans = {n: planned(run, device, gpus, shapes=shapes) for n, run in runs_of(config).items()}
    for name, each in plans.items():
        if len(plans) > 1:
            say(f"{name}, by itself:")
        print_plan(each, Screen())
    if json is not None:
        write_json(json, {name: each.as_json() for name, each in plans.items()})
