"""Which published benchmark an exam is, by its prompts: only then may its scores stand beside
published ones. A part of a benchmark is told as well, whatever its file is called.

digests/<name>.txt    8 hex digits of each prompt, sorted; none of a benchmark's words
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from selma.records.benchmarks import BenchmarkPrompt
from selma.records.scores import Published


def published(benchmark_prompts: Sequence[BenchmarkPrompt]) -> Published | None:
    """The benchmark that all these prompts are of, with its own questions; None where any is not.

    DSG-1k is known with every question and dependency. Of TIFA v1.0 the question file's sum was
    never stated, so that its prompts are known and its questions only by having choices.
    """
    if not benchmark_prompts:
        return None
    if all(prompt_digest(prompt) in _digests("dsg-1k") for prompt in benchmark_prompts):
        return "dsg-1k"
    if all(
        text_digest(prompt) in _digests("tifa-v1.0") and _chosen(prompt)
        for prompt in benchmark_prompts
    ):
        return "tifa-v1.0"
    return None


def prompt_digest(prompt: BenchmarkPrompt) -> str:
    """8 hex digits that change with a prompt's id, words, questions and dependencies."""
    asked = [[q.id, q.text, q.category, q.detail, *q.parents] for q in prompt.questions]
    return _hex([prompt.id, _words(prompt.text), asked])


def text_digest(prompt: BenchmarkPrompt) -> str:
    """8 hex digits that change with a prompt's id and words."""
    return _hex([prompt.id, _words(prompt.text)])


def _chosen(prompt: BenchmarkPrompt) -> bool:
    return bool(prompt.questions) and all(question.choices for question in prompt.questions)


def _words(text: str) -> str:
    return " ".join(text.split())  # TIFA's two files differ in blanks alone


def _hex(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


@cache
def _digests(name: Published) -> frozenset[str]:
    place = files("selma.scores.benchmarks") / "digests" / f"{name}.txt"
    return frozenset(place.read_text("ascii").split())
