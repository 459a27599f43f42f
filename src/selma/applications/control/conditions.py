"""Conditioning images: edges, colours of classes, points. Pure; what control's stages share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.errors import DataError, ModelError
from selma.records.landmarks import Landmark

Colour = tuple[int, int, int]
UNKNOWN = -1
"""A pixel whose colour is no class's."""
LEFT_OVER = 8
"""How far a channel may be from a class's colour: JPEG and resizing blur them."""


def edges(image: Image.Image, *, low: int, high: int) -> Image.Image:
    """Canny's edges, white on black, RGB. On all three channels, as the released code has it.

    Raises ModelError without opencv.
    """
    try:
        import cv2
    except ImportError as error:
        raise ModelError(
            "Canny's edges are found by the package opencv-python-headless: "
            "pip install 'selma[control]'."
        ) from error
    found = cv2.Canny(np.ascontiguousarray(image.convert("RGB")), low, high)
    return Image.fromarray(np.repeat(np.asarray(found)[:, :, None], 3, axis=2))


def is_edge(image: Image.Image) -> NDArray[np.bool_]:
    """[h, w] where an image of edges has one."""
    return np.asarray(image.convert("L")) > 127


def class_map(image: Image.Image, palette: Sequence[Colour]) -> NDArray[np.int16]:
    """[h, w] the class of each pixel by its colour, `UNKNOWN` where none is near."""
    pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    colours, place = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    away = np.abs(colours[:, None] - np.array(palette, dtype=np.int32)[None]).max(axis=2)
    nearest = away.argmin(axis=1)
    known = away[np.arange(len(colours)), nearest] <= LEFT_OVER
    classes = np.where(known, nearest, UNKNOWN).astype(np.int16)
    return classes[place.reshape(-1)].reshape(pixels.shape[:2])


def read_palette(path: Path) -> tuple[Colour, ...]:
    """The colours of classes 0, 1, ... in a JSON file [[r, g, b], ...]. Raises DataError."""
    try:
        rows = json.loads(path.read_text("utf-8"))
        colours = tuple((int(r), int(g), int(b)) for r, g, b in rows)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} must be a list of [red, green, blue], but: {error}.") from error
    if len(set(colours)) != len(colours) or not colours:
        raise DataError(f"{path} must have one colour of its own for each class.")
    return colours


def placed_points(points: Sequence[Sequence[float]], side: float) -> tuple[Landmark, ...]:
    """Points [x, y] in pixels of a square of this side, as landmarks named by their number."""
    return tuple(
        Landmark(name=str(number), x=float(x) / side, y=float(y) / side)
        for number, (x, y) in enumerate(points)
    )
