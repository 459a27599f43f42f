"""Losses, pure. Symbols as in DDPM (arXiv:2006.11239): x0 clean, x_t noisy, ᾱ_t cumulative."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


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


# The scheduler's prediction_type → what the network should have said.
TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": epsilon,
    "v_prediction": velocity,
    "sample": sample,
}


def denoising_losses(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, [b], in float32; their mean is the paper's loss."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)
