"""Published benchmarks are known by prompts and questions, whatever their file is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from selma.config.scores import ScoresConfig
from selma.records.benchmarks import BenchmarkPrompt, evenly
from selma.scores.benchmarks import load_benchmark, read_benchmark
from selma.scores.benchmarks.digests import digests, prompt_digest, text_digest
from selma.scores.benchmarks.published import published

DATA = Path(__file__).parents[3] / "shared" / "data"
DSG, TIFA = DATA / "dsg" / "dsg-1k-anns.csv", DATA / "tifa" / "tifa_v1.0_text_inputs.json"
dsg_there = pytest.mark.skipif(not DSG.exists(), reason=f"DSG-1k: not in {DSG.parent}")
tifa_there = pytest.mark.skipif(not TIFA.exists(), reason=f"TIFA's prompts: not in {TIFA.parent}")

OWN = """item_id,text,proposition_id,dependency,category_broad,category_detailed,\
question_natural_language
whoops_5,A rubix cube with ten squares of purple,1,0,entity,whole,Is there a rubix cube?
whoops_5,A rubix cube with ten squares of purple,2,1,attribute,color,Is it purple?
tifa160_1,A cat,1,0,global,-,Is it a photo?
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A CSV of one's own with ids and a prompt of DSG-1k, but other questions."""
    path = tmp_path / "dsg-1k-anns.csv"
    path.write_text(OWN)
    return path


def test_toybox_and_a_file_of_ones_own_are_none(own: Path) -> None:
    assert published(load_benchmark(ScoresConfig(prompts=10))) is None
    assert published(read_benchmark(own)) is None
    assert published([]) is None


def test_the_digests_are_as_many_as_the_prompts() -> None:
    assert (len(digests("dsg-1k")), len(digests("tifa-v1.0"))) == (1060, 4081)


@dsg_there
def test_dsg_1k_is_known_whole_and_in_part_but_not_changed() -> None:
    benchmark_prompts = read_benchmark(DSG)
    assert {prompt_digest(prompt) for prompt in benchmark_prompts} == digests("dsg-1k")
    some = evenly(benchmark_prompts, 7)
    assert published(benchmark_prompts) == published(some) == "dsg-1k"
    first, *others = some
    question = first.questions[-1]
    for changed in (
        first.model_copy(update={"text": first.text + "s"}),
        first.model_copy(update={"questions": first.questions[:-1]}),
        first.model_copy(update={"questions": (*first.questions[:-1],
                                               question.model_copy(update={"text": "Why?"}))}),
        first.model_copy(update={"questions": (*first.questions[:-1],
                                               question.model_copy(update={"parents": ("77",)}))}),
    ):  # fmt: skip
        assert published([changed, *others]) is None


@tifa_there
def test_tifas_prompts_are_known_with_choices_alone() -> None:
    benchmark_prompts = read_benchmark(TIFA)
    assert {text_digest(prompt) for prompt in benchmark_prompts} == digests("tifa-v1.0")
    assert published(benchmark_prompts[:3]) is None  # the texts have no questions
    assert published([with_choices(prompt) for prompt in benchmark_prompts[:3]]) == "tifa-v1.0"


def with_choices(prompt: BenchmarkPrompt) -> BenchmarkPrompt:
    question = {"id": "1", "text": "What is it?", "category": "object", "choices": ["a", "b"],
                "answer": "a"}  # fmt: skip
    return BenchmarkPrompt.model_validate(prompt.model_dump() | {"questions": [question]})
