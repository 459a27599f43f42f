"""Distances between two sets of images, by an image encoder's vectors. Pure.

The published distances use Inception's vectors; numbers by another encoder have the same meaning,
but do not compare with published ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def kernel_parts(generated: Tensor, good: Tensor) -> Tensor:
    """[n], each generated image's part in the kernel distance (KID, arXiv:1801.01401).

    The distance is the mean of the parts. It is unbiased: its expectation is 0 for equal
    distributions. generated: [n > 1, width], good: [m > 1, width]; k(x, y) = (x·y / width + 1)³.
    An image's part is its contribution (the U-statistic's projection), so that the parts spread as
    the distance does, and two models can be compared prompt by prompt.
    """
    generated, good = generated.double(), good.double()
    n, m = len(generated), len(good)
    among, across, goods = (
        _kernel(generated, generated),
        _kernel(generated, good),
        _kernel(good, good),
    )
    to_generated = (among.sum(dim=1) - among.diagonal()) / (n - 1)
    to_good = across.mean(dim=1)
    constant = (goods.sum() - goods.diagonal().sum()) / (m * (m - 1))
    return 2 * (to_generated - to_good) - to_generated.mean() + constant


def frechet_distance(generated: Tensor, good: Tensor) -> float:
    """Fréchet distance of fitted normal distributions (FID, arXiv:1706.08500), by torchmetrics.

    generated: [n > 1, width], good: [m > 1, width]. Few images bias it upwards: only numbers with
    equal n and equal good images compare.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        """Stands in for the encoder, whose vectors are given."""

        num_features = generated.shape[1]

        def forward(self, features: Tensor) -> Tensor:
            return features

    distance = FrechetInceptionDistance(feature=Identity())
    distance.set_dtype(torch.float64)
    distance.update(good.double(), real=True)
    distance.update(generated.double(), real=False)
    with torch.inference_mode():
        return max(float(distance.compute()), 0.0)  # rounding can put equal sets just below 0


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3
