"""Digests that recognise published benchmarks' prompts, whatever their file is called.

digests/<name>.txt    8 hex digits of each prompt, sorted; no text of a benchmark
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files

from selma.records.benchmarks import BenchmarkPrompt


def prompt_digest(prompt: BenchmarkPrompt) -> str:
    """8 hex digits that change with a prompt's id, words, questions and dependencies."""
    asked = [[q.id, q.text, q.category, q.detail, *q.parents] for q in prompt.questions]
    return _hex([prompt.id, _words(prompt.text), asked])


def text_digest(prompt: BenchmarkPrompt) -> str:
    """8 hex digits that change with a prompt's id and words."""
    return _hex([prompt.id, _words(prompt.text)])


@cache
def digests(name: str) -> frozenset[str]:
    """The digests of all prompts of the benchmark of this name."""
    file = files("selma.scores.benchmarks") / "digests" / f"{name}.txt"
    return frozenset(file.read_text("ascii").split())


def _words(text: str) -> str:
    return " ".join(text.split())  # TIFA's two files differ in blanks alone


def _hex(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
