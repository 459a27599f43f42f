"""A run with pictures of an exam by a few models, without a model: toybox scenes, partly wrong."""

from __future__ import annotations

from pathlib import Path

from report.world import Painter

from selma.applications.study.plan import Study, plan_study
from selma.config import RunConfig
from selma.config.scores import ScoresConfig
from selma.records.benchmarks import ExamPrompt
from selma.runfile import write_run_file
from selma.scores.benchmarks import exam_prompts
from selma.workspace import SCORES, Workspace

SHARES = {"base": 1.0, "merged": 0.2, "okapi": 0.6, "quagga": 0.1}
"""Model → share of the usual mistakes. Two have names that stand nowhere else."""


def little_run(root: Path, *, prompts: int = 10) -> list[ExamPrompt]:
    """The exam of a run that is made in `root`, with finished pictures of every model in SHARES."""
    folder = Workspace(root)
    config = RunConfig(name="little", folder=root, scores=ScoresConfig(prompts=prompts))
    root.mkdir(parents=True, exist_ok=True)
    write_run_file(config, folder)
    exam = exam_prompts(config.scores)
    painter = Painter(exam)
    for model, share in SHARES.items():
        item = folder.item(SCORES, "pictures", model, recipe={"model": model})
        item.begin()
        for prompt in exam:
            picture = painter.draw(prompt, share=share)
            picture.putpixel((0, 0), (0, 0, list(SHARES).index(model)))  # no two alike
            picture.save(item.path / f"{prompt.id}.png")
        item.finish(item.path.glob("*.png"), {})
    return exam


def little_study(root: Path, *, prompts: int = 10, seed: int = 0) -> Study:
    """A study of a little run that is made in `root`."""
    exam = little_run(root, prompts=prompts)
    return plan_study(root, exam, models=("okapi", "quagga"), prompts=prompts, seed=seed)
