"""Losses, pure. Symbols as in DDPM (arXiv:2006.11239): x0 clean, x_t noisy, ᾱ_t cumulative."""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def divergences(
    teacher: Tensor, student: Tensor, *, direction: str, temperature: float = 1.0
) -> Tensor:
    """KL between the softmaxes over the last axis, times temperature²; that axis is gone.

    direction: "teacher_student" is KL(teacher || student), that of distillation
    (arXiv:1503.02531); "student_teacher" is the SUR-adapter's released code. Shapes broadcast. In
    float32; temperature² keeps the gradient's size as temperature grows.
    """
    first, second = (
        (rows.float() / temperature).log_softmax(dim=-1)
        for rows in ((teacher, student) if direction == "teacher_student" else (student, teacher))
    )
    return (first.exp() * (first - second)).sum(dim=-1) * temperature**2


def over_tokens(values: Tensor, mask: Tensor | None, *, reduce: str) -> Tensor:
    """[b], the mean or sum over each prompt's tokens.

    values: [b, tokens].  mask: [b, tokens], True where a token counts, or None for all. 0 where no
    token counts.
    """
    counted = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    total = (values * counted).sum(dim=1)
    return total if reduce == "sum" else total / counted.sum(dim=1).clamp(min=1)


def token_mean(features: Tensor, mask: Tensor | None) -> Tensor:
    """[b, 1, width], the mean of the features [b, tokens, width] over the tokens that count."""
    if mask is None:
        return features.mean(dim=1, keepdim=True)
    counted = mask.to(features.dtype).unsqueeze(-1)
    return (features * counted).sum(dim=1, keepdim=True) / counted.sum(dim=1, keepdim=True).clamp(
        min=1
    )
