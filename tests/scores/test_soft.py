"""Scores from probabilities."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scores.colours import benchmark_prompts

from selma.errors import ConfigError
from selma.records.benchmarks import Answer
from selma.scores.soft import soft_difference, soft_interval, soft_scores, whole_prompt_questions


def answers(chances: dict[str, list[float | None]]) -> list[Answer]:
    return [
        Answer(prompt_id=id, question_id=str(n), text="yes", yes=chance)
        for id, found in chances.items()
        for n, chance in enumerate(found)
    ]


def test_a_prompts_score_is_the_mean_of_its_questions() -> None:
    assert soft_scores(answers({"a": [0.5, 1.0], "b": [0.25]})) == {"a": 0.75, "b": 0.25}


def test_a_prompt_with_an_unknown_probability_has_no_score() -> None:
    assert soft_scores(answers({"a": [0.5, None], "b": [0.25], "c": [None]})) == {"b": 0.25}
    assert soft_scores([]) == {}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.lists(st.floats(0, 1), min_size=1), min_size=1))
def test_scores_lie_between_the_least_and_the_most_likely(chances: dict[str, list[float]]) -> None:
    found = soft_scores(answers({id: list(some) for id, some in chances.items()}))
    assert set(found) == set(chances)
    for id, score in found.items():
        assert min(chances[id]) - 1e-12 <= score <= max(chances[id]) + 1e-12


def test_intervals_and_paired_differences() -> None:
    before, after = {"a": 0.2, "b": 0.4, "x": 0.9}, {"a": 0.4, "b": 0.6, "y": 0.1}
    whole = soft_interval(before, seed=0, resamples=500)
    assert whole is not None and whole.mean == 50 and whole.n == 3
    assert whole.low < 50 < whole.high
    change = soft_difference(after, before, seed=0, resamples=500)
    assert change is not None and (change.mean, change.n) == (20, 2)
    assert soft_interval({}, seed=0) is None
    assert soft_difference({"a": 1.0}, {"b": 1.0}, seed=0) is None


def test_whole_prompts_are_asked_about_in_named_words() -> None:
    prompts = benchmark_prompts(2)
    found = whole_prompt_questions(prompts, "vqascore")
    assert [prompt.id for prompt in found] == [prompt.id for prompt in prompts]
    text = prompts[0].text
    asked = f'Does this figure show "{text}"? Please answer yes or no.'
    assert [question.text for question in found[0].questions] == [asked]
    own = whole_prompt_questions(prompts, "Is this {text}?")
    assert own[0].questions[0].text == f"Is this {text}?"
    with pytest.raises(ConfigError, match=r"scores\.vqascore: must be one of plain, vqascore"):
        whole_prompt_questions(prompts, "Is this it?")
