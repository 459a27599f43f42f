"""How far a set of generated images is from another, by an image encoder's vectors. Pure.

Both distances compare two sets of vectors, whatever encoder they come from. The published ones use
Inception's; by another encoder the numbers mean the same and are not the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def kernel_parts(generated: Tensor, good: Tensor) -> Tensor:
    """[n], each generated image's part in the kernel distance, which is their mean (KID,
    arXiv:1801.01401: unbiased, so that it is 0 in the mean for equal distributions).

    drawn: [n > 1, width], good: [m > 1, width]; k(x, y) = (x·y / width + 1)³. A part is what the
    distance changes by with its image (the U-statistic's projection), so that the spread of the
    parts is that of the distance, and two models are compared prompt by prompt.
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
    """The distance of the two sets' normal distributions (FID, arXiv:1706.08500), by torchmetrics.

    drawn: [n > 1, width], good: [m > 1, width]. Biased upwards by few images: only numbers of
    equal n and equal good images compare.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Seen(torch.nn.Module):
        """What is handed in has been seen by an encoder already."""

        num_features = generated.shape[1]

        def forward(self, features: Tensor) -> Tensor:
            return features

    distance = FrechetInceptionDistance(feature=Seen())
    distance.set_dtype(torch.float64)
    distance.update(good.double(), real=True)
    distance.update(generated.double(), real=False)
    with torch.inference_mode():
        return max(float(distance.compute()), 0.0)  # equal sets end a rounding below


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3
