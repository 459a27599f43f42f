"""The Fréchet distance of two sets of features, as torchmetrics has it (arXiv:1706.08500)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _AsTheyAre(nn.Module):
    """Features that were taken before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """‖μ - μ'‖² + Tr(Σ + Σ' - 2 (Σ Σ')^½) of features [n, width] and [n', width], n of 2 or more.

    Depends on n: only sets of equal size are to be compared.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsTheyAre(real.shape[1]))
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    with torch.inference_mode():
        return round(max(float(metric.compute()), 0.0), 4)
