"""A run with benchmark images by a few models, without a model: toybox scenes, partly wrong."""

from __future__ import annotations

from pathlib import Path

from report.world import Painter

from selma.applications.study.plan import Study, plan_study
from selma.config import RunConfig
from selma.config.scores import ScoresConfig
from selma.records.benchmarks import BenchmarkPrompt
from selma.runfile import write_run_file
from selma.scores.benchmarks import load_benchmark
from selma.workspace import SCORES, Workspace

SHARES = {"base": 1.0, "merged": 0.2, "okapi": 0.6, "quagga": 0.1}
"""Model → share of the usual mistakes. Two have names that occur nowhere else."""


def little_run(root: Path, *, prompts: int = 10) -> list[BenchmarkPrompt]:
    """Make a run in `root` with finished images by every model in SHARES; its benchmark prompts."""
    folder = Workspace(root)
    config = RunConfig(name="little", folder=root, scores=ScoresConfig(prompts=prompts))
    root.mkdir(parents=True, exist_ok=True)
    write_run_file(config, folder)
    benchmark_prompts = load_benchmark(config.scores)
    painter = Painter(benchmark_prompts)
    for model, share in SHARES.items():
        item = folder.item(SCORES, "images", model, recipe={"model": model})
        item.begin()
        for prompt in benchmark_prompts:
            image = painter.draw(prompt, share=share)
            image.putpixel((0, 0), (0, 0, list(SHARES).index(model)))  # no two alike
            image.save(item.path / f"{prompt.id}.png")
        item.finish(item.path.glob("*.png"), {})
    return benchmark_prompts


def little_study(root: Path, *, prompts: int = 10, seed: int = 0) -> Study:
    """Make a little run in `root`, and plan a study of it."""
    benchmark_prompts = little_run(root, prompts=prompts)
    return plan_study(
        root, benchmark_prompts, models=("okapi", "quagga"), prompts=prompts, seed=seed
    )
