"""A run of a million: what its parts take in time and memory, on one core.

    .venv/bin/python bench/million.py prompts        # the filters, 10 skills of 100,000 captions
    .venv/bin/python bench/million.py prompts --captions 10000
    .venv/bin/python bench/million.py scores     # answers, verdicts, intervals, a report's cards
    .venv/bin/python bench/million.py files      # a run's images: made up, looked at, gone on with

All is made up. Seconds are the CPU's; memory is the largest that the process held.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import typer
from novelty import by_zipf
from PIL import Image

from selma.backbones.language.model import Reply
from selma.config import RunConfig
from selma.config.prompts import PromptsConfig
from selma.image_places import make_folders
from selma.images import generating
from selma.manifests import sizes_only
from selma.pipeline import Stages
from selma.prompts.pool import PromptPool
from selma.prompts.skills import load_skills
from selma.records.benchmarks import BenchmarkPrompt, Question, repeated
from selma.row_files import write_rows
from selma.scores.answering import ANSWERS, each_answer
from selma.scores.benchmarks.layouts import Rules
from selma.scores.counting import count
from selma.scores.measures import DSG
from selma.scores.model_score import ModelIntervals, Role
from selma.scores.scoring import with_verdicts
from selma.status import statuses
from selma.workspace import STAGES, Workspace

app = typer.Typer(no_args_is_help=True)

PER_REPLY = 10
BENCHMARKS = ((1060, 12), (4081, 10), (1065, 70))
"""Prompts and words of each, as many as DSG-1k, TIFA and DPG have."""


@app.callback()
def main() -> None:
    """A run of a million, part by part."""


@contextmanager
def measured(what: str) -> Iterator[None]:
    began, wall = time.process_time(), time.monotonic()
    yield
    spent, waited = time.process_time() - began, time.monotonic() - wall
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {spent:.1f} s, {waited:.1f} s by the clock, {held:.0f} MiB", flush=True)


@app.command()
def prompts(
    skills: Annotated[int, typer.Option(min=1)] = 10,
    captions: Annotated[int, typer.Option(min=10, help="Of each skill.")] = 100_000,
) -> None:
    """Take replies of a language model through all filters, three benchmarks among them."""
    benchmark = [
        text for n, (count, mean) in enumerate(BENCHMARKS) for text in by_zipf(count, n, mean=mean)
    ]
    config = PromptsConfig(skills=("coco",), per_skill=10**7)
    (skill,) = load_skills(config.skills)
    written = []  # held until the last skill, as the stage does
    total = time.process_time()
    for number in range(skills):
        texts = by_zipf(captions, 100 + number)
        with measured(f"skill {number + 1}"):
            pool = PromptPool(skill, config, seed=number, benchmark_texts=benchmark)
            for start in range(0, len(texts), PER_REPLY):
                lines = texts[start : start + PER_REPLY]
                listed = "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1))
                pool.take([Reply(listed, 0, 0, truncated=False)], range(start, start + 1))
        written.append(pool.kept)
    kept = sum(map(len, written))
    print(f"{skills * captions} captions, {kept} kept, {pool.dropped} of the last skill's dropped")
    print(f"{time.process_time() - total:.0f} s, of which making captions up is a part")


@app.command()
def scores(
    images: Annotated[int, typer.Option(min=1000, help="Of all models together.")] = 1_000_000,
    models: Annotated[int, typer.Option(min=2)] = 7,
    seeds: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 10,
    questions: Annotated[int, typer.Option(min=1)] = 4,
) -> None:
    """Count a judge's answers on disk, and put them into a scorecard and a report's cards."""
    asked_of = [
        BenchmarkPrompt(
            id=f"p{n}",
            text=f"prompt {n}",
            group=f"g{n % 10}",
            questions=tuple(
                Question(id=str(q), text=f"is it {q}?", category=f"c{q}") for q in range(questions)
            ),
        )
        for n in range(images // models // seeds)
    ]
    asked = repeated(asked_of, seeds)
    with TemporaryDirectory() as place:
        folders = [Path(place, f"m{n}") for n in range(models)]
        for number, folder in enumerate(folders):
            folder.mkdir()
            write_rows(folder / ANSWERS, answer_rows(asked, number))
        rules = Rules(about="", measure=DSG)
        with measured(f"answers of {len(asked) * models} images counted"):
            counts = {
                folder.name: count(asked, each_answer(folder), rules, zeroing="cascading")
                for folder in folders
            }
        with measured("verdicts written"):
            rows = (row for model, counted in counts.items() for row in counted.rows(model))
            write_rows(Path(place, "verdicts.jsonl"), rows)
        intervals = ModelIntervals(
            asked, DSG, seeds=seeds, seed=0, resamples=10_000, detailed=False
        )
        base = counts[folders[0].name].points
        with measured("intervals and differences"):
            for number, (model, counted) in enumerate(counts.items()):
                of_base = (base, None) if number else None
                role: Role = "other" if number else "base"
                intervals.model_score(model, role, counted.points, None, base=of_base)
        verdicts = Path(place, "verdicts.jsonl")
        with measured("answers with verdicts read for a report"):
            for folder in (folders[0], folders[-1]):
                assert sum(1 for _ in with_verdicts(each_answer(folder), verdicts, folder.name))


def answer_rows(asked: Sequence[BenchmarkPrompt], model: int) -> Iterator[dict[str, Any]]:
    draw = Random(model)
    for prompt in asked:
        answers = [
            {"question": q.id, "text": "yes" if draw.random() < 0.8 else "no", "yes": None}
            for q in prompt.questions
        ]
        yield {"prompt": prompt.id, "answers": answers}


@app.command()
def files(
    skills: Annotated[int, typer.Option(min=1)] = 10,
    images: Annotated[int, typer.Option(min=1, help="Of each skill.")] = 100_000,
    folder: Annotated[Path | None, typer.Option(help="Kept, and looked at if it is there.")] = None,
) -> None:
    """Make a run's prompts and images up, look at it as `status` does, and go on with it."""
    with TemporaryDirectory() as temporary:
        root = folder or Path(temporary, "run")
        names = [f"coco{n}" for n in range(skills)]
        captions = root.with_name("captions")
        captions.mkdir(parents=True, exist_ok=True)
        for name in names:
            lines = "".join(f"{name}: caption number {n} of many\n" for n in range(images))
            captions.joinpath(f"{name}.txt").write_text(lines)
        config = RunConfig.model_validate(
            {
                "name": "million",
                "folder": root,
                "prompts": {
                    "skills": names,
                    "per_skill": images,
                    "source": {"kind": "file", "path": str(captions)},
                    "novelty": {"threshold": 1},
                    "contamination_threshold": None,
                },
                "scores": {"benchmark": "toybox"},
            }
        )
        if not root.exists():
            with measured(f"{skills * images} prompts and images made up"):
                make_up(config)
        subprocess.run([sys.executable, __file__, "look", root / "config.json"], check=True)
        most = max(len(each.folders) + len(each.files) for each in starmap(Walked, os.walk(root)))
        print(f"the largest folder has {most} entries")


@app.command()
def look(config: Path) -> None:
    """In a process of its own: `selma status`, and the first two stages again."""
    run = RunConfig.model_validate_json(config.read_bytes())
    with measured("status"):
        found = statuses(run)
    print({(s.stage, s.state): s.want for s in found if s.stage < "3"})
    stages = Stages(run, Workspace(run.run_folder), make=[])
    with measured("gone on with, by sizes"), sizes_only():
        stages.generate_pairs(stages.write_prompts())
    with measured("gone on with, by contents"):
        stages.generate_pairs(stages.write_prompts())


def make_up(config: RunConfig) -> None:
    """What the first two stages leave, with images of one pixel instead of a model's."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")

    def drawn(jobs: Sequence[generating.Job], *_: Any, **__: Any) -> dict[str, Any]:
        make_folders(job.path for job in jobs)
        for job in jobs:
            job.path.write_bytes(file.getvalue())
        return {"images": len(jobs), "seconds": 0.0}

    generating.generate_missing = drawn
    generating._tokens_cut = lambda jobs, model: [0] * len(jobs)
    folder = Workspace(config.run_folder)
    stages = Stages(config, folder, make=STAGES)
    stages.generate_pairs(stages.write_prompts())
    folder.root.joinpath("config.json").write_text(config.model_dump_json())


class Walked(NamedTuple):
    """What `os.walk` tells of a folder."""

    path: str
    folders: list[str]
    files: list[str]


if __name__ == "__main__":
    app()
