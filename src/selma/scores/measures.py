"""Measures: how a judge's answers become a benchmark's score, and what it is called. Pure.

    answer → a question's point → what its prompt earns → the benchmark's score

A benchmark's row (`benchmarks/`) names its measure; a new measure combines these functions or
others like them. Scores are in per cent, 0-100.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.scores import MeasureInfo
from selma.scores.faithfulness import Verdict, Verdicts

Points = Mapping[str, Mapping[str, float]]
"""Prompt id → question id → its point, 0..1."""
Over = Literal["prompts", "questions"]
Weigh = Callable[[Sequence[BenchmarkPrompt]], list[float]]
"""Prompts → what each weighs, above 0; see `Measure.weigh`."""


def expected(answer: Answer, verdict: Verdict) -> float:
    """1 for the expected answer, unless a dependency took its point; otherwise 0."""
    return float(verdict == "yes")


def by_itself(answer: Answer, verdict: Verdict) -> float:
    """1 for the expected answer, whatever it depends on; otherwise 0."""
    return float(verdict in ("yes", "zeroed"))


def chance(answer: Answer, verdict: Verdict) -> float:
    """The probability that the answer begins as a spelling of the expected one does: each first
    token once, and none that tells no answer from another."""
    # Each was rounded, so that all may be a little above 1.
    return min(1.0, sum({token: p for token, p in answer.first if token}.values()))


def chance_repeated(answer: Answer, verdict: Verdict) -> float:
    """`chance` summed over spellings instead: what begins two of them counts twice, so that it may
    be above 1."""
    return sum(p for _, p in answer.first)


def chance_of_first(answer: Answer, verdict: Verdict) -> float:
    """The probability that the answer begins as the first of the spellings does."""
    return answer.first[0][1]


def geometric(points: Sequence[float]) -> float:
    """The number of questions times the geometric mean of their points."""
    return len(points) * math.prod(points) ** (1 / len(points))


def product(points: Sequence[float]) -> float:
    """The number of questions times the product of their points."""
    return len(points) * math.prod(points)


def all_or_nothing(points: Sequence[float]) -> float:
    """The number of questions if each earned its point; otherwise 0."""
    return float(len(points)) if all(point == 1 for point in points) else 0.0


def question_mean(points: Points) -> float:
    """The mean point of all questions, 0..1: the average that SELMA reports. Prompts with many
    questions weigh more."""
    return sum(sum(row.values()) for row in points.values()) / sum(map(len, points.values()))


@dataclass(frozen=True)
class Measure:
    """How the answers to a benchmark's questions become its score."""

    about: MeasureInfo
    point: Callable[[Answer, Verdict], float] = expected
    """The point of a question, 0..1, from its answer and verdict."""
    earned: Callable[[Sequence[float]], float] = sum
    """What a prompt earns, out of the number of its questions, from their points."""
    over: Over = "prompts"
    """What the score is a mean over; over questions, a prompt weighs by their number."""
    weigh: Weigh | None = None
    """What prompts weigh where `over` cannot say it, as in a mean of the means of types."""
    category_point: Callable[[Answer, Verdict], float] | None = None
    """A question's point within its category; None is `point`."""
    last_image: bool = False
    """Whether categories are of the last image of each prompt alone."""

    @property
    def label(self) -> str:
        """What the scores are called: "DSG"."""
        return self.about.label

    def points(self, answers: Iterable[Answer], verdicts: Verdicts) -> dict[str, dict[str, float]]:
        """The points of all questions that have a verdict; 0 for a question without an answer."""
        return self._points(answers, verdicts, self.point)

    def category_points(
        self, answers: Iterable[Answer], verdicts: Verdicts
    ) -> dict[str, dict[str, float]]:
        """`points`, as categories count them."""
        return self._points(answers, verdicts, self.category_point or self.point)

    @staticmethod
    def _points(
        answers: Iterable[Answer], verdicts: Verdicts, point: Callable[[Answer, Verdict], float]
    ) -> dict[str, dict[str, float]]:
        answer_to = {(answer.prompt_id, answer.question_id): answer for answer in answers}
        return {
            id: {
                question: point(answer_to[id, question], verdict)
                if (id, question) in answer_to
                else 0.0
                for question, verdict in of_prompt.items()
            }
            for id, of_prompt in verdicts.items()
        }

    def prompt_scores(self, points: Points) -> dict[str, float]:
        """Prompt id → share of its points that it earned, 0..1."""
        return {id: self.earned([*row.values()]) / len(row) for id, row in points.items()}

    def weights(self, prompts: Sequence[BenchmarkPrompt]) -> list[float] | None:
        """What each prompt weighs in the score; None if all weigh alike."""
        if self.weigh is not None:
            return self.weigh(prompts)
        if self.over == "questions":
            return [float(len(prompt.questions)) for prompt in prompts]
        return None

    def question_weights(self, prompts: Sequence[BenchmarkPrompt]) -> dict[str, float]:
        """Prompt id → what each of its questions weighs within a category: all alike, unless the
        measure has weights of its own."""
        weights = self.weigh(prompts) if self.weigh is not None else None
        return {
            prompt.id: 1.0 if weights is None else weights[n] / len(prompt.questions)
            for n, prompt in enumerate(prompts)
        }

    def score(self, points: Points, prompts: Sequence[BenchmarkPrompt]) -> float:
        """The score, 0-100, of these prompts."""
        shares = self.prompt_scores(points)
        weights = self.weights(prompts) or [1.0] * len(prompts)
        total = sum(
            weight * shares[prompt.id] for prompt, weight in zip(prompts, weights, strict=True)
        )
        return 100 * total / sum(weights)


DSG = Measure(
    MeasureInfo(
        label="DSG",
        meaning="the share of yes/no questions about an image that are answered as a faithful one "
        "makes them, averaged over prompts",
        earns="a plain yes",
    )
)
"""arXiv:2310.18235: the mean over prompts, after zeroing by dependencies."""

TIFA = Measure(
    MeasureInfo(
        label="TIFA",
        meaning="the share of multiple-choice questions about an image that are answered as a "
        "faithful one makes them, averaged over prompts",
        earns="the right choice",
    )
)
"""arXiv:2303.11897: the mean over prompts; multiple choice, without dependencies."""
