"""Questions about pictures: batched with each picture encoded once, beside one question at a time.

One question at a time is what the released evaluation programs do: processor and generate for each
question. Both sides have the same weights, threads, precision and decoding; rounds are interleaved
and timed in CPU seconds, as other work may share the machine. Random weights of the real
architectures, small ones: ratios, not seconds, are what carries over.

    .venv/bin/python bench/judging.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from selma.backbones.vqa import VqaJudge
from selma.config.scores import LocalJudge

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_judges

SUBJECTS = ("dog", "cat", "tree", "car")
ASKED = ("Is there a {}?", "Is there a red {}?")


def main(
    pictures: Annotated[int, typer.Option(min=1)] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repetitions.")] = 3,
    shapes: Annotated[list[str] | None, typer.Option("--shape")] = None,
    image_px: Annotated[int, typer.Option(help="Side of the drawn pictures.")] = 128,
) -> None:
    """Prints the ratio for each architecture, and fails if any answer differs."""
    torch.set_num_threads(1)
    numbers = np.random.default_rng(0)
    shown = [
        Image.fromarray(numbers.integers(0, 256, (image_px, image_px, 3), np.uint8))
        for _ in range(pictures)
    ]
    questions = [[words.format(name) for name in SUBJECTS for words in ASKED]] * pictures
    title = f"{pictures} pictures x {len(questions[0])} questions, CPU seconds"
    table = Table("model", "one at a time", "batched", "ratio", "spread", "answers", title=title)
    same = True
    for shape in shapes or ["blip", "blip2-t5"]:
        with tempfile.TemporaryDirectory() as folder:
            model = str(tiny_judges.build(shape, Path(folder)))
            ours = VqaJudge(LocalJudge(model=model, max_new_tokens=4, device="cpu"))
            theirs = one_at_a_time(ours, model)
            ours.answer(shown[:2], questions[:2])
            theirs(shown[:2], questions[:2])
            slow, fast = [], []
            for _ in range(rounds):
                alone, seconds = timed(theirs, shown, questions)
                slow.append(seconds)
                batched, seconds = timed(ours.answer, shown, questions)
                fast.append(seconds)
                same &= alone == [[text for text, _ in some] for some in batched]
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        told = "identical" if same else "DIFFER"
        middle = [f"{median(found):.1f}" for found in (slow, fast, ratios)]
        table.add_row(shape, *middle, spread, told)
    Console().print(table)
    raise typer.Exit(0 if same else 1)


def one_at_a_time(judge: VqaJudge, model: str) -> Callable[..., list[list[str]]]:
    """The model's own processor and generate, for each question anew."""
    import transformers

    family: Any = judge._family
    processor = transformers.AutoProcessor.from_pretrained(model)

    def answer(pictures: list[Image.Image], questions: list[list[str]]) -> list[list[str]]:
        said = []
        with torch.inference_mode():
            for picture, some in zip(pictures, questions, strict=True):
                said.append([])
                for question in some:
                    text = judge._words.format(question=question)
                    inputs = processor(images=picture, text=[text], return_tensors="pt")
                    written = family.model.generate(**inputs, generation_config=judge._decoding)
                    new = written.sequences[0][-len(written.logits) :].tolist()
                    said[-1].append(judge._text(new))
        return said

    return answer


def timed(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    began = time.process_time()
    result = work(*given)
    return result, time.process_time() - began


if __name__ == "__main__":
    typer.run(main)
