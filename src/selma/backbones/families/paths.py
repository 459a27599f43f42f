"""Paths from images to noise, pure. Symbols as in DDPM (arXiv:2006.11239): x0 clean, x_t noisy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class NoisePath(Protocol):
    """How noise is mixed into latents, and what the denoiser is to predict of the mixture."""

    @property
    def steps(self) -> int:
        """Timesteps are integers from 0 to below this."""
        ...

    def to(self, device: torch.device) -> NoisePath: ...

    def times(self, timesteps: Tensor) -> Tensor:
        """What the denoiser is told of these timesteps, [b]; the higher, the more noise."""
        ...

    def noisy(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t.  x0, noise: [b, c, h, w].  timesteps: [b]."""
        ...

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should predict of x_t, [b, c, h, w]."""
        ...

    def clean(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The x0 that a prediction of x_t means, [b, c, h, w]; linear in the prediction."""
        ...


def diffuse(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = √ᾱ_t x0 + √(1-ᾱ_t) ε.

    x0, noise: [b, c, h, w].  alpha_bar: [b] in (0, 1].
    """
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def epsilon(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """ε itself, as SD 1 and SDXL predict it."""
    return noise


def velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = √ᾱ_t ε - √(1-ᾱ_t) x0, as SD 2 predicts it (arXiv:2202.00512)."""
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt() * noise - (1 - a).sqrt() * x0


def sample(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x0 itself."""
    return x0


# The scheduler's prediction_type → what the network should have predicted.
TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": epsilon,
    "v_prediction": velocity,
    "sample": sample,
}


def clean_of(noisy: Tensor, prediction: Tensor, alpha_bar: Tensor, kind: str) -> Tensor:
    """x0 of a prediction of this kind: (x_t - √(1-ᾱ_t) ε) / √ᾱ_t, or √ᾱ_t x_t - √(1-ᾱ_t) v.

    noisy, prediction: [b, c, h, w].  alpha_bar: [b] in (0, 1].
    """
    a = alpha_bar.view(-1, 1, 1, 1)
    if kind == "epsilon":
        return (noisy - (1 - a).sqrt() * prediction) / a.sqrt()
    return a.sqrt() * noisy - (1 - a).sqrt() * prediction if kind == "v_prediction" else prediction


@dataclass(frozen=True)
class VariancePreserving:
    """DDPM's path, whose signal and noise have squares that add up to one."""

    alphas_bar: Tensor
    """ᾱ of each timestep, [steps]."""
    prediction: str

    @property
    def steps(self) -> int:
        return len(self.alphas_bar)

    def to(self, device: torch.device) -> VariancePreserving:
        return VariancePreserving(self.alphas_bar.to(device), self.prediction)

    def times(self, timesteps: Tensor) -> Tensor:
        return timesteps

    def noisy(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return diffuse(x0, noise, self.alphas_bar[timesteps])

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return TARGETS[self.prediction](x0, noise, self.alphas_bar[timesteps])

    def clean(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return clean_of(noisy, prediction, self.alphas_bar[timesteps], self.prediction)


def variance_preserving(scheduler: Mapping[str, Any], prediction: str) -> VariancePreserving:
    """The base's own noise schedule, as a DDPM's whatever sampler the base generates with."""
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(scheduler)
    return VariancePreserving(schedule.alphas_cumprod, prediction)


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines from images to noise, x_t = (1 - σ_t) x0 + σ_t ε, along which the denoiser
    predicts the velocity ε - x0 (arXiv:2403.03206, equations 2 and 13)."""

    sigmas: Tensor
    """σ of each timestep, [steps] in (0, 1], rising."""

    @property
    def steps(self) -> int:
        return len(self.sigmas)

    def to(self, device: torch.device) -> RectifiedFlow:
        return RectifiedFlow(self.sigmas.to(device))

    def times(self, timesteps: Tensor) -> Tensor:
        return self.sigmas[timesteps] * self.steps

    def noisy(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        sigma = self._of(timesteps)
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - x0

    def clean(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return noisy - self._of(timesteps) * prediction

    def _of(self, timesteps: Tensor) -> Tensor:
        return self.sigmas[timesteps].view(-1, 1, 1, 1)


def rectified_flow(scheduler: Mapping[str, Any]) -> RectifiedFlow:
    """The base's own times. A static shift is in them, σ' = sσ / (1 + (s-1) σ); one that depends on
    the image's size is not, as in diffusers' scripts."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    schedule = FlowMatchEulerDiscreteScheduler.from_config(scheduler)
    return RectifiedFlow(schedule.sigmas[: schedule.config.num_train_timesteps].flip(0))
