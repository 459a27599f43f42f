"""Degraded images: blurred, noisy, re-coloured, half drawn, as an unfinished model draws them."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor


def degrade(pixels: Tensor, rng: random.Random) -> Tensor:
    """Images [b, 3, h, w] in [-1, 1], each degraded in its own way or left as it is."""
    return torch.stack([_degrade_one(image, rng) for image in pixels]).clamp(-1, 1)


def _degrade_one(image: Tensor, rng: random.Random) -> Tensor:
    if rng.random() < 0.3:
        return image
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    if rng.random() < 0.4:
        image = _blur(image, rng.choice((2, 2, 3)))
    if rng.random() < 0.5:
        noise = torch.randn(image.shape, generator=generator)
        image = image + rng.uniform(0.02, 0.2) * noise
    if rng.random() < 0.4:
        # Broad stains, as latents leave them.
        stains = torch.randn((1, 3, 8, 8), generator=generator)
        stains = F.interpolate(stains, size=image.shape[-2:], mode="bilinear")[0]
        image = image + rng.uniform(0.03, 0.15) * stains
    if rng.random() < 0.3:
        image = image * rng.uniform(0.8, 1.1) + rng.uniform(-0.08, 0.08)
    return image


def _blur(image: Tensor, factor: int) -> Tensor:
    """Reduced by `factor` and enlarged again."""
    height, width = image.shape[-2:]
    small = F.interpolate(
        image[None], size=(height // factor, width // factor), mode="bilinear", antialias=True
    )
    return F.interpolate(small, size=(height, width), mode="bilinear")[0]
