"""Whatever a benchmark's layout, its prompts can each name a file of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt, Question, repeated
from selma.scores.benchmarks import read_benchmark

ASKED = {"yn_question_list": ["Is there a dog?"], "yn_answer_list": ["yes"]}
DESCRIBED = {"short_description": "a dog", "long_description": "a dog on the grass"}


def tiif(folder: Path, *types: str, rows: int = 1) -> Path:
    for part, row in (("test_prompts", DESCRIBED), ("test_eval_prompts", ASKED)):
        (folder / part).mkdir(parents=True)
        ending = "prompts" if part == "test_prompts" else "eval_prompts"
        for type in types:
            file = folder / part / f"{type}_{ending}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for _ in range(rows)))
    return folder


def test_sound_ones_are_read(tmp_path: Path) -> None:
    ids = [prompt.id for prompt in read_benchmark(tiif(tmp_path / "a", "action+2d"))]
    assert ids == ["action-2d_0_short", "action-2d_0_long"]


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (("a+b", "a-b"), "two prompts have the id 'a-b_0_short'"),
        (("A", "a"), "differ only in case"),
        (("my type; rm",), "must be letters, digits"),
        (("x" * 160,), "must be letters, digits"),
    ],
)
def test_others_are_refused(tmp_path: Path, types: tuple[str, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_benchmark(tiif(tmp_path / "a", *types))


def test_a_benchmark_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold prompts, but has none"):
        read_benchmark(tiif(tmp_path / "a", "text", rows=0))
    folder = tmp_path / "one" / "scripts" / "alignment" / "Q_D"
    folder.mkdir(parents=True)
    for name in ("anime", "human", "object"):
        (folder / f"{name}.json").write_text("{}")
    (tmp_path / "one" / "OneIG-Bench.csv").write_text("category,id,prompt_en\n")
    with pytest.raises(DataError, match="must have the prompts of a class, but has none"):
        read_benchmark(tmp_path / "one")


def test_a_number_without_end_is_an_id_like_others(tmp_path: Path) -> None:
    rows = {id: {"prompt": "a dog", "models": {}} for id in ("1", "9" * 5000)}
    (tmp_path / "genai_image.json").write_text(json.dumps(rows))
    (tmp_path / "genai_skills.json").write_text(json.dumps({"basic": [1]}))
    with pytest.raises(DataError, match="id must be letters, digits"):
        read_benchmark(tmp_path)


def test_an_image_has_no_other_prompts_name() -> None:
    asked = (Question(id="1", text="Is there a dog?", category="entity"),)
    prompts = [
        BenchmarkPrompt(id=id, text="a dog", group="g", questions=asked) for id in ("x", "x-1")
    ]
    assert repeated(prompts, 1) == prompts
    assert [p.id for p in repeated(prompts[:1], 3)] == ["x", "x-1", "x-2"]
    with pytest.raises(DataError, match="'x-1' has the name of another prompt's image"):
        repeated(prompts, 2)
