"""Losses, pure."""

from __future__ import annotations

import torch
from torch import Tensor

from selma.backbones.families.paths import NoisePath, RectifiedFlow
from selma.config.timesteps import TimestepsConfig
from selma.errors import ConfigError


def denoising_losses(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, [b], in float32; their mean is the paper's loss."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def require_weights(settings: TimestepsConfig, path: NoisePath, *, prior: bool) -> None:
    """Raise ConfigError where samples are to be weighted by a σ that they do not have."""
    if settings.weighting == "none":
        return
    if not isinstance(path, RectifiedFlow):
        raise ConfigError(
            f"experts.timesteps.weighting {settings.weighting} is for bases on straight lines to "
            "noise, but this base's path is another. Set it to none."
        )
    if prior:
        raise ConfigError(
            "experts.timesteps.weighting must be none where class images are trained on beside the "
            f"others, each at a timestep of its own, but is {settings.weighting}."
        )


def timestep_weights(settings: TimestepsConfig, path: NoisePath, timesteps: Tensor) -> Tensor:
    """How much the loss of a sample at each of these timesteps counts, [b]."""
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    if settings.weighting == "none" or not isinstance(path, RectifiedFlow):
        return torch.ones(timesteps.shape, device=timesteps.device)
    sigmas = path.sigmas[timesteps.to(path.sigmas.device)].to(timesteps.device)
    weights: Tensor = compute_loss_weighting_for_sd3(settings.weighting, sigmas)
    return weights
