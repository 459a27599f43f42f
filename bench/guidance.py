"""How faithful the base is at each guidance, on the dev split, by the choosing judge.

The rise from guidance 1 to the default is what self-training can distil (docs/log.md).

    .venv/bin/python bench/guidance.py --work /tmp/guidance
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from selma.backbones.judges.loading import load_judge
from selma.backbones.text_to_image import load_text_to_image
from selma.config.networks import BaseConfig
from selma.config.scores import ScoresConfig
from selma.images.generating import generate_benchmark
from selma.records.benchmarks import BenchmarkPrompt
from selma.scores import faithfulness
from selma.scores.answering import ask
from selma.scores.benchmarks import load_benchmark
from selma.scores.measures import DSG
from selma.toybox.questions import CATEGORIES
from selma.workspace import Workspace


def main(
    work: Annotated[Path, typer.Option(help="Folder for the images; existing ones are kept.")],
    base: Annotated[str, typer.Option(help="toybox or a folder.")] = "toybox",
    prompts: Annotated[int, typer.Option(min=5, help="How many dev prompts.")] = 320,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    guidance: Annotated[list[float] | None, typer.Option()] = None,
    rescale: Annotated[float | None, typer.Option(help="base.guidance_rescale.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet at the last guidance.")] = None,
) -> None:
    """Print DSG and the percentage right in each category, for each guidance."""
    settings = BaseConfig(model=base, device="cpu", guidance_rescale=rescale)
    benchmark_prompts = load_benchmark(ScoresConfig(), split="dev", prompts=prompts)
    judge = load_judge(ScoresConfig().choosing_judge)
    model = load_text_to_image(settings)
    table = Table(
        "guidance", "DSG", *CATEGORIES, title=f"{base}: {len(benchmark_prompts)} dev prompts"
    )
    folder = None
    for value in guidance or [1.0, 2.0, 3.0, 5.0, 7.5]:
        folder = generate_benchmark(
            benchmark_prompts,
            name=f"guidance-{value:g}",
            steps=steps,
            guidance=value,
            batch_size=16,
            folder=Workspace(work),
            base=settings,
            seed=0,
            model=lambda: model,
        )
        answers = ask(benchmark_prompts, folder, judge)
        verdicts = faithfulness.verdicts_by_prompt(benchmark_prompts, answers, zeroing="cascading")
        points = DSG.points(answers, verdicts)
        table_of = faithfulness.category_points(benchmark_prompts, points)
        shares = [_per_cent(table_of[category].values()) for category in CATEGORIES]
        table.add_row(f"{value:g}", f"{DSG.score(points):.1f}", *shares)
    Console().print(table)
    if sheet and folder:
        contact_sheet(benchmark_prompts, folder).save(sheet)


def _per_cent(rows: Iterable[tuple[float, int]]) -> str:
    """Points of all questions, from (points, questions) of each prompt."""
    points, asked = map(sum, zip(*rows, strict=True))
    return f"{100 * points / asked:.1f}"


def contact_sheet(
    benchmark_prompts: list[BenchmarkPrompt], folder: Path, *, columns: int = 12
) -> Image.Image:
    """Every fifth image, twice as large."""
    chosen = benchmark_prompts[::5][: columns * 5]
    side = 128
    rows = -(-len(chosen) // columns)
    page = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), "white")
    for index, prompt in enumerate(chosen):
        image = Image.open(folder / f"{prompt.id}.png").resize((side, side), Image.NEAREST)
        page.paste(image, ((index % columns) * (side + 4), (index // columns) * (side + 4)))
    return page


if __name__ == "__main__":
    typer.run(main)
