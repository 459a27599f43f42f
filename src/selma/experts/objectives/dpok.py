"""DPOK (arXiv:2305.16381): policy gradients against a learnt value of each state, with the distance
from the base's predictions as a penalty.

Its clip has no maximum with the unclipped term as PPO's has: a step whose ratio left the range has
no gradient on either side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selma.config.rewards import DpokObjective
from selma.errors import DataError
from selma.experts.learners import LearnerParts
from selma.experts.losses import denoising_losses
from selma.experts.rollouts import RolloutLearner
from selma.experts.rounds import RoundFiles, Tell
from selma.experts.trajectories import Trajectories
from selma.experts.value import ValueTraining
from selma.randomness import generator

if TYPE_CHECKING:
    from selma.backbones.families.paths import NoisePath
    from selma.experts.batches import Batch

VALUE = "value"


def bounded_losses(ratios: Tensor, advantages: Tensor, *, clip: float) -> Tensor:
    """[b]: -A clip(ρ, 1 - c, 1 + c).  ratios, advantages: [b]."""
    return -advantages * ratios.clamp(1 - clip, 1 + clip)


class DpokLearner(RolloutLearner):
    """Weights that learn which of their sampler's steps were better than expected."""

    def __init__(self, settings: DpokObjective, parts: LearnerParts) -> None:
        self.settings, self.trajectories = settings, Trajectories(settings, parts)
        super().__init__(settings, parts, self.trajectories.rollouts)

    def begin_round(
        self, files: RoundFiles, parameters: Mapping[str, nn.Parameter], tell: Tell
    ) -> None:
        super().begin_round(files, parameters, tell)
        self._learn_value(files)

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        trajectories, transitions, settings = self.trajectories, batch.indices, self.settings
        with self.weights.switched_off():
            base = trajectories.predicted(transitions, with_gradient=False)
        first = self.begins(step)
        ratios, predicted = trajectories.ratios(transitions, self.parameters, first=first)
        advantages = self._advantages(transitions).to(ratios.device)
        policy = bounded_losses(ratios, advantages, clip=settings.ratio_clip)
        distance = denoising_losses(predicted, base)
        return {
            "loss": settings.reward_weight * policy + settings.kl * distance,
            "kl": distance,
            "ratio": ratios,
            "reward": torch.full_like(ratios, self.rollouts.round.mean_reward),
        }

    def _advantages(self, transitions: Tensor) -> Tensor:
        """[b]: the reward, minus what was expected."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            expected = self._value.network(*self._seen(transitions))
        return self._rewards(transitions) - expected

    def _seen(self, transitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, text and step, as the value network sees them."""
        steps = self.trajectories.steps
        known = self.rollouts.conditioning(transitions // steps)
        text = known.text.mean(1) if known.pooled is None else known.pooled
        return self.trajectories.states(transitions), text, transitions % steps

    def _rewards(self, transitions: Tensor) -> Tensor:
        return self.rollouts.round.rewards[transitions // self.trajectories.steps]

    @cached_property
    def _value(self) -> ValueTraining:
        encoded = self.parts.encoded.conditioning
        text = encoded.text if encoded.pooled is None else encoded.pooled
        return ValueTraining(
            math.prod(self.model.latent_shape) + text.shape[-1],
            self.trajectories.steps,
            learning_rate=self.settings.value_learning_rate,
            seed=self.parts.batches.seed,
        )

    def _learn_value(self, files: RoundFiles) -> None:
        """One step of the value network by this round, or what it was after that."""
        after = files.state(VALUE)
        if after.exists():
            self._value.load(after)
            return
        if files.number > 1:
            before = files.state(VALUE, back=1)
            if not before.exists():
                raise DataError(
                    f"{before} must hold the value network, but is missing. Remove "
                    f"{files.expert} to train this expert anew."
                )
            self._value.load(before)
        count = len(self.rollouts.round.rows) * self.trajectories.steps
        stream = generator(self.parts.batches.seed, "experts", "value", files.number)
        minibatches = [
            torch.randint(0, count, (self.settings.value_batch,), generator=stream)
            for _ in range(self.settings.value_batches)
        ]
        self._value.step([(*self._seen(rows), self._rewards(rows)) for rows in minibatches])
        self._value.save(after)
        if files.number > 2:
            files.state(VALUE, back=2).unlink(missing_ok=True)
