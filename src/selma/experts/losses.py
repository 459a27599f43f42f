"""Losses, pure."""

from __future__ import annotations

from torch import Tensor


def denoising_losses(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, [b], in float32; their mean is the paper's loss."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)
