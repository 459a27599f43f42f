"""Variants of a run's settings on the dev split, by the judge that never reports.

Each variant runs from prompts to the merged model in a folder of its own; what it has in common
with the first one is taken from there. Nothing here sees the test split, so
that what is chosen by it may be reported there (docs/log.md).

    .venv/bin/python bench/tuning.py configs/toybox.yaml --work /tmp/tuning \\
        --vary experts.learning_rate=1e-4 --vary experts.learning_rate=2e-4,experts.steps=300
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from selma import pipeline
from selma.applications.loading import load_config
from selma.config import RunConfig
from selma.records.scores import Interval
from selma.report.tables import between, model_with_role, points, signed


def main(
    config: Annotated[Path, typer.Argument(help="Settings that the variants start from.")],
    work: Annotated[Path, typer.Option(help="One folder for each variant; finished ones stay.")],
    vary: Annotated[
        list[str] | None, typer.Option(help="key=value,key=value: one variant.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=10, help="How many dev prompts.")] = 160,
) -> None:
    """Print each variant's DSG on dev, and its paired difference to the base."""
    start = on_dev(load_config(config), prompts)
    table = Table("variant", "base", "merged", "difference", "95%", title=f"{prompts} dev prompts")
    first: Path | None = None
    for text in ["", *(vary or [])]:
        folder = work / (re.sub(r"[^A-Za-z0-9.=_-]+", "_", text) or "as-it-is")
        if first is not None and not folder.exists():
            # What was made with other settings is superseded there, and the rest not made again.
            shutil.copytree(first, folder, ignore=shutil.ignore_patterns("superseded"))
        first = first or folder
        variant = changed(start, text, folder)
        make(variant)
        card = pipeline.score(variant)
        base, merged = model_with_role(card, "base"), model_with_role(card, "merged")
        assert isinstance(merged.difference, Interval)
        table.add_row(
            text or "unchanged",
            points(base.score.mean),
            points(merged.score.mean),
            signed(merged.difference.mean),
            between(merged.difference, sign=True),
        )
        Console().print(table)


def make(config: RunConfig) -> None:
    """Stages 1 to 4."""
    pipeline.prompts(config)
    pipeline.images(config)
    pipeline.experts(config)
    pipeline.merge(config)


def on_dev(config: RunConfig, prompts: int) -> RunConfig:
    """The same run, scored on dev by the choosing judge, without its single experts."""
    scores = config.scores.model_dump() | {
        "split": "dev",
        "prompts": prompts,
        "judge": config.scores.choosing_judge,
        "choosing_judge": config.scores.judge,
        "experts": False,
    }
    return RunConfig.model_validate(config.model_dump() | {"scores": scores})


def changed(config: RunConfig, text: str, folder: Path) -> RunConfig:
    """The settings with "key=value,key=value" put in; values are YAML."""
    settings: dict[str, Any] = config.model_dump() | {"folder": str(folder)}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        *above, last = key.split(".")
        place = settings
        for name in above:
            place[name] = place.get(name) or {}
            place = place[name]
        found = yaml.safe_load(value)
        # YAML reads 1e-4 as text: its numbers want a dot.
        place[last] = float(found) if isinstance(found, str) and _number(found) else found
    return RunConfig.model_validate(settings)


def _number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) is not None


if __name__ == "__main__":
    typer.run(main)
