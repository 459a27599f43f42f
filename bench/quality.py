"""What became of images whose faithfulness rose: categories, CLIP, distance from the world's own.

    .venv/bin/python bench/quality.py configs/tables/rewards-toybox.yaml

Of a finished comparison on toybox, each row's test images at its own best guidance: every category
of questions minus the base's by the reporting judge; the CLIP score; and, by the vectors of
toybox-clip, the kernel distance (times 1000, paired by prompt) and the Fréchet distance to images
that pre-training had, a third of which are blurred or faded, and to renders of the prompts. Beside
them, what no question of the benchmark asks, by the reporting judge: how many images have several
where the prompt says one, or a kind that it does not name.
A reward that was cheated shows as a category that fell, as images that leave the world, or as more
than was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from selma.applications.comparisons.comparing import Bench, opened
from selma.applications.comparisons.guiding import Setting
from selma.applications.comparisons.recipes import load_comparison, only
from selma.applications.comparisons.records import BEST
from selma.backbones.judges.judge import Judge
from selma.backbones.judges.loading import load_judge
from selma.backbones.perception.features import load_features, see_all
from selma.config.given import ToyboxPairs
from selma.errors import ConfigError
from selma.given.toybox import images as images_of
from selma.image_files import open_image
from selma.records.benchmarks import BenchmarkPrompt, repeated
from selma.records.prompts import Prompt
from selma.records.scores import Scorecard
from selma.report.tables import cell, points
from selma.scores.distances import frechet_distance, kernel_parts
from selma.scores.statistics import paired_difference
from selma.toybox.benchmark import stated
from selma.toybox.drawing import KINDS
from selma.toybox.pretraining.familiarity import own_samples
from selma.toybox.questions import ask, not_several
from selma.toybox.scenes import Scene


def main(
    file: Annotated[Path, typer.Argument(help="A comparison's file.")],
    folder: Annotated[Path | None, typer.Option(help="In place of the file's.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only these, and the base.")] = None,
    good: Annotated[int, typer.Option(min=2, help="Images of pre-training.")] = 1000,
    renders: Annotated[int, typer.Option(min=1, help="Of each prompt.")] = 3,
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
    own = {
        "pre-training's images": see_all(see, world, total=good, what="pre-training's images"),
        "renders of the prompts": drawn(asked, see, renders),
    }
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
    console = Console(width=200)
    console.print(categories(card, titles))
    console.print(distances(card, titles, vectors, own, base=compared.base))
    judge = load_judge(plan.benchmarks[benchmark].scores.judge)
    console.print(unasked(asked, images, titles, judge, base=compared.base))


def categories(card: Scorecard, titles: Mapping[str, str]) -> Table:
    names = list(card.models[0].categories)
    table = Table("row", *names, title=f"{card.measure} by category, minus the base")
    for model in card.models:
        of = model.category_differences or model.categories
        cells = (cell(of[name], sign=bool(model.difference)) for name in names)
        table.add_row(titles[model.model], *cells)
    return table


def drawn(asked: Sequence[BenchmarkPrompt], see: Any, renders: int) -> Tensor:
    """Vectors of what the world draws of the prompts."""
    prompts = [Prompt(id=prompt.id, skill=prompt.group, text=prompt.text) for prompt in asked]
    given = images_of(ToyboxPairs(), prompts, skills=(), per_prompt=renders, seed=0)
    files = [image.data for prompt in prompts for image in given[prompt.id]]
    shown = (Image.open(BytesIO(data())) for data in files)
    return see_all(see, shown, total=len(files), what="renders of the prompts")


def distances(
    card: Scorecard,
    titles: Mapping[str, str],
    vectors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    base: str,
) -> Table:
    table = Table("row", "CLIP", "minus base", title="CLIP score, and distances to images")
    for what, those in own.items():
        for column in (f"kernel x 1000 to {len(those)} {what}", "minus base", "Fréchet"):
            table.add_column(column)
    parts = {
        name: [1000 * kernel_parts(of, those).numpy() for those in own.values()]
        for name, of in vectors.items()
    }
    for model in card.models:
        name = model.model
        cells = [cell(model.clip, digits=2), cell(model.clip_difference, sign=True, digits=2)]
        for those, after, before in zip(own.values(), parts[name], parts[base], strict=True):
            change = None if name == base else paired_difference(after, before, seed=0)
            cells += [
                points(float(after.mean()), 2),
                cell(change, sign=True, digits=2),
                points(frechet_distance(vectors[name], those), 2),
            ]
        table.add_row(titles[name], *cells)
    return table


def unasked(
    asked: Sequence[BenchmarkPrompt],
    images: Mapping[str, Path],
    titles: Mapping[str, str],
    judge: Judge,
    *,
    base: str,
) -> Table:
    """The share of images, in per cent, that have several of what the prompt says there is one of,
    of prompts that say so; and that have a kind of thing that the prompt does not name."""
    said = stated("dev") | stated("test")
    scenes = [said[prompt.id.partition("-")[0]].scene for prompt in asked]
    several, others = (
        [[q.text for q in not_several(scene)] for scene in scenes],
        [_others(scene) for scene in scenes],
    )
    table = Table(
        "row", "several for one, %", "minus base", "another kind, %", "minus base",
        title=f"What is not asked, by {judge.name}",
    )  # fmt: skip
    shares = {}
    for name, folder in images.items():
        pictures = [open_image(folder / f"{prompt.id}.png") for prompt in asked]
        told = judge.answer(pictures, [[*a, *b] for a, b in zip(several, others, strict=True)])
        yes = [[text == "yes" for text, _ in answers] for answers in told]
        shares[name] = (
            [100.0 * any(row[: len(a)]) for row, a in zip(yes, several, strict=True) if a],
            [100.0 * any(row[len(a) :]) for row, a in zip(yes, several, strict=True)],
        )
    for name, both in shares.items():
        cells = []
        for after, before in zip(both, shares[base], strict=True):
            change = None if name == base else paired_difference(after, before, seed=0)
            cells += [points(fmean(after), 1), cell(change, sign=True)]
        table.add_row(titles[name], *cells)
    return table


def _others(scene: Scene) -> list[str]:
    named = {group.kind for group in scene.groups}
    return [ask(("entity", kind), {}) for kind in KINDS if kind not in named]


if __name__ == "__main__":
    typer.run(main)
