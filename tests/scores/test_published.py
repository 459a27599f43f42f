"""Published benchmarks are known by prompts and questions, whatever their file is called."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from selma.config.scores import ScoresConfig
from selma.records.benchmarks import BenchmarkPrompt, evenly
from selma.scores.benchmarks import BENCHMARKS, Benchmark, load_benchmark, read_benchmark
from selma.scores.benchmarks.digests import digests, prompt_digest, text_digest
from selma.scores.benchmarks.layouts import RemoteFile
from selma.scores.benchmarks.published import is_of, published
from selma.scores.describing import known_of

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


def test_what_is_known_of_a_benchmark_is_said_of_it_alone(own: Path) -> None:
    assert known_of(BENCHMARKS["dsg-1k"], "toybox-a", str(own), read_benchmark(own)) == ()


@dsg_there
def test_what_is_known_of_dsg_1k_is_said_of_any_part_of_it() -> None:
    row, prompts = BENCHMARKS["dsg-1k"], read_benchmark(DSG)[:3]
    assert known_of(row, "toybox-a", "renamed.csv", prompts) == (row.known,)


@pytest.mark.parametrize("name", [row.name for row in BENCHMARKS.values() if row.files])
def test_a_file_of_ones_own_is_no_published_one(name: str, tmp_path: Path) -> None:
    row = BENCHMARKS[name]
    for file in row.files:
        (tmp_path / file.name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.name).write_text("mine")
    mine = [BenchmarkPrompt(id="a", text="a cat", group="all", questions=())]
    assert not is_of(row, str(tmp_path), mine)
    assert not is_of(row, str(tmp_path / row.files[0].name), mine)


def test_published_files_are_known_by_their_sums(tmp_path: Path) -> None:
    """Pinned ones, git's blobs, and what `selma data fetch` noted of others."""
    data = b"theirs"
    sha256 = hashlib.sha256(data).hexdigest()
    blob = hashlib.sha1(b"blob 6\0theirs", usedforsecurity=False).hexdigest()
    row = replace(BENCHMARKS["geneval-2"], files=(), known="Known.")

    def of(*files: RemoteFile, named: Path) -> bool:
        with_files: Benchmark = replace(row, files=files)
        return is_of(with_files, str(named), [])

    pinned = RemoteFile("a.json", "https://x", sha256=sha256, max_bytes=9)
    by_git = RemoteFile("b.json", "https://x", sha256=None, max_bytes=9, git_blob=blob)
    noted = RemoteFile("c.json", "https://x", sha256=None, max_bytes=9)
    for file in (pinned, by_git, noted):
        (tmp_path / file.name).write_bytes(data)
    assert of(pinned, named=tmp_path) and of(by_git, named=tmp_path / "b.json")
    assert of(pinned, by_git, named=tmp_path) and of(pinned, named=tmp_path / "b.json")
    assert not of(noted, named=tmp_path)
    (tmp_path / "c.json.sha256").write_text(f"{sha256}  c.json\n")
    assert of(noted, pinned, named=tmp_path)
    (tmp_path / "b.json").write_bytes(b"mine")
    assert not of(pinned, by_git, named=tmp_path), "one of its files is another"
    assert is_of(row, "anything", []), "a row without files is its own judge"
