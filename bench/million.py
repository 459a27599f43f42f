"""A run of a million: what its parts take in time and memory, on one core.

    .venv/bin/python bench/million.py prompts        # the filters, 10 skills of 100,000 captions
    .venv/bin/python bench/million.py prompts --captions 10000

All is made up. Seconds are the CPU's; memory is the largest that the process held.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from novelty import by_zipf

from selma.backbones.language.model import Reply
from selma.config.prompts import PromptsConfig
from selma.prompts.pool import PromptPool
from selma.prompts.skills import load_skills

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


if __name__ == "__main__":
    app()
