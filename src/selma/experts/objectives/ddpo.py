"""DDPO (arXiv:2305.13301): a sampler's steps become likelier as their image is better than others
of its prompt, by no more than a clipped ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selma.config.rewards import DdpoObjective
from selma.experts.advantages import TINY
from selma.experts.finishing import REWARDS, ROUNDS
from selma.experts.learners import LearnerParts
from selma.experts.rollouts import RolloutLearner
from selma.experts.rounds import RoundFiles, Tell
from selma.experts.trajectories import Trajectories
from selma.record_files import read_rows
from selma.records.rows import Rewarded

if TYPE_CHECKING:
    from selma.backbones.families.paths import NoisePath
    from selma.experts.batches import Batch


def clipped_losses(ratios: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """[b]: max(-A ρ, -A clip(ρ, 1 - c, 1 + c)), PPO's.  ratios, advantages: [b]."""
    bounded = ratios.clamp(1 - clip, 1 + clip)
    return torch.maximum(-advantages * ratios, -advantages * bounded)


def prompt_advantages(
    rewards: Sequence[float],
    prompts: Sequence[str],
    known: Mapping[str, Sequence[float]],
    *,
    min_count: int,
) -> Tensor:
    """[n]: (r - mean) / deviation, of the prompt's known rewards where there are `min_count`, else
    of all these rewards.

    known: prompt → its last rewards, these among them.
    """
    advantages = []
    for reward, prompt in zip(rewards, prompts, strict=True):
        others = known[prompt] if len(known[prompt]) >= min_count else rewards
        of = torch.tensor(list(others), dtype=torch.float64)
        advantages.append((reward - of.mean()) / (of.std(correction=0) + TINY))
    return torch.stack(advantages).float()


class DdpoLearner(RolloutLearner):
    """Weights that learn which of their sampler's steps were good."""

    def __init__(self, settings: DdpoObjective, parts: LearnerParts) -> None:
        self.settings, self.trajectories = settings, Trajectories(settings, parts)
        super().__init__(settings, parts, self.trajectories.rollouts)
        self.advantages = torch.zeros(0)

    def begin_round(
        self, files: RoundFiles, parameters: Mapping[str, nn.Parameter], tell: Tell
    ) -> None:
        super().begin_round(files, parameters, tell)
        settings = self.settings
        rows = read_rows(files.folder / REWARDS, Rewarded)
        self.advantages = prompt_advantages(
            [row["reward"] for row in rows],
            [row["prompt"] for row in rows],
            last_rewards(files, settings.buffer),
            min_count=settings.min_count,
        ).clamp(-settings.clip, settings.clip)

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        trajectories, transitions = self.trajectories, batch.indices
        ratios, _ = trajectories.ratios(transitions, self.parameters, first=self.begins(step))
        advantages = self.advantages[transitions // trajectories.steps].to(ratios.device)
        clip = self.settings.ratio_clip
        return {
            "loss": clipped_losses(ratios, advantages, clip=clip),
            "ratio": ratios,
            "clipped": ((ratios - 1).abs() > clip).float(),
            "reward": torch.full_like(ratios, self.rollouts.round.mean_reward),
        }


def last_rewards(files: RoundFiles, count: int) -> dict[str, list[float]]:
    """Prompt → its last rewards up to this round, at most that many."""
    known: dict[str, list[float]] = {}
    for number in range(1, files.number + 1):
        for row in read_rows(files.expert / ROUNDS / f"{number:06d}" / REWARDS, Rewarded):
            known.setdefault(row["prompt"], []).append(row["reward"])
    return {prompt: rewards[-count:] for prompt, rewards in known.items()}
