"""Whether a base of toybox passes its gates, measured through the product's pipeline and judges.

    .venv/bin/python bench/gates.py --work /tmp/gates                        everything
    .venv/bin/python bench/gates.py --work /tmp/gates --base toybox-dit      the transformer
    .venv/bin/python bench/gates.py --work /tmp/gates --prompts 40           a quick look

On the dev split, by the choosing judge: the base's DSG at each guidance, plain and rescaled, beside
that of an ideal sampler; each category; tags beside sentences with the same facts; the judges on
degraded images; the base's loss on all that it is fine-tuned on beside that on its own scenes. The
gates go to `pretraining.json` beside the weights if measured in full, and the exit code is 1 if one
is missed. Images and answers are kept in --work.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from selma.applications.control import sources as control
from selma.applications.control.settings import ControlData, ToyboxImages
from selma.applications.sur import sources as sur
from selma.applications.sur.settings import SurData, ToyboxSamples
from selma.backbones.bases import steps_of
from selma.backbones.judges.judge import Judge
from selma.backbones.judges.loading import load_judge
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.networks import BaseConfig
from selma.config.scores import ScoresConfig
from selma.images.generating import generate_benchmark
from selma.records.benchmarks import BenchmarkPrompt
from selma.report.tables import cell
from selma.scores import faithfulness, statistics
from selma.scores.answering import answer_item, read_answer_file
from selma.scores.benchmarks import load_benchmark
from selma.scores.measures import DSG, Points
from selma.toybox import BASES, subjects, weights_folder, weights_of
from selma.toybox.judges import load_vqa
from selma.toybox.pretraining import gates, judging
from selma.toybox.pretraining.familiarity import Sample, base_loss, own_samples, single_samples
from selma.toybox.questions import CATEGORIES
from selma.workspace import Workspace, write_json

PROMPTS = 320
"""Of the dev split, with which gates are recorded: all."""
SAMPLES = 400
"""Of each set that the base's loss is measured on."""


def main(
    work: Annotated[Path, typer.Option(help="Folder for images and answers, which are kept.")],
    base: Annotated[str, typer.Option(help="A base of toybox, or a folder.")] = "toybox",
    prompts: Annotated[int, typer.Option(min=5, help="How many dev prompts.")] = PROMPTS,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; the base's own if not given.")
    ] = None,
    guidance: Annotated[
        list[float] | None, typer.Option(help="Only these, which measures no gates.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "cpu",
    recorded: Annotated[
        bool, typer.Option(help="Write a shipped base's beside its weights, if measured in full.")
    ] = True,
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet at guidance 3.")] = None,
) -> None:
    """Measure the gates of a base, and print all that they rest on."""
    console, bench = (
        Console(width=120),
        Bench.of(base, work, prompts=prompts, steps=steps, device=device),
    )
    curves = bench.curves(guidance or gates.GUIDANCES)
    print_curves(curves, bench, console)
    if sheet:
        folder = bench.images("guidance-3", bench.prompts, guidance=3.0, rescale=0.0)
        contact_sheet(bench.prompts, folder).save(sheet)
    losses = losses_of(bench.model)
    print_losses(losses, console)
    if guidance:
        return
    measured = bench.gates(curves, console)
    for name, value in measured.items():
        console.print(f"{name:24}{value:7.1f}")
    if recorded and base in BASES and prompts >= PROMPTS and steps is None:
        record(base, weights_folder(), measured, curves, losses, steps=bench.steps)
    problems = gates.missed(measured)
    console.print("\n".join(problems) or "All gates are passed.")
    raise typer.Exit(code=1 if problems else 0)


@dataclass(frozen=True)
class Curve:
    """Guidance → points, 0-100: of all prompts, and of each category."""

    dsg: dict[float, float]
    categories: dict[float, dict[str, float]]


@dataclass
class Bench:
    """What generates and judges."""

    name: str
    prompts: list[BenchmarkPrompt]
    model: TextToImage
    judge: Judge
    folder: Workspace
    steps: int
    device: str

    @classmethod
    def of(cls, base: str, work: Path, *, prompts: int, steps: int | None, device: str) -> Bench:
        settings = BaseConfig.model_validate({"model": base, "device": device})
        return cls(
            name=base,
            prompts=load_benchmark(ScoresConfig(), split="dev", prompts=prompts),
            model=load_text_to_image(settings),
            judge=load_judge(ScoresConfig().choosing_judge),
            folder=Workspace(work),
            steps=steps_of(settings) if steps is None else steps,
            device=device,
        )

    def curves(self, guidances: Iterable[float]) -> dict[str, Curve]:
        """ "plain" and, where the pipeline rescales, "rescaled" → the base's curve."""
        curves = {}
        sampling = self.model.family.sampling(steps=1, guidance=2.0, guidance_rescale=0.0)
        kinds = {"plain": 0.0}
        if "guidance_rescale" in sampling:
            kinds["rescaled"] = gates.RESCALED
        for label, rescale in kinds.items():
            curve = Curve({}, {})
            for guidance in guidances:
                suffix = "" if label == "plain" else f"-{label}"
                points = self.points(
                    f"guidance-{guidance:g}{suffix}",
                    self.prompts,
                    guidance=guidance,
                    rescale=rescale,
                )
                curve.dsg[guidance] = DSG.score(points, self.prompts)
                of_category = faithfulness.category_points(self.prompts, points)
                curve.categories[guidance] = {
                    category: _per_cent(of_category.get(category, {}).values())
                    for category in CATEGORIES
                }
            curves[label] = curve
        return curves

    def gates(self, curves: Mapping[str, Curve], console: Console) -> dict[str, float]:
        """The measured gates."""
        plain = curves["plain"]
        best = gates.best_guidance(plain.dsg)
        scores = {}
        for tags in (True, False):
            prompts = gates.reworded(self.prompts, tags=tags)
            points = self.points(
                "as-tags" if tags else "as-sentences", prompts, guidance=best, rescale=0.0
            )
            scores[tags] = [100 * score for score in DSG.prompt_scores(points).values()]
        difference = statistics.paired_difference(scores[True], scores[False], seed=0)
        what = f"Tags minus sentences with the same facts, guidance {best:g}"
        console.print(f"{what}: {cell(difference, sign=True)}")
        judges = {name: _mean_accuracy(name) for name in gates.JUDGES}
        return gates.gates(
            plain.dsg,
            {g: gates.ideal_score(self.prompts, g) for g in gates.GUIDANCES},
            spatial={g: row["spatial"] for g, row in plain.categories.items()},
            tags_minus_sentences=difference.mean,
            judges=judges,
        )

    def points(
        self, name: str, prompts: list[BenchmarkPrompt], *, guidance: float, rescale: float
    ) -> Points:
        """The points of all questions about the base's images of these prompts."""
        folder = self.images(name, prompts, guidance=guidance, rescale=rescale)
        answers = read_answer_file(answer_item(prompts, name, folder, self.judge, self.folder).path)
        verdicts = faithfulness.verdicts_by_prompt(prompts, answers, zeroing="cascading")
        return DSG.points(answers, verdicts)

    def images(
        self, name: str, prompts: list[BenchmarkPrompt], *, guidance: float, rescale: float
    ) -> Path:
        """The folder of the base's images; existing ones are kept."""
        settings = BaseConfig.model_validate(
            {"model": self.name, "device": self.device, "guidance_rescale": rescale}
        )
        self.model.guidance_rescale = rescale
        return generate_benchmark(
            prompts,
            name=name,
            steps=self.steps,
            guidance=guidance,
            batch_size=16,
            folder=self.folder,
            base=settings,
            seed=0,
            model=lambda: self.model,
        )


def losses_of(model: TextToImage, *, count: int = SAMPLES) -> dict[str, float]:
    """The base's loss on its own scenes, all and those that some sets are like, and on each set
    that it is fine-tuned on."""
    samples: dict[str, Callable[[], list[Sample]]] = {
        "own scenes": lambda: own_samples(count),
        "own scenes, tags": lambda: own_samples(count, tags=True),
        "own scenes, sentences": lambda: own_samples(count, tags=False),
        "own scenes, crisp": lambda: own_samples(count, finish="crisp"),
        "own scenes, one crisp object by its kind": lambda: single_samples(count),
        "SUR samples": lambda: sur_samples(count),
        "control images": lambda: control_images(count),
        "subjects": lambda: subject_images(count),
    }
    return {name: base_loss(model, load()) for name, load in samples.items()}


def sur_samples(count: int) -> list[Sample]:
    rows = sur.candidates(SurData(source=ToyboxSamples(count=count)), seed=0)
    return [(np.asarray(Image.open(io.BytesIO(row.image()))), row.prompt) for row in rows]


def control_images(count: int) -> list[Sample]:
    data = ControlData(condition="canny", source=ToyboxImages(train=count, val=1))
    rows = control.candidates(data, "train", seed=0)
    return [(np.asarray(row.image()), row.text or "") for row in rows]


def subject_images(count: int) -> list[Sample]:
    each = -(-count // len(subjects.SUBJECTS))
    return [
        (image, f"a {subject.kind}")
        for subject in subjects.SUBJECTS
        for image in subjects.images(subject, count=each)
    ]


def record(
    base: str,
    weights: Path,
    measured: Mapping[str, float],
    curves: Mapping[str, Curve],
    losses: Mapping[str, float],
    *,
    steps: int,
) -> None:
    """Add gates, curves and losses to `pretraining.json`, and what they rest on."""
    path = weights / "pretraining.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    notes.setdefault(gates.MEASURED, {})[base] = {
        "gates": {name: round(value, 2) for name, value in measured.items()},
        "guidance": {
            label: {f"{g:g}": round(dsg, 2) for g, dsg in curve.dsg.items()}
            for label, curve in curves.items()
        },
        "losses": {name: round(value, 4) for name, value in losses.items()},
        gates.RESTS_ON: gates.rests_on(base, weights, prompts=PROMPTS, steps=steps),
    }
    write_json(path, notes)


def print_curves(curves: Mapping[str, Curve], bench: Bench, console: Console) -> None:
    """A row for each guidance: plain, rescaled, ideal, and the plain one's categories."""
    plain = curves["plain"]
    rescaled = curves["rescaled"].dsg if "rescaled" in curves else {}
    title = f"{bench.name}: DSG of {len(bench.prompts)} dev prompts by {bench.judge.name}"
    table = Table(
        "guidance", "plain", f"rescaled {gates.RESCALED}", "ideal", "plain / ideal", *CATEGORIES,
        title=title,
    )  # fmt: skip
    for guidance, dsg in plain.dsg.items():
        ideal = gates.ideal_score(bench.prompts, guidance)
        values = (dsg, rescaled.get(guidance, math.nan), ideal, 100 * dsg / ideal)
        categories = plain.categories[guidance].values()
        table.add_row(f"{guidance:g}", *(f"{value:.1f}" for value in (*values, *categories)))
    console.print(table)


def print_losses(losses: Mapping[str, float], console: Console) -> None:
    """The base's loss on each set, and its ratio to that on its own scenes."""
    table = Table(
        "set", "loss", "/ own scenes", title="The base's loss on what it is fine-tuned on"
    )
    for name, loss in losses.items():
        table.add_row(name, f"{loss:.4f}", f"{loss / losses['own scenes']:.2f}")
    console.print(table)


def contact_sheet(
    benchmark_prompts: list[BenchmarkPrompt], folder: Path, *, columns: int = 12
) -> Image.Image:
    """Every fifth image, twice as large."""
    chosen = benchmark_prompts[::5][: columns * 5]
    side = 128
    rows = -(-len(chosen) // columns)
    page = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), "white")
    for index, prompt in enumerate(chosen):
        image = Image.open(folder / f"{prompt.id}.png").resize(
            (side, side), Image.Resampling.NEAREST
        )
        page.paste(image, ((index % columns) * (side + 4), (index // columns) * (side + 4)))
    return page


def _per_cent(rows: Iterable[tuple[float, int]]) -> float:
    """Points of all questions, from (points, questions) of each prompt; NaN of none."""
    points, asked = (sum(column) for column in zip(*[(0.0, 0), *rows], strict=True))
    return 100 * points / asked if asked else math.nan


def _mean_accuracy(judge: str) -> float:
    """Per cent right on degraded images, the mean over categories."""
    accuracies = judging.accuracy(load_vqa(weights_of(judge)), seed=12_345)
    degraded = [value for name, value in accuracies.items() if name.startswith("degraded/")]
    return sum(degraded) / len(degraded)


if __name__ == "__main__":
    typer.run(main)
