"""Rewards of training images: what an objective of stage 3 learns from.

The choosing judge answers, or a scorer says how near image and prompt are; the judge that reports
is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from selma.backbones.judges.judge import Scorer
from selma.backbones.judges.matching import matcher_identity
from selma.backbones.preference.scorers import load_image_scorer
from selma.config.rewards import RewardedObjective
from selma.config.scores import ScoresConfig
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.prompts import Prompt
from selma.scores.answering import answered, answers_of, benchmark_hash, has_choices
from selma.scores.faithfulness import prompt_scores, verdicts_by_prompt
from selma.scores.networks import ScoringNetworks
from selma.scores.tifa import match_choices

if TYPE_CHECKING:
    from PIL.Image import Image

Row = dict[str, Any]


def rewards(
    objective: RewardedObjective,
    config: ScoresConfig,
    networks: ScoringNetworks,
    asked: Mapping[str, Sequence[BenchmarkPrompt]],
) -> Callable[[str], AnsweredQuestions | ScoredImages]:
    """Skill → the reward of its images. asked: skill → its prompts that have questions.

    Raises ConfigError if the judge is the reporting one.
    """
    if objective.reward != "questions":
        scored = ScoredImages(load_image_scorer(objective.reward))
        return lambda skill: scored
    return lambda skill: AnsweredQuestions(asked[skill], config, networks)


@dataclass(frozen=True)
class AnsweredQuestions:
    """The share of a prompt's questions that the choosing judge answers as expected."""

    asked: Sequence[BenchmarkPrompt]
    config: ScoresConfig
    networks: ScoringNetworks
    from_zero = True

    @property
    def recipe(self) -> dict[str, Any]:
        choices = has_choices(self.asked)
        matcher = self.config.matcher if choices else None
        return {
            "asked": benchmark_hash(self.asked),
            "judge": self.networks.choosing_judge.fingerprint,
            "zeroing": self.config.zeroing,
            "choices_prompt": self.config.choices_prompt if choices else None,
            "matcher": matcher and matcher_identity(matcher),
        }

    def knows(self, prompt: Prompt) -> bool:
        return prompt.id in self._asked_by_id

    def rows(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Row]:
        """The share, and every answer."""
        asked = [
            self._asked_by_id[prompt.id].model_copy(update={"id": str(number)})
            for number, prompt in enumerate(prompts)
        ]
        judge, words = self.networks.choosing_judge, self.config.choices_prompt
        rows = answered(judge, asked, images, words)
        answers = answers_of(rows)
        if has_choices(asked) and self.networks.matcher is not None:
            answers = match_choices(asked, answers, self.networks.matcher)
        shares = prompt_scores(verdicts_by_prompt(asked, answers, zeroing=self.config.zeroing))
        return [{"reward": shares[row["prompt"]], "answers": row["answers"]} for row in rows]

    @cached_property
    def _asked_by_id(self) -> dict[str, BenchmarkPrompt]:
        return {prompt.id: prompt for prompt in self.asked}


@dataclass(frozen=True)
class ScoredImages:
    """A scorer's score of image and prompt."""

    scorer: Scorer
    from_zero = False

    @property
    def recipe(self) -> dict[str, Any]:
        return {"scorer": self.scorer.fingerprint}

    def knows(self, prompt: Prompt) -> bool:
        return True

    def rows(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Row]:
        scores = self.scorer.score(images, [prompt.text for prompt in prompts])
        return [{"reward": score} for score in scores]
