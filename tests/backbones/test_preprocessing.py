"""Pictures as scorers see them: against transformers' own processor and against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from selma.backbones.preference.preprocessing import (
    longest_side_and_pad,
    normalised,
    shortest_side_and_crop,
    to_tensor,
)

SIZES = [(64, 64), (28, 28), (100, 37), (37, 101), (28, 61), (20, 20), (17, 55)]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    numbers = np.random.default_rng(seed)
    return Image.fromarray(numbers.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_shortest_side_and_crop_is_transformers_clip_processor(size: tuple[int, int]) -> None:
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    expected = theirs(noise(size), return_tensors="pt")["pixel_values"]
    ours = normalised([shortest_side_and_crop(noise(size), 28, crop="floor")])
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_an_odd_rest_is_cut_as_each_library_cuts_it() -> None:
    image = noise((8, 11))  # three rows too many: 1 or 2 of them go from the top
    whole = to_tensor(image)
    assert torch.equal(shortest_side_and_crop(image, 8, crop="floor"), whole[:, 1:9])
    assert torch.equal(shortest_side_and_crop(image, 8, crop="round"), whole[:, 2:10])


@pytest.mark.parametrize("size", SIZES)
def test_longest_side_and_pad_is_bicubic_on_floats_with_black_around(size: tuple[int, int]) -> None:
    image, side = noise(size), 28
    width, height = (round(length * side / max(size)) for length in size)
    # Pillow's filter on floats is bicubic with antialias, by another implementation.
    bands = [Image.fromarray(np.asarray(band, dtype=np.float32) / 255) for band in image.split()]
    fitted = [np.asarray(b.resize((width, height), Image.Resampling.BICUBIC)) for b in bands]
    expected = np.zeros((3, side, side), dtype=np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    expected[:, top : top + height, left : left + width] = fitted
    ours = longest_side_and_pad(image, side, antialias=True)
    torch.testing.assert_close(ours, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_without_antialias_a_smaller_image_is_another_one() -> None:
    smooth, rough = (longest_side_and_pad(noise((90, 90)), 28, antialias=a) for a in (True, False))
    assert rough.std() > 1.5 * smooth.std()  # noise is averaged away only by the former
    same = (longest_side_and_pad(noise((28, 20)), 28, antialias=a) for a in (True, False))
    assert torch.equal(*same)


def test_grey_and_transparent_images_become_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        assert longest_side_and_pad(Image.new(mode, (30, 20)), 28, antialias=True).shape == (
            3,
            28,
            28,
        )
        assert shortest_side_and_crop(Image.new(mode, (30, 20)), 28, crop="round").shape == (
            3,
            28,
            28,
        )
