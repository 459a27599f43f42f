"""How much of a run's gain another judge sees, one of quite another build.

    .venv/bin/python bench/third_judge.py RUN      # a finished run of toybox's benchmark

Toybox-a and toybox-b are two networks of one kind of training: image and question in, yes or no
out; toybox-regions measures maps of classes. First each judge is held against the truth of drawn
scenes, as by `selma judge check`; then the images of base and merged model are scored by each, over
the questions that all of them read, and over all that each reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from selma.applications.judges.asking import everything
from selma.applications.judges.checking import found_of
from selma.backbones.judges.judge import Judge
from selma.backbones.judges.loading import load_judge
from selma.backbones.judges.regions import READ
from selma.config import RunConfig
from selma.image_files import open_image
from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.scores import Interval
from selma.report.tables import cell
from selma.runfile import read_settings
from selma.scores import faithfulness, statistics
from selma.scores.answering import answered, answers_of
from selma.scores.benchmarks import load_benchmark
from selma.scores.measures import DSG, Points

MODELS = ("base", "merged")


def main(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    scenes: Annotated[int, typer.Option(min=2, help="Drawn scenes of the check.")] = 60,
    resamples: int = 10_000,
) -> None:
    """Print how right each judge is, and the gain that each sees."""
    console = Console(width=150)
    judges = [load_judge("toybox-a"), load_judge("toybox-b"), load_judge("toybox-regions")]
    print_truth(judges, console, scenes=scenes, resamples=resamples)
    config = RunConfig.model_validate(read_settings(run) | {"folder": str(run)})
    prompts = load_benchmark(config.scores)
    points = {
        judge.name: {
            model: points_of(judge, prompts, run / "5-scores" / "images" / model)
            for model in MODELS
        }
        for judge in judges
    }
    print_gains(prompts, points, console, resamples=resamples)


def print_truth(judges: Sequence[Judge], console: Console, *, scenes: int, resamples: int) -> None:
    """How often each judge is right of drawn scenes, by kind of fact."""
    shown = everything(scenes, seed=0)
    table = Table("right of drawn scenes, %", *(judge.name for judge in judges))
    checks = []
    for judge in judges:
        images = [Image.fromarray(each.pixels) for each in shown]
        rows = answered(judge, [each.prompt for each in shown], images)
        checks.append(
            found_of(shown, answers_of(rows), judge=judge.name, fingerprint=judge.fingerprint,
                     resamples=resamples)
        )  # fmt: skip
    table.add_row("all that it reads", *(cell(check.right) for check in checks))
    for kind in dict.fromkeys(kind for check in checks for kind in check.categories):
        table.add_row(kind, *(cell(check.categories.get(kind)) for check in checks))
    table.add_row("bias to yes, points", *(cell(check.yes_bias, sign=True) for check in checks))
    console.print(table)


def points_of(judge: Judge, prompts: Sequence[BenchmarkPrompt], images: Path) -> Points:
    """The point of each question about a model's images, with dependencies."""
    given: list[Answer] = []
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        opened = [open_image(images / f"{prompt.id}.png") for prompt in part]
        given += answers_of(answered(judge, part, opened))
    verdicts = faithfulness.verdicts_by_prompt(prompts, given, zeroing="cascading")
    return DSG.points(given, verdicts)


def print_gains(
    prompts: Sequence[BenchmarkPrompt],
    points: Mapping[str, Mapping[str, Points]],
    console: Console,
    *,
    resamples: int,
) -> None:
    """Merged minus base by each judge, over questions, and how much of the first one's is left."""
    read = [q.id for p in prompts for q in p.questions if q.text in READ]
    every = sum(len(p.questions) for p in prompts)
    console.print(f"{len(prompts)} prompts; {len(read)} of {every} questions are read by all.")
    groups: dict[str, Callable[[str, str], bool]] = {
        "all": lambda text, category: True,
        "read by all": lambda text, category: text in READ,
    }
    categories = dict.fromkeys(q.category for p in prompts for q in p.questions if q.text in READ)
    groups |= {name: partial(_of, name) for name in categories}
    names = list(points)
    table = Table("merged minus base", "questions", *names, f"{names[-1]} / {names[0]}, %")
    for group, takes in groups.items():
        chosen = [(p.id, [q.id for q in p.questions if takes(q.text, q.category)]) for p in prompts]
        chosen = [(id, ids) for id, ids in chosen if ids]
        gains = {
            name: np.array([[sum(of[m][id][q] for q in ids) for m in MODELS] for id, ids in chosen])
            for name, of in points.items()
        }
        sizes = np.array([len(ids) for _, ids in chosen], np.float64)
        cells = [
            cell(statistics.interval(100 * (gain[:, 1] - gain[:, 0]), sizes, seed=0,
                                     resamples=resamples), sign=True)
            if group != "all" or name != "toybox-regions" else ""
            for name, gain in gains.items()
        ]  # fmt: skip
        share = _share(gains[names[-1]], gains[names[0]], resamples) if group != "all" else None
        table.add_row(group, str(int(sizes.sum())), *cells, cell(share, digits=0))
    console.print(table)


def _of(name: str, text: str, category: str) -> bool:
    return text in READ and category == name


def _share(some: NDArray[np.float64], of: NDArray[np.float64], resamples: int) -> Interval | None:
    """How much of one gain another is, in per cent; None where the first has no clear sign."""
    sums = np.stack([some[:, 1] - some[:, 0], of[:, 1] - of[:, 0]], axis=1)
    gain = statistics.interval(sums[:, 1], seed=0, resamples=resamples)
    if gain.low <= 0 <= gain.high:
        return None

    def ratio(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):  # of a resample without any gain
            return 100 * totals[:, 0] / totals[:, 1]

    return statistics.interval_of(sums, ratio, seed=0, resamples=resamples)


if __name__ == "__main__":
    typer.run(main)
