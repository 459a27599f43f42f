"""Losses of the SUR-adapter (arXiv:2305.05189) between features, pure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selma.applications.sur.settings import Distance


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


def similarity_gaps(
    teacher: Tensor, student: Tensor, teacher_others: Tensor, student_others: Tensor
) -> Tensor:
    """[b], how differently teacher and student see which prompts are alike.

    The mean over r other prompts of the squared difference of two cosines, after the others' mean
    was taken from all vectors, as centred kernel alignment does (arXiv:1905.00414, section 3).
    teacher, student: [b, width], of any two widths.  teacher_others, student_others: [r, width].
    """

    def cosines(rows: Tensor, others: Tensor) -> Tensor:
        mean = others.float().mean(dim=0)
        first, second = (nn.functional.normalize(x.float() - mean, dim=-1) for x in (rows, others))
        return first @ second.mT

    gaps = cosines(student, student_others) - cosines(teacher, teacher_others)
    return gaps.square().mean(dim=-1)


def relative_gaps(teacher: Tensor, student: Tensor) -> Tensor:
    """[b], each sample's squared difference as a share of the teacher's square, in float32."""
    wanted = teacher.float()
    gap = (student.float() - wanted).square().flatten(1).sum(dim=1)
    return gap / wanted.square().flatten(1).sum(dim=1).clamp(min=1e-12)


def distance(
    teacher: Tensor,
    student: Tensor,
    teacher_mask: Tensor | None,
    student_mask: Tensor | None,
    how: Distance,
) -> Tensor:
    """[b] of features [b, tokens, width], of which the teacher's or both may have one token."""
    if how.tokens == "pooled":
        teacher = _pooled(teacher, teacher_mask)
        student = _pooled(student, student_mask)
    values = divergences(teacher, student, direction=how.direction, temperature=how.temperature)
    if values.shape[1] == 1:
        return values[:, 0]
    # Token by token, both must have one there; a single target is meant for each of the student's.
    both = student_mask
    if both is not None and teacher.shape[1] > 1 and teacher_mask is not None:
        both = both * teacher_mask
    return over_tokens(values, both, reduce=how.reduce)


def _pooled(features: Tensor, mask: Tensor | None) -> Tensor:
    return features if features.shape[1] == 1 else token_mean(features, mask)
