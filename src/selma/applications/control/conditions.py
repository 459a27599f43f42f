"""Conditioning images: edges, colours of classes, points. Pure, and shared by control's stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.errors import DataError, ModelError
from selma.records.landmarks import Landmark
from selma.textfiles import read_text

Colour = tuple[int, int, int]
UNKNOWN = -1
"""A pixel whose colour is no class's."""
TOLERANCE = 8
"""How far a channel may be from a class's colour: JPEG and resizing blur them."""


def _number_colours() -> tuple[Colour, ...]:
    """A colour for each number 0..255, any two of them 32 apart or more in a channel; 0 is black.

    A number's bits go to red, green and blue in turn, the lowest to the highest bit of a channel,
    as in the maps of PASCAL VOC.
    """
    return tuple(
        tuple(  # type: ignore[misc]
            sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))
            for channel in range(3)
        )
        for number in range(256)
    )


NUMBER_COLOURS = _number_colours()


def edges(image: Image.Image, *, low: int, high: int) -> Image.Image:
    """Canny's edges on all three channels, as in the released code; white on black, RGB.

    Raises ModelError without opencv.
    """
    try:
        import cv2
    except ImportError as error:
        raise ModelError(
            "Canny's edges are found by the package opencv-python-headless: "
            "pip install 'selma[control]'."
        ) from error
    canny = cv2.Canny(np.ascontiguousarray(image.convert("RGB")), low, high)
    return Image.fromarray(np.repeat(np.asarray(canny)[:, :, None], 3, axis=2))


def is_edge(image: Image.Image) -> NDArray[np.bool_]:
    """[h, w]: True at the edges of an image of edges."""
    return np.asarray(image.convert("L")) > 127


def class_map(image: Image.Image, palette: Sequence[Colour]) -> NDArray[np.int16]:
    """[h, w]: each pixel's class by its colour, `UNKNOWN` if none is near."""
    pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    colours, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    distances = np.abs(colours[:, None] - np.array(palette, dtype=np.int32)[None]).max(axis=2)
    nearest = distances.argmin(axis=1)
    known = distances[np.arange(len(colours)), nearest] <= TOLERANCE
    classes = np.where(known, nearest, UNKNOWN).astype(np.int16)
    return classes[index.reshape(-1)].reshape(pixels.shape[:2])


def read_palette(path: Path) -> tuple[Colour, ...]:
    """Read the colours of classes 0, 1, ... from a JSON file [[r, g, b], ...]. Raises DataError."""
    try:
        rows = json.loads(read_text(path))
        colours = tuple((int(r), int(g), int(b)) for r, g, b in rows)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} must be a list of [red, green, blue], but: {error}.") from error
    if len(set(colours)) != len(colours) or not colours:
        raise DataError(f"{path} must have one colour of its own for each class.")
    return colours


def placed_points(points: Sequence[Sequence[float]], side: float) -> tuple[Landmark, ...]:
    """Points [x, y] in pixels of a square of this side → landmarks named by their numbers."""
    return tuple(
        Landmark(name=str(number), x=float(x) / side, y=float(y) / side)
        for number, (x, y) in enumerate(points)
    )
