"""GenAI-Bench: prompts, skills and votes in their released layout, and VQAScore by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selma.applications.evaluation.dsg import DsgRules, score_answers
from selma.errors import DataError
from selma.records.benchmarks import Answer
from selma.scores.benchmarks import counted, layout_of, read_benchmark
from selma.scores.benchmarks.genai import GENAI, YES, read_votes

PROMPTS: dict[str, Any] = {
    "00000": {
        "id": "00000",
        "prompt": "a baker holds two loaves",
        "prompt in Chinese": "x",
        "models": {"SDXL_Base": [4, 5, 3], "DALLE_3": [5, 5, 5]},
    },
    "00001": {"id": "00001", "prompt": "no bird on the wire", "models": {"SDXL_Base": [1, 2, 1]}},
    "00002": {"id": "00002", "prompt": 'a sign that says "go"', "models": {}},
}
SKILLS = {"basic": [0], "counting": [0], "negation": [1], "advanced": [0, 1, 1599]}


def write(folder: Path, prompts: Any = PROMPTS, skills: Any = SKILLS) -> Path:
    (folder / "genai_image.json").write_text(json.dumps(prompts), "utf-8")
    (folder / "genai_skills.json").write_text(json.dumps(skills), "utf-8")
    return folder


def test_a_prompt_has_one_question_and_its_skills(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert layout_of(folder) is GENAI and layout_of(folder / "genai_image.json") is GENAI
    first, second, third = read_benchmark(folder)
    assert (first.id, first.tags) == ("00000", ("basic", "counting", "advanced"))
    assert (second.tags, third.tags) == (("negation", "advanced"), ())
    (question,) = third.questions
    assert (
        question.text == 'Does this figure show "a sign that says "go""? Please answer yes or no.'
    )
    assert question.spellings == YES


def test_votes_are_kept_by_model_and_prompt(tmp_path: Path) -> None:
    votes = read_votes(write(tmp_path))
    assert votes == {
        "SDXL_Base": {"00000": (4, 5, 3), "00001": (1, 2, 1)},
        "DALLE_3": {"00000": (5, 5, 5)},
    }
    with pytest.raises(DataError, match=r"prompt 00001: votes on m must be numbers from 1 to 5"):
        read_votes(write(tmp_path, {"00001": {"prompt": "x", "models": {"m": [0, 3]}}}))


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"00000": {"prompt": ""}}, "prompt 00000: prompt must be a text"),
        ({"00000": "a text"}, "has none of these layouts"),
        ({"00000": {"prompt": "b"}, "c": {}}, "prompt c: prompt must be a text"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, prompts: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_benchmark(write(tmp_path, prompts) / "genai_image.json")


def test_the_score_is_the_probability_of_yes_however_spelled(tmp_path: Path) -> None:
    folder = write(tmp_path)
    prompts = read_benchmark(folder)
    tokens = {"00000": (0.6, 0.2), "00001": (0.1, 0.05), "00002": (0.9, 0.0)}
    given = [
        # This vocabulary has no YES, whose first token is the letter Y; blanks are dropped.
        Answer(prompt_id=id, question_id="vqascore", text="Yes",
               first=(("Yes", big), ("yes", small), ("Yes", big), ("yes", small), ("Y", 0.01)))
        for id, (big, small) in tokens.items()
    ]  # fmt: skip

    def scored(name: Any) -> dict[str, Any]:
        rules = GENAI.rules(name)
        asked = counted(prompts, rules, named=str(folder))
        known = {prompt.id for prompt in asked}
        answers = [answer for answer in given if answer.prompt_id in known]
        return score_answers(asked, answers, rules=DsgRules(), measure=rules.measure, resamples=50)

    sound, released = scored("sound"), scored("released")
    each = {id: 100 * (big + small + 0.01) for id, (big, small) in tokens.items()}
    assert sound["score"] == pytest.approx(sum(each.values()) / 3, abs=1e-3)
    assert sound["per_prompt"] == pytest.approx(each)
    assert sound["groups"] == {
        "basic": pytest.approx(81),
        "counting": pytest.approx(81),
        "negation": pytest.approx(16),
        "advanced": pytest.approx((81 + 16) / 2),
        "no skill": pytest.approx(91),  # "all" would be read as the total
    }
    # The third prompt has no skill, and is not among its program's "all".
    assert released["score"] == pytest.approx((60 + 10) / 2)
    assert released["groups"]["advanced"] == pytest.approx(35)


def test_an_id_that_stands_twice_is_an_error(tmp_path):
    row = '{"prompt": "a dog", "models": {}}'
    (tmp_path / "genai_image.json").write_text(f'{{"00000": {row}, "00000": {row}}}')
    with pytest.raises(DataError, match="stands there twice"):
        read_benchmark(tmp_path / "genai_image.json")


def test_without_skills_the_group_is_all(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "genai_skills.json").unlink()
    assert {prompt.group for prompt in read_benchmark(folder)} == {"all"}


def test_a_file_is_known_whatever_stands_before_its_first_prompt(tmp_path: Path) -> None:
    first = {"models": {"SDXL_Base": [4], "b": {}}, "note": "a } in it", "prompt": "a baker"}
    folder = write(tmp_path, {"00000": first})
    assert layout_of(folder) is GENAI
    write(tmp_path, {"00000": {"text": "a baker", "prompts": {}}})
    assert not GENAI.recognises(folder)


@pytest.mark.parametrize("text", ["a \ud83d baker", "\u200b", " "])
def test_a_prompt_that_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"half of a character|prompt must be a text"):
        read_benchmark(write(tmp_path, {"00000": {"prompt": text}}))
