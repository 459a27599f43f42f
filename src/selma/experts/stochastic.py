"""Samplers with noise at every step, and the density of each step, pure.

Policy gradients need a probability of what was drawn. Densities are means over an image's elements,
not sums, as DDPO's code has them: the clip of its ratios belongs to that.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """What a sampler's next latents are drawn from: a Gaussian."""

    mean: Tensor
    """[b, c, h, w]."""
    deviation: Tensor
    """[b]."""

    def log_density(self, latents: Tensor) -> Tensor:
        """[b], the mean over an image's elements.  latents: [b, c, h, w]."""
        sigma = _wide(self.deviation)
        density = -((latents - self.mean) ** 2) / (2 * sigma**2) - sigma.log()
        return density.flatten(1).mean(1) - 0.5 * math.log(2 * math.pi)

    def at(self, noise: Tensor) -> Tensor:
        """The latents that standard normal noise means, [b, c, h, w]."""
        return self.mean + _wide(self.deviation) * noise


def ddim_step(
    latents: Tensor, x0: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor, *, eta: float = 1.0
) -> Step:
    """DDIM's step with noise (arXiv:2010.02502, equations 12 and 16); eta 1 is DDPM's.

    latents, x0: [b, c, h, w], x_t and what is predicted to be behind it; it works for epsilon and
    velocity alike, since ε = (x_t - √ᾱ_t x0) / √(1-ᾱ_t).  alpha_bar, alpha_bar_next: [b], of t and
    of the less noisy time after it.
    """
    a, b = _wide(alpha_bar), _wide(alpha_bar_next)
    noise = (latents - a.sqrt() * x0) / (1 - a).sqrt()
    variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
    mean = b.sqrt() * x0 + (1 - b - variance).clamp(min=0).sqrt() * noise
    return Step(mean, variance.flatten().sqrt())


def ddim_times(steps: int, train_timesteps: int) -> Tensor:
    """[steps + 1] timesteps, noisiest first, of evenly spaced steps that end at 0, so that the last
    one, too, has noise and a finite density. Raises ValueError unless there are fewer steps than
    timesteps.

    Steps are of one length with a last one that is less than twice as long, as DDPO's are; where
    whole timesteps do not go into the schedule so, all are rounded from even ones.
    """
    if not 0 < steps < train_timesteps:
        raise ValueError(f"steps must be 1 to {train_timesteps - 1}, but {steps} came")
    last, stride = train_timesteps - 1, train_timesteps // steps
    if last - stride * (steps - 1) < 2 * stride:
        times = last - stride * torch.arange(steps)
        return torch.cat([times, torch.zeros(1, dtype=times.dtype)])
    left = steps - torch.arange(steps + 1)
    return (2 * last * left + steps) // (2 * steps)  # rounded; halves up


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
