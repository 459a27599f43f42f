"""What became of images whose faithfulness rose: categories, CLIP, distance from the world's own.

    .venv/bin/python bench/quality.py configs/tables/rewards-toybox.yaml

Of a finished comparison on toybox, each row's test images at its own best guidance: every category
of questions minus the base's by the reporting judge; the CLIP score; and, by the vectors of
toybox-clip, the kernel distance (times 1000, paired by prompt) and the Fréchet distance to images
that the world draws itself. A reward that was cheated shows as a category that fell, or as images
that leave the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from selma.applications.comparisons.comparing import Bench, opened
from selma.applications.comparisons.guiding import Setting
from selma.applications.comparisons.recipes import load_comparison, only
from selma.applications.comparisons.records import BEST
from selma.backbones.perception.features import load_features, see_all
from selma.errors import ConfigError
from selma.image_files import open_image
from selma.records.benchmarks import repeated
from selma.records.scores import Scorecard
from selma.report.tables import cell, points
from selma.scores.distances import frechet_distance, kernel_parts
from selma.scores.statistics import paired_difference
from selma.toybox.pretraining.familiarity import own_samples


def main(
    file: Annotated[Path, typer.Argument(help="A comparison's file.")],
    folder: Annotated[Path | None, typer.Option(help="In place of the file's.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only these, and the base.")] = None,
    good: Annotated[int, typer.Option(min=2, help="Images of the world's own.")] = 1000,
) -> None:
    """Print categories, CLIP and distances of each row; what is missing is made."""
    plan = load_comparison(file, folder=folder)
    plan = only(plan, row) if row else plan
    with opened(plan) as shared:
        bench = Bench(plan, shared)
        compared = bench.compared(bench.make_rows(), bench.curves())
        if BEST not in compared.readings:
            raise ConfigError(f"{file} must have guidances, of which each row has its best.")
        benchmark, card = next(iter(compared.cards(BEST).items()))
        asked = repeated(bench.asked(benchmark), plan.benchmarks[benchmark].scores.seeds)
        images = {
            of.name: bench.images(of.name, benchmark, Setting.of(of.best))
            for of in compared.rows
            if of.best is not None
        }
    see = load_features("toybox", setting="bench").see
    world = (Image.fromarray(image) for image, _ in own_samples(good))
    own = see_all(see, world, total=good, what="the world's own images")
    vectors = {
        name: see_all(
            see,
            (open_image(of / f"{prompt.id}.png") for prompt in asked),
            total=len(asked),
            what=name,
        )
        for name, of in images.items()
    }
    titles = {of.name: of.title for of in compared.rows}
    console = Console(width=160)
    console.print(categories(card, titles))
    console.print(distances(card, titles, vectors, own, base=compared.base))


def categories(card: Scorecard, titles: Mapping[str, str]) -> Table:
    names = list(card.models[0].categories)
    table = Table("row", *names, title=f"{card.measure} by category, minus the base")
    for model in card.models:
        of = model.category_differences or model.categories
        cells = (cell(of[name], sign=bool(model.difference)) for name in names)
        table.add_row(titles[model.model], *cells)
    return table


def distances(
    card: Scorecard,
    titles: Mapping[str, str],
    vectors: Mapping[str, Tensor],
    own: Tensor,
    *,
    base: str,
) -> Table:
    table = Table(
        "row", "CLIP", "minus base", "kernel x 1000", "minus base", "Fréchet",
        title=f"CLIP score, and distances to {len(own)} images of the world's own",
    )  # fmt: skip
    parts = {name: 1000 * kernel_parts(of, own).numpy() for name, of in vectors.items()}
    for model in card.models:
        name = model.model
        change = None if name == base else paired_difference(parts[name], parts[base], seed=0)
        table.add_row(
            titles[name],
            cell(model.clip, digits=2),
            cell(model.clip_difference, sign=True, digits=2),
            points(float(parts[name].mean()), 2),
            cell(change, sign=True, digits=2),
            points(frechet_distance(vectors[name], own), 2),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
