"""DiffusionNFT (arXiv:2509.16117): a good image is denoised towards, a bad one away from.

Of the prediction v_θ and that of the weights that drew, v_old, it makes two models,
v⁺ = v_old + β (v_θ - v_old) and v⁻ = v_old - β (v_θ - v_old); both are asked for the image, by the
shares r and 1 - r. It needs finished images and rewards alone: no likelihood, no trajectory.

The paper has straight paths, x̂0 = x_t - t v. x̂0 is linear in the prediction on any path, and the
loss is one of x̂0, so that here epsilon and velocity bases learn by the same loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selma.config.rewards import NftObjective
from selma.experts.advantages import group_advantages
from selma.experts.learners import LearnerParts
from selma.experts.losses import denoising_losses
from selma.experts.rollouts import RolloutLearner, Rollouts
from selma.experts.rounds import RoundFiles, Tell

if TYPE_CHECKING:
    from selma.backbones.families.paths import NoisePath
    from selma.experts.batches import Batch

SMALLEST_ERROR = 1e-5

Predict = Callable[[], Tensor]


def optimality(advantages: Tensor, *, clip: float) -> Tensor:
    """r in [0, 1] of advantages clipped to ±clip; 1/2 is as good as its group.

    advantages: [n].
    """
    return 0.5 + advantages.clamp(-clip, clip) / (2 * clip)


def nft_losses(x0_now: Tensor, x0_old: Tensor, x0: Tensor, r: Tensor, *, beta: float) -> Tensor:
    """[b]: (r e⁺/w⁺ + (1 - r) e⁻/w⁻) / β, with e the mean squared error of a model's x̂0 and w its
    mean absolute one, through which no gradient goes.

    x0_now, x0_old, x0: [b, c, h, w], of the trained weights, those that drew, and the image.
    r: [b].
    """
    change = beta * (x0_now - x0_old)
    better = _relative_errors(x0_old + change, x0)
    worse = _relative_errors(x0_old - change, x0)
    return (r * better + (1 - r) * worse) / beta


def _relative_errors(x0_hat: Tensor, x0: Tensor) -> Tensor:
    errors = (x0_hat.float() - x0.float()).flatten(1)
    size = errors.detach().abs().mean(1).clamp(min=SMALLEST_ERROR)
    return errors.square().mean(1) / size


class NftLearner(RolloutLearner):
    """Weights that learn from the rewards of their own images."""

    def __init__(self, settings: NftObjective, parts: LearnerParts) -> None:
        self.settings = settings
        keep_old = settings.updates_per_round > 1
        super().__init__(
            settings, parts, Rollouts(settings, parts, draw=self._draw, keep_old=keep_old)
        )

    def begin_round(
        self, files: RoundFiles, parameters: Mapping[str, nn.Parameter], tell: Tell
    ) -> None:
        super().begin_round(files, parameters, tell)
        self.__dict__.pop("_optimality", None)

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        model, current, settings = self.model, self.rollouts.round, self.settings
        images = batch.indices
        x0 = current.drawn["latents"][images].to(model.device)
        r = self._optimality[images].to(model.device)
        noise, timesteps = batch.noise.to(model.device), batch.timesteps.to(model.device)
        noisy = noise_path.noisy(x0, noise, timesteps)
        conditioning = self.rollouts.conditioning(images).to(model.device).to(model.dtype)

        def predict() -> Tensor:
            predicted = model.family.denoise(
                model.denoiser, noisy.to(model.dtype), noise_path.times(timesteps), conditioning
            )
            return predicted.float()

        base = self._of_base(predict)
        old = self._of_old(predict, step)
        now = predict()
        x0_now = noise_path.clean(noisy, now, timesteps)
        x0_old = noise_path.clean(noisy, now.detach() if old is None else old, timesteps)
        # Times the clip, as released: the gradient then does not depend on it.
        losses = settings.clip * nft_losses(x0_now, x0_old, x0, r, beta=settings.beta)
        distance = losses.new_zeros(len(losses)) if base is None else denoising_losses(now, base)
        return {
            "loss": losses + settings.kl * distance,
            "kl": distance,
            "reward": torch.full_like(losses, current.mean_reward),
        }

    @cached_property
    def _optimality(self) -> Tensor:
        current = self.rollouts.round
        advantages = group_advantages(
            current.rewards, current.groups, deviation=self.settings.deviation
        )
        return optimality(advantages, clip=self.settings.clip)

    def _of_base(self, predict: Predict) -> Tensor | None:
        if not self.settings.kl:
            return None
        with torch.no_grad(), self.weights.switched_off():
            return predict()

    def _of_old(self, predict: Predict, step: int) -> Tensor | None:
        """What the weights that drew predict; None at a round's first step, which has them."""
        if self.begins(step):
            return None
        with torch.no_grad(), self.rollouts.old_weights(self.parameters):
            return predict()

    def _draw(self, rows: Tensor, seeds: Sequence[int], tell: Tell) -> dict[str, Tensor]:
        """By the base's own sampler, as any image is generated."""
        encoded, settings = self.parts.encoded, self.settings
        latents = []
        for each in self.model.generate_latents(
            encoded.conditioning.map(lambda part: part[rows]),
            encoded.empty,
            seeds=seeds,
            steps=settings.sampling_steps,
            guidance=settings.guidance,
            batch_size=settings.images_at_once,
        ):
            latents.append(each)
            tell(f"{len(latents)} of {len(seeds)} images")
        return {"latents": torch.stack(latents)}
