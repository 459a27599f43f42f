"""Answers → scores: the rules, and agreement with the released answers of DSG's authors."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selma.errors import DataError
from selma.records.benchmarks import Answer, BenchmarkPrompt, Question
from selma.scores import measures
from selma.scores.benchmarks import read_dsg
from selma.scores.faithfulness import (
    Verdict,
    Zeroing,
    category_points,
    dependency_faults,
    normalise,
    prompt_scores,
    verdicts,
    verdicts_by_prompt,
    verdicts_in_turn,
)

DSG = Path(__file__).parents[3] / "shared" / "data" / "dsg"


def question(id: str, *parents: str, category: str = "entity") -> Question:
    return Question(id=id, text=f"{id}?", category=category, parents=parents)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("yes", "yes"),
        (" Yes.\n", "yes"),
        ("NO!", "no"),
        ('"no"', "no"),
        ("", "unreadable"),
        ("no bus", "unreadable"),
        ("yes, there are", "unreadable"),
        ("10000", "unreadable"),
        ("да", "unreadable"),
    ],
)
def test_only_a_bare_yes_or_no_is_read(text: str, word: str) -> None:
    assert normalise(text) == word


CHAIN = [question("1"), question("2", "1"), question("3", "2"), question("4")]


@pytest.mark.parametrize(
    ("zeroing", "last"), [("cascading", "zeroed"), ("one_level", "yes"), ("none", "yes")]
)
def test_a_no_zeroes_by_the_rule(zeroing: Zeroing, last: Verdict) -> None:
    said = {"1": "no", "2": "yes", "3": "yes", "4": "yes"}
    second = "yes" if zeroing == "none" else "zeroed"
    found = verdicts(CHAIN, said, zeroing=zeroing)
    assert found == {"1": "no", "2": second, "3": last, "4": "yes"}


def test_an_unreadable_parent_counts_as_no_and_a_no_stays_a_no() -> None:
    said = {"1": "maybe", "2": "yes", "3": "no", "4": "yes"}
    assert verdicts(CHAIN, said, zeroing="cascading") == {
        "1": "unreadable",
        "2": "zeroed",
        "3": "no",
        "4": "yes",
    }


def test_bad_references_are_ignored_and_cycles_stand_or_fall_together() -> None:
    ring = [question("1", "1", "3", "left"), question("2", "1", "99"), question("3", "2")]
    assert dependency_faults(
        [BenchmarkPrompt(id="a", text="t", group="g", questions=tuple(ring))]
    ) == {
        "names a missing question": 1,
        "names itself": 1,
        "not an id": 1,
        "question in a cycle": 3,
    }
    yes = dict.fromkeys("123", "yes")
    assert set(verdicts(ring, yes, zeroing="cascading").values()) == {"yes"}
    one_no = verdicts(ring, yes | {"2": "no"}, zeroing="cascading")
    assert one_no == {"1": "zeroed", "2": "no", "3": "zeroed"}


@st.composite
def answered(draw: st.DrawFn) -> tuple[list[Question], dict[str, str]]:
    ids = [str(i) for i in range(draw(st.integers(1, 7)))]
    some = st.lists(st.sampled_from([*ids, "x"]), max_size=3)
    questions = [question(id, *draw(some)) for id in ids]
    return questions, {id: draw(st.sampled_from(["yes", "no", "?"])) for id in ids}


# Busy machines draw slowly; that is no fault of the rules.
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answered(), st.sampled_from(["cascading", "one_level", "none"]), st.randoms())
def test_no_order_of_rows_matters_and_rules_only_get_stricter(
    case: tuple[list[Question], dict[str, str]], zeroing: Zeroing, shuffle: random.Random
) -> None:
    questions, said = case
    found = verdicts(questions, said, zeroing=zeroing)
    mixed = questions[:]
    shuffle.shuffle(mixed)
    assert verdicts(mixed, said, zeroing=zeroing) == found
    points = [
        sum(v == "yes" for v in verdicts(questions, said, zeroing=rule).values())
        for rule in ("cascading", "one_level", "none")
    ]
    assert points == sorted(points)


def test_missing_and_double_answers_never_change_a_denominator() -> None:
    benchmark_prompts = [
        BenchmarkPrompt(id="a", text="t", group="g", questions=(question("1"), question("2")))
    ]
    one = Answer(prompt_id="a", question_id="1", text="yes")
    with pytest.raises(DataError, match="a has no answer to question 2"):
        verdicts_by_prompt(benchmark_prompts, [one], zeroing="none")
    with pytest.raises(DataError, match="two answers to question 1"):
        verdicts_by_prompt(benchmark_prompts, [one, one], zeroing="none")


def test_means_by_prompt_by_question_and_by_category() -> None:
    benchmark_prompts = [
        BenchmarkPrompt(id="a", text="t", group="g", questions=(question("1"),)),
        BenchmarkPrompt(
            id="b",
            text="t",
            group="g",
            questions=(question("1"), question("2", "1"), question("3", category="colour")),
        ),
    ]
    said = {("a", "1"): "yes", ("b", "1"): "no", ("b", "2"): "yes", ("b", "3"): "yes"}
    answers = [Answer(prompt_id=p, question_id=q, text=text) for (p, q), text in said.items()]
    found = verdicts_by_prompt(benchmark_prompts, answers, zeroing="cascading")
    assert prompt_scores(found) == {"a": 1.0, "b": 1 / 3}
    points = measures.DSG.points(answers, found)
    assert measures.question_mean(points) == 0.5
    assert measures.DSG.prompt_scores(points) == prompt_scores(found)
    assert category_points(benchmark_prompts, points) == {
        "entity": {"a": (1, 1), "b": (0, 2)},
        "colour": {"b": (1, 1)},
    }


@pytest.mark.skipif(
    not (DSG / "mplug_dsg.csv").exists(), reason=f"DSG's released answers are not in {DSG}"
)
def test_released_answers_give_the_published_scores() -> None:
    """mPLUG-large on Stable Diffusion 2.1, answers released by DSG's authors.

    One item, tifa160_134, has no released answers; 1059 remain. DSG's rule (one level, mean over
    prompts) gives 83.12 there. DSG's program drops all dependencies of the ten items with words in
    a cell, ours only the words; on these answers that moves no figure at this precision. SELMA's
    rule (in the order of rows, mean over questions) gives 81.54, and so does ours in any order.
    """
    with (DSG / "mplug_dsg.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["t2i_model"] == "sd2dot1"]
    answers = [
        Answer(prompt_id=row["item_id"], question_id=row["question_id"], text=row["answer"])
        for row in rows
    ]
    answered_ids = {row["item_id"] for row in rows}
    whole = read_dsg(DSG / "dsg-1k-anns.csv")
    benchmark_prompts = [prompt for prompt in whole if prompt.id in answered_ids]
    assert (len(whole), sum(len(p.questions) for p in whole), len(benchmark_prompts)) == (
        1060,
        8182,
        1059,
    )
    assert {p.id for p in whole} - answered_ids == {"tifa160_134"}
    assert dependency_faults(whole)["names itself"] == 44
    assert dependency_faults(whole)["not an id"] == 10

    one_level = prompt_scores(verdicts_by_prompt(benchmark_prompts, answers, zeroing="one_level"))
    assert round(100 * sum(one_level.values()) / len(benchmark_prompts), 2) == 83.12
    assert round(100 * sum(one_level.values()) / len(whole), 1) == 83.0  # the missing item as 0
    random.Random(0).shuffle(answers)
    mixed = [
        p.model_copy(update={"questions": p.questions[::-1]}) for p in reversed(benchmark_prompts)
    ]
    verdicts = verdicts_by_prompt(mixed, answers, zeroing="cascading")
    points = measures.DSG.points(answers, verdicts)
    assert round(100 * measures.question_mean(points), 2) == 81.54

    by_source = [s for id, s in one_level.items() if id.startswith("vrd")]
    assert round(100 * sum(by_source) / len(by_source), 1) == 43.7


def many_answers() -> tuple[list[BenchmarkPrompt], list[Answer]]:
    draw = random.Random(3)
    prompts = [
        BenchmarkPrompt(id=f"p{n}", text="a dog", group="g", questions=tuple(CHAIN))
        for n in range(30)
    ]
    answers = [
        Answer(prompt_id=prompt.id, question_id=q.id, text=draw.choice(["yes", "no", "maybe"]))
        for prompt in prompts
        for q in prompt.questions
    ]
    return prompts, answers


def test_verdicts_in_turn_are_those_of_all_at_once() -> None:
    prompts, answers = many_answers()
    turns = verdicts_in_turn(prompts, iter(answers), zeroing="cascading")
    in_turn = {id: found for id, _, found in turns}
    assert in_turn == verdicts_by_prompt(prompts, answers, zeroing="cascading")
    assert list(in_turn) == [prompt.id for prompt in prompts]
    fewer = prompts[::2]
    only = [id for id, _, _ in verdicts_in_turn(fewer, answers, zeroing="none")]
    assert only == [prompt.id for prompt in fewer]


def test_verdicts_in_turn_hold_one_prompts_answers() -> None:
    prompts, answers = many_answers()
    taken: list[Answer] = []
    for id, of_prompt, _ in verdicts_in_turn(
        prompts, (taken.append(a) or a for a in answers), zeroing="none"
    ):
        assert {a.prompt_id for a in of_prompt} == {id}
        assert len(taken) <= (int(id[1:]) + 1) * len(CHAIN) + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a[:-1], "Prompt p29 has no answer to question 4"),
        (lambda a: a[4:], "Prompt p0 has no answer to question 1"),
        (lambda a: [a[0], *a], "Prompt p0 has two answers to question 1"),
        (lambda a: [*a, a[0]], "Prompt p0 has two answers to question 1"),
    ],
)
def test_verdicts_in_turn_lose_no_answer(change, words) -> None:
    prompts, answers = many_answers()
    with pytest.raises(DataError, match=words):
        list(verdicts_in_turn(prompts, change(answers), zeroing="none"))
