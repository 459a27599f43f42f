"""The networks of stage 5: judges, CLIP, preference scorers, the matcher of choices."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from selma.backbones.judges import loading as judging
from selma.backbones.judges import matching
from selma.backbones.judges.judge import Judge, Scorer
from selma.backbones.preference import scorers as preference
from selma.backbones.preference.scorers import PreferenceScorer
from selma.config.scores import AnyJudge, ScoresConfig
from selma.errors import ConfigError
from selma.scores.tifa import Matcher

SAME_WEIGHTS = (
    "scores.choosing_judge must be another judge than scores.judge, but both have the same "
    "weights: what it chose would look better than it is. Name a judge of other weights."
)


@dataclass(frozen=True)
class Loaders:
    """Functions that load each kind of network from its settings."""

    judge: Callable[..., Judge] = judging.load_judge
    scorer: Callable[[str], Scorer] = judging.load_scorer
    matcher: Callable[[str], Matcher] = matching.load_matcher
    preference: Callable[[Any], PreferenceScorer] = preference.load_preference


class ScoringNetworks:
    """The networks that a run's `scores` name, each loaded once, on first use."""

    def __init__(self, config: ScoresConfig, loaders: Loaders | None = None) -> None:
        self.config = config
        self.load = loaders or Loaders()

    @cached_property
    def judge(self) -> Judge:
        """The judge whose answers are reported."""
        return self.load.judge(self.config.judge)

    def judged_by(self, judge: AnyJudge) -> ScoringNetworks:
        """The same networks, except that this judge reports."""
        if judge == self.config.judge:
            return self
        others = copy(self)
        others.config = self.config.model_copy(update={"judge": judge})
        others.__dict__.pop("judge", None)
        return others

    @cached_property
    def second_judge(self) -> Judge:
        """The judge that chooses, and whose agreement with the first is reported."""
        return self.load.judge(self.config.choosing_judge)

    @property
    def choosing_judge(self) -> Judge:
        """The second judge. Raises ConfigError if it is the reporting one under another name."""
        same = self.second_judge.fingerprint == self.judge.fingerprint
        # Another wording has another fingerprint, but is no other judge.
        if same or judging.same_weights(self.config.judge, self.config.choosing_judge):
            raise ConfigError(SAME_WEIGHTS)
        return self.second_judge

    @cached_property
    def clip(self) -> Scorer | None:
        """The scorer of image and prompt; None if the settings name none."""
        return self.load.scorer(self.config.clip) if self.config.clip else None

    @cached_property
    def matcher(self) -> Matcher | None:
        """Finds the choice nearest to a free answer; None if the settings name none."""
        return self.load.matcher(self.config.matcher) if self.config.matcher else None
