"""Scores from probabilities rather than words: how sure the judge is of what is expected. Pure.

- soft score: the mean probability of the expected answer over a prompt's questions (as Soft-TIFA).
  Every DSG question expects yes. No dependency zeroes anything: an unlikely parent makes its
  children unlikely by itself.
- VQAScore (arXiv:2404.01291): P(yes) to one question about the whole prompt. Here it is shared
  between yes and no alone, where the paper takes it out of the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selma.backbones.judges.wordings import VQASCORE, wording
from selma.records.benchmarks import Answer, BenchmarkPrompt, Question
from selma.records.scores import Interval
from selma.scores import statistics

QUESTION_ID = "vqascore"


def soft_scores(answers: Sequence[Answer]) -> dict[str, float]:
    """Prompt id → mean P(yes) over its questions, 0..1; only for prompts to whose questions all
    answers have a probability."""
    chances: dict[str, list[float | None]] = {}
    for answer in answers:
        chances.setdefault(answer.prompt_id, []).append(answer.yes)
    return {
        id: sum(known) / len(known)
        for id, of_prompt in chances.items()
        if len(known := [chance for chance in of_prompt if chance is not None]) == len(of_prompt)
    }


def whole_prompt_questions(
    benchmark_prompts: Sequence[BenchmarkPrompt], named: str
) -> list[BenchmarkPrompt]:
    """The benchmark with one question for each prompt, put by a wording of `wordings.VQASCORE` or
    one's own with {text}. Raises ConfigError."""
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
    """The scores of prompts whose `seeds` images all have one. asked: `records.repeated`."""
    complete = {}
    for start in range(0, len(asked), seeds):
        images = [prompt.id for prompt in asked[start : start + seeds]]
        if all(id in scores for id in images):
            complete.update({id: scores[id] for id in images})
    return complete


def soft_interval(
    scores: Mapping[str, float], *, seed: int, resamples: int = 10_000, seeds: int = 1
) -> Interval | None:
    """The mean in per cent with its interval over prompts; None where no prompt has a score. With
    several seeds, scores are as `of_whole_prompts` leaves them."""
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
    """Paired over the prompts that both have a score for."""
    both = [id for id in after if id in before]
    change = {id: after[id] - before[id] for id in both}
    return soft_interval(change, seed=seed, resamples=resamples, seeds=seeds)
