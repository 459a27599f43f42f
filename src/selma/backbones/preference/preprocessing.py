"""Images → tensors as three families of scorers want them. Torch is imported at first use.

Written out because their own code needs torchvision, and because its defaults changed: the same
image made smaller in another way is another image to a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from selma.image_modes import plain_rgb

if TYPE_CHECKING:
    from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_tensor(image: Image.Image) -> Tensor:
    """[3, h, w] in [0, 1]."""
    import torch

    pixels = torch.from_numpy(np.array(plain_rgb(image)))
    return pixels.permute(2, 0, 1).float() / 255


def shortest_side_and_crop(image: Image.Image, side: int, *, crop: str) -> Tensor:
    """[3, side, side] in [0, 1]: the shorter side made `side` by Pillow's bicubic, the middle kept.

    crop: where an odd rest goes. "floor" is transformers' way, "round" torchvision's (half to
    even).
    """
    width, height = image.size
    short = min(width, height)
    # The longer side is cut off, not rounded, in both libraries.
    new = (int(side * width / short), int(side * height / short))
    fitted = plain_rgb(image)
    if new != image.size:
        fitted = fitted.resize(new, Image.Resampling.BICUBIC)
    left, top = (
        (length - side) // 2 if crop == "floor" else round((length - side) / 2) for length in new
    )
    return to_tensor(fitted.crop((left, top, left + side, top + side)))


def longest_side_and_pad(image: Image.Image, side: int, *, antialias: bool) -> Tensor:
    """[3, side, side]: first a tensor, then its longer side made `side` by PyTorch's bicubic, then
    black around it. Values may leave [0, 1] a little, as bicubic overshoots and nothing clips.

    antialias: true is what torchvision does by default since 0.17, false what it did before.
    """
    import torch.nn.functional as F

    pixels = to_tensor(image)
    height, width = pixels.shape[1:]
    scale = side / max(height, width)
    new = (round(height * scale), round(width * scale))
    if scale != 1:
        pixels = F.interpolate(pixels[None], size=new, mode="bicubic", antialias=antialias)[0]
    down, right = side - new[0], side - new[1]
    return F.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))


def normalised(
    images: Sequence[Tensor],
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Tensor:
    """[b, 3, h, w]: each channel minus its mean, over its deviation."""
    import torch

    stacked = torch.stack(list(images))
    centre, width = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (stacked - centre) / width
