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
from selma.backbones.preference.scorers import load_image_scorer
from selma.config.rewards import RewardedObjective
from selma.config.scores import ScoresConfig
from selma.errors import ModelError
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.prompts import Prompt
from selma.scores.accepting import shares_of, shares_recipe
from selma.scores.answering import answered, answers_of, warn_of_unread
from selma.scores.networks import ScoringNetworks
from selma.scores.soft import whole_prompt_questions

if TYPE_CHECKING:
    from PIL.Image import Image

Row = dict[str, Any]


def rewards(
    objective: RewardedObjective,
    config: ScoresConfig,
    networks: ScoringNetworks,
    asked: Mapping[str, Sequence[BenchmarkPrompt]],
) -> Callable[[str], Alone | WithScores]:
    """Skill → the reward of its images, which raises ConfigError if its judge is the reporting one.

    asked: skill → its prompts that have questions.
    """
    alone = _alone(objective, config, networks, asked)
    if not objective.also:
        return alone
    scorers = [(load_image_scorer(added.scorer), added.weight) for added in objective.also]
    return lambda skill: WithScores(alone(skill), scorers)


def _alone(
    objective: RewardedObjective,
    config: ScoresConfig,
    networks: ScoringNetworks,
    asked: Mapping[str, Sequence[BenchmarkPrompt]],
) -> Callable[[str], Alone]:
    if objective.reward == "questions":
        return lambda skill: AnsweredQuestions(asked[skill], config, networks)
    if objective.reward == "vqascore":
        return lambda skill: WholePrompts(config, networks)
    scored = ScoredImages(load_image_scorer(objective.reward))
    return lambda skill: scored


@dataclass(frozen=True)
class AnsweredQuestions:
    """The share of a prompt's questions that the choosing judge answers as expected."""

    asked: Sequence[BenchmarkPrompt]
    config: ScoresConfig
    networks: ScoringNetworks
    from_zero = True

    @property
    def recipe(self) -> dict[str, Any]:
        return shares_recipe(self.asked, self.config, self.networks)

    def knows(self, prompt: Prompt) -> bool:
        return prompt.id in self._asked_by_id

    def rows(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Row]:
        """The share, and every answer."""
        asked = [
            self._asked_by_id[prompt.id].model_copy(update={"id": str(number)})
            for number, prompt in enumerate(prompts)
        ]
        judge, words = self.networks.choosing_judge, self.config.choices_prompt
        warn_of_unread(judge, self.asked)
        rows = answered(judge, asked, images, words)
        shares = shares_of(asked, answers_of(rows), self.config, self.networks)
        return [{"reward": shares[row["prompt"]], "answers": row["answers"]} for row in rows]

    @cached_property
    def _asked_by_id(self) -> dict[str, BenchmarkPrompt]:
        return {prompt.id: prompt for prompt in self.asked}


@dataclass(frozen=True)
class WholePrompts:
    """The choosing judge's P(yes) to the question whether an image shows its whole prompt."""

    config: ScoresConfig
    networks: ScoringNetworks
    from_zero = True

    @property
    def recipe(self) -> dict[str, Any]:
        return {"vqascore": self._words, "judge": self.networks.choosing_judge.fingerprint}

    def knows(self, prompt: Prompt) -> bool:
        return True

    def rows(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Row]:
        """P(yes), and the answer. Raises ModelError of a judge that gives no probabilities."""
        judge = self.networks.choosing_judge
        plain = [
            BenchmarkPrompt(id=str(number), text=prompt.text, group=prompt.skill, questions=())
            for number, prompt in enumerate(prompts)
        ]
        rows = answered(judge, whole_prompt_questions(plain, self._words), images)
        if any(answer["yes"] is None for row in rows for answer in row["answers"]):
            raise ModelError(
                f"The reward vqascore needs a judge that gives probabilities, but {judge.name} "
                "gives none. Set another scores.choosing_judge, or another reward."
            )
        return [{"reward": row["answers"][0]["yes"], "answers": row["answers"]} for row in rows]

    @property
    def _words(self) -> str:
        return self.config.vqascore or "vqascore"


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


Alone = AnsweredQuestions | WholePrompts | ScoredImages


@dataclass(frozen=True)
class WithScores:
    """A reward to which scorers' scores, each times its weight, are added."""

    reward: Alone
    scorers: Sequence[tuple[Scorer, float]]
    from_zero = False

    @property
    def recipe(self) -> dict[str, Any]:
        also = [[scorer.fingerprint, weight] for scorer, weight in self.scorers]
        return {**self.reward.recipe, "also": also}

    def knows(self, prompt: Prompt) -> bool:
        return self.reward.knows(prompt)

    def rows(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Row]:
        """The reward's rows, with the sum as "reward" and its parts as "parts"."""
        rows = self.reward.rows(images, prompts)
        texts = [prompt.text for prompt in prompts]
        scores = [scorer.score(images, texts) for scorer, _ in self.scorers]
        summed = []
        for number, row in enumerate(rows):
            parts = [row["reward"], *(of[number] for of in scores)]
            weights = [1.0, *(weight for _, weight in self.scorers)]
            total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
            summed.append({**row, "reward": total, "parts": parts})
        return summed
