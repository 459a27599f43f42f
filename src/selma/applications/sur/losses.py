"""Losses of the SUR-adapter (arXiv:2305.05189) between features, pure."""

from __future__ import annotations

import torch
from torch import Tensor


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
