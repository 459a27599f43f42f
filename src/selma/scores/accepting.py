"""Which candidates of training images a judge accepts, by their prompts' questions.

The choosing judge answers, which never reports. Every answer is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.backbones.judges.matching import matcher_identity
from selma.config.scores import ScoresConfig
from selma.records.benchmarks import Answer, BenchmarkPrompt, repeated
from selma.scores.answering import (
    answer_item,
    benchmark_hash,
    each_answer,
    has_choices,
    unread_recipe,
)
from selma.scores.faithfulness import points, verdicts_in_turn
from selma.scores.networks import ScoringNetworks
from selma.scores.tifa import match_choices
from selma.workspace import IMAGES, Workspace

ANSWERS = "_answers"


@dataclass(frozen=True)
class Accepting:
    """Implements `images.choosing.Accepting` with the networks of a run's `scores`."""

    asked: Mapping[str, Sequence[BenchmarkPrompt]]
    """Skill → its prompts that have questions."""
    config: ScoresConfig
    networks: ScoringNetworks
    folder: Workspace
    candidates: int
    """Images of each prompt, named as `repeated` names them."""

    def recipe(self, skill: str) -> dict[str, Any]:
        """All that the shares depend on beside the images. Raises ConfigError if the judge is the
        reporting one."""
        return shares_recipe(self.asked[skill], self.config, self.networks)

    def shares(self, skill: str, candidates: Path, *, what: str = ANSWERS) -> dict[str, float]:
        """Name of each candidate → share of its prompt's questions that earn their point.

        what: the folder of the answers."""
        asked = repeated(self.asked[skill], self.candidates)
        item = answer_item(
            asked,
            skill,
            candidates,
            self.networks.choosing_judge,
            self.folder,
            stage=IMAGES,
            what=what,
            words=self.config.choices_prompt,
        )
        return shares_of(asked, each_answer(item.path), self.config, self.networks)


def shares_recipe(
    asked: Sequence[BenchmarkPrompt], config: ScoresConfig, networks: ScoringNetworks
) -> dict[str, Any]:
    """All that shares by the choosing judge's answers depend on beside the images."""
    choices = has_choices(asked)
    matcher = config.matcher if choices else None
    return {
        "asked": benchmark_hash(asked),
        "judge": networks.choosing_judge.fingerprint,
        "zeroing": config.zeroing,
        "choices_prompt": config.choices_prompt if choices else None,
        "matcher": matcher and matcher_identity(matcher),
        **unread_recipe(networks.choosing_judge, asked),
    }


def shares_of(
    asked: Sequence[BenchmarkPrompt],
    answers: Iterable[Answer],
    config: ScoresConfig,
    networks: ScoringNetworks,
) -> dict[str, float]:
    """Prompt id → share of its questions that earn their point, in [0, 1]."""
    if has_choices(asked) and networks.matcher is not None:
        answers = match_choices(asked, list(answers), networks.matcher)
    shares = {
        id: points(verdicts) / len(verdicts)
        for id, _, verdicts in verdicts_in_turn(asked, answers, zeroing=config.zeroing)
    }
    return {prompt.id: shares[prompt.id] for prompt in asked}
