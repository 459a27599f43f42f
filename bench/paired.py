"""Two finished runs compared: the same benchmark, paired by prompt.

.venv/bin/python bench/paired.py runs/oft-full runs/toybox-full-rank30
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from selma.applications.loading import read_run_file
from selma.config import RunConfig
from selma.errors import DataError
from selma.records.scores import Interval, Scorecard
from selma.report.tables import between, model_with_role, points, signed
from selma.scores import statistics
from selma.workspace import SCORES


def main(
    first: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    second: Annotated[Path, typer.Argument(help="The run that it is compared with.")],
) -> None:
    """Print how much the first run's merged model is ahead, with its 95% interval."""
    card, other = read_scorecard(first), read_scorecard(second)
    require_one_benchmark(card, other)
    ours, theirs = (model_with_role(each, "merged") for each in (card, other))
    difference = ahead(card, other, read_run_file(first))
    Console().print(
        f"{card.benchmark} ({card.split}), {card.prompts} prompts, judge "
        f"{card.judge}: {points(ours.score.mean)} and {points(theirs.score.mean)}, "
        f"{signed(difference.mean)} ({between(difference, sign=True)})."
    )


def ahead(first: Scorecard, second: Scorecard, config: RunConfig) -> Interval:
    """Points by which the first card's merged model leads the second's, prompt by prompt."""
    ours, theirs = (model_with_role(card, "merged").per_prompt for card in (first, second))
    return statistics.paired_difference(
        [100 * point for point in ours.values()],
        [100 * theirs[id] for id in ours],
        seed=config.seed,
        resamples=config.scores.resamples,
    )


def read_scorecard(run: Path) -> Scorecard:
    path = run / SCORES / "scorecard" / "scorecard.json"
    if not path.is_file():
        raise DataError(f"{run} must be a scored run, but has no {path.relative_to(run)}.")
    return Scorecard.model_validate_json(path.read_text("utf-8"))


def require_one_benchmark(first: Scorecard, second: Scorecard) -> None:
    """Raise DataError if the runs answered other questions, or another judge read them."""
    for name in ("benchmark", "split", "judge"):
        here, there = getattr(first, name), getattr(second, name)
        if here != there:
            raise DataError(f"Both runs must have the same {name}; {here} and {there} came.")
    if model_with_role(first, "base").per_prompt != model_with_role(second, "base").per_prompt:
        raise DataError("Both runs must share the base's benchmark images, but its scores differ.")


if __name__ == "__main__":
    typer.run(main)
