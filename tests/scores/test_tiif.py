"""TIIF-Bench: its folders, both polarities of answers, and its mean of means, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selma.applications.evaluation.dsg import DsgRules, score_answers
from selma.errors import DataError
from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.scores.answering import benchmark_hash
from selma.scores.benchmarks import layout_of, read_benchmark
from selma.scores.benchmarks.tiif import DIMENSIONS, TIIF
from selma.scores.model_score import ModelIntervals
from selma.scores.soft import soft_scores

ASKED = {
    # Two types of one part, of 4 and 1 questions; one type of another part.
    "negation": [(["Is there a pan?", "Is it on fire?  "], ["yes", "no"]),
                 (["Is there a bed?", "Is a cat on it?"], ["Yes", "no"])],
    "numeracy": [(["Are there six pins?"], ["yes"])],
    "action+2d": [(["Is a man there?", "Does he run?", "Is he left of a tree?"], ["yes"] * 3)],
}  # fmt: skip


def write(folder: Path, asked: Any = ASKED, name: str = "test") -> Path:
    for kind in (f"{name}_prompts", f"{name}_eval_prompts"):
        (folder / kind).mkdir(parents=True)
    for type, rows in asked.items():
        prompts = [
            {
                "type": type,
                "short_description": f"{type} {n}",
                "long_description": f"long {type} {n}",
            }
            for n in range(len(rows))
        ]
        questions = [{"type": type, "yn_question_list": q, "yn_answer_list": a} for q, a in rows]
        for file, lines in (
            (folder / f"{name}_prompts/{type}_prompts.jsonl", prompts),
            (folder / f"{name}_eval_prompts/{type}_eval_prompts.jsonl", questions),
        ):
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("name", ["test", "testmini"])
def test_each_line_is_a_short_and_a_long_prompt(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, name=name)
    assert layout_of(folder) is TIIF
    prompts = {prompt.id: prompt for prompt in read_benchmark(folder)}
    assert len(prompts) == 8
    long = prompts["action-2d_0_long"]
    assert (long.text, long.group) == ("long action+2d 0", "long")
    denied = prompts["negation_1_short"].questions[1]
    assert (denied.text, denied.answer) == ("Is a cat on it?", "no")
    assert (denied.category, denied.detail) == ("basic: reasoning", "negation")


def test_all_its_types_have_a_part() -> None:
    types = [file.name.split("/")[1].removesuffix("_prompts.jsonl") for file in TIIF.files[::2]]
    assert len(types) == 39 and sorted(types) == sorted(sum(DIMENSIONS.values(), ()))
    assert all(file.sha256 and len(file.sha256) == 64 for file in TIIF.files)
    assert any("action%2B2d" in file.url for file in TIIF.files)


SAID = {
    # Prompt → answers; the fire is denied rightly, the cat not.
    "negation_0": ("yes", "no"),
    "negation_1": ("no", "yes"),
    "numeracy_0": ("yes",),
    "action-2d_0": ("yes", "no", "yes"),
}


def given(prompts: list[BenchmarkPrompt], short: Any = SAID) -> list[Answer]:
    """The answers about short prompts' images; all is answered rightly about the long ones'."""
    return [
        Answer(
            prompt_id=prompt.id,
            question_id=question.id,
            text=short[prompt.id.rpartition("_")[0]][int(question.id) - 1]
            if prompt.group == "short"
            else question.answer,
        )
        for prompt in prompts
        for question in prompt.questions
    ]


def scored(prompts: list[BenchmarkPrompt], answers: list[Answer], name: Any) -> dict[str, Any]:
    rules = TIIF.rules(name)
    own = DsgRules(reading=rules.reading)
    return score_answers(prompts, answers, rules=own, measure=rules.measure, resamples=50)


def test_the_score_is_the_mean_of_parts_of_types_of_questions(tmp_path: Path) -> None:
    prompts = read_benchmark(write(tmp_path))
    answers = given(prompts)
    found = scored(prompts, answers, "sound")
    reasoning, relation = (2 / 4 + 1 / 1) / 2, 2 / 3
    short = 100 * (reasoning + relation) / 2
    assert found["groups"] == {"short": pytest.approx(short, abs=1e-3), "long": 100.0}
    assert found["score"] == pytest.approx((short + 100) / 2, abs=1e-3)
    # A part, too, is the mean of its types, of both lengths here.
    assert found["categories_broad"]["basic: reasoning"] == pytest.approx(100 * (1 + reasoning) / 2)
    assert found["categories"]["negation"] == pytest.approx(75)
    assert found["rules"]["average"] == "benchmark"
    points = TIIF.measure.points(answers, found["verdicts"])
    measured = ModelIntervals(prompts, TIIF.measure, seeds=1, seed=0, resamples=50, detailed=True)
    model = measured.model_score("base", "base", points, None, base=None)
    assert model.score.mean == pytest.approx(found["score"], abs=1e-3)
    assert model.groups["short"].mean == pytest.approx(short)
    assert model.categories["basic: reasoning"].mean == pytest.approx(100 * (1 + reasoning) / 2)
    assert model.details["negation"].mean == pytest.approx(75)


def test_a_judge_that_always_says_yes_loses_the_denied_questions(tmp_path: Path) -> None:
    prompts = read_benchmark(write(tmp_path))
    yes = [answer.model_copy(update={"text": "yes", "yes": 1.0}) for answer in given(prompts)]
    found = scored(prompts, yes, "sound")
    assert found["categories"]["negation"] == 50.0
    assert found["score"] == pytest.approx(100 * ((0.5 + 1) / 2 + 1) / 2)
    soft = soft_scores(yes, prompts)
    assert soft["negation_0_short"] == 0.5 and soft["numeracy_0_short"] == 1


def test_released_rules_read_the_first_word(tmp_path: Path) -> None:
    prompts = read_benchmark(write(tmp_path))
    told = dict(SAID) | {"numeracy_0": ("Yes, there are six pins.",)}
    answers = given(prompts, told)
    assert scored(prompts, answers, "sound")["categories"]["numeracy"] == 50.0
    assert scored(prompts, answers, "released")["categories"]["numeracy"] == 100.0
    unclear = given(prompts, told | {"numeracy_0": ("yesterday",)})
    assert scored(prompts, unclear, "released")["categories"]["numeracy"] == 50.0


def test_what_is_expected_is_part_of_a_benchmarks_hash(tmp_path: Path) -> None:
    turned = ASKED | {"numeracy": [(["Are there six pins?"], ["no"])]}
    first, second = (
        benchmark_hash(read_benchmark(write(tmp_path / name, asked)))
        for name, asked in (("a", ASKED), ("b", turned))
    )
    assert first != second


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(["a?"], ["maybe"])], "line 1: each question must have the answer yes or no"),
        ([(["a?", "b?"], ["yes"])], "line 1: each question must have"),
        ([([], [])], "line 1: each question must have"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, rows: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_benchmark(write(tmp_path, {"style": rows}))
    short = write(tmp_path / "short", {"style": [(["a?"], ["yes"])] * 2})
    (short / "test_eval_prompts/style_eval_prompts.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="each of 2 prompts, but has 1"):
        read_benchmark(short)
