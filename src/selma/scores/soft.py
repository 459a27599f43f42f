"""Scores from the judge's probabilities rather than its words. Pure.

- soft score: the mean probability of the expected answer, in DSG always yes, over a prompt's
  questions (like Soft-TIFA). Dependencies zero nothing: an unlikely parent makes its children
  unlikely anyway.
- VQAScore (arXiv:2404.01291): P(yes) to one question about the whole prompt, normalised over yes
  and no; the paper takes it over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from selma.backbones.judges.wordings import VQASCORE, wording
from selma.records.benchmarks import Answer, BenchmarkPrompt, Question
from selma.records.scores import Interval
from selma.scores import statistics

QUESTION_ID = "vqascore"


def soft_scores(
    answers: Iterable[Answer], benchmark_prompts: Sequence[BenchmarkPrompt] = ()
) -> dict[str, float]:
    """Prompt id → mean probability of the expected answer over its questions, 0..1, for prompts
    whose answers all have one.

    benchmark_prompts: where a question may expect no; without them all expect yes.
    """
    denied = {
        (prompt.id, question.id)
        for prompt in benchmark_prompts
        for question in prompt.questions
        if question.answer == "no"
    }
    chances: dict[str, list[float | None]] = {}
    for answer in answers:
        yes, no = answer.yes, (answer.prompt_id, answer.question_id) in denied
        chances.setdefault(answer.prompt_id, []).append(1 - yes if no and yes is not None else yes)
    return {
        id: sum(known) / len(known)
        for id, of_prompt in chances.items()
        if len(known := [chance for chance in of_prompt if chance is not None]) == len(of_prompt)
    }


def whole_prompt_questions(
    benchmark_prompts: Sequence[BenchmarkPrompt], named: str
) -> list[BenchmarkPrompt]:
    """The benchmark with one question about each whole prompt.

    named: a wording of `wordings.VQASCORE`, or one's own with {text}. Raises ConfigError.
    """
    words = wording(named, VQASCORE, key="scores.vqascore")
    return [
        prompt.model_copy(
            update={
                "questions": (
                    Question(
                        id=QUESTION_ID, text=words.format(text=prompt.text), category="global"
                    ),
                )
            }
        )
        for prompt in benchmark_prompts
    ]


def of_whole_prompts(
    scores: Mapping[str, float], asked: Sequence[BenchmarkPrompt], seeds: int
) -> dict[str, float]:
    """The scores of prompts whose `seeds` images all have one.

    asked: the prompts as `records.benchmarks.repeated` returns them.
    """
    complete = {}
    for start in range(0, len(asked), seeds):
        images = [prompt.id for prompt in asked[start : start + seeds]]
        if all(id in scores for id in images):
            complete.update({id: scores[id] for id in images})
    return complete


def soft_interval(
    scores: Mapping[str, float], *, seed: int, resamples: int = 10_000, seeds: int = 1
) -> Interval | None:
    """The mean in per cent with its interval over prompts; None if no prompt has a score.

    With several seeds, scores come from `of_whole_prompts`.
    """
    if not scores:
        return None
    percent = 100 * statistics.by_prompt(scores.values(), seeds)
    return statistics.interval(percent, seed=seed, resamples=resamples)


def soft_difference(
    after: Mapping[str, float],
    before: Mapping[str, float],
    *,
    seed: int,
    resamples: int = 10_000,
    seeds: int = 1,
) -> Interval | None:
    """The mean difference in per cent, paired over prompts with both scores; None without any."""
    both = [id for id in after if id in before]
    change = {id: after[id] - before[id] for id in both}
    return soft_interval(change, seed=seed, resamples=resamples, seeds=seeds)
