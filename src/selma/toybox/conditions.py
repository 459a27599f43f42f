"""Scene → its conditions: a map of classes, and points where its objects lie."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from selma.records.landmarks import Landmark
from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX, KINDS, sprite
from selma.toybox.scenes import COLOURS, Placed

CLASSES = (*KINDS, *BACKGROUNDS)
"""Of the map: what an object is, or what lies behind."""
DOT_PX = 3
_OPAQUE = 128  # of 255: a pixel belongs to the object that covers most of it


def _palette() -> tuple[tuple[int, int, int], ...]:
    """Kinds all around the wheel in two shades, backgrounds dark: no two are near."""
    colours = []
    for number in range(len(KINDS)):
        shade = (1.0, 1.0) if number % 2 else (0.6, 0.8)
        colours.append(colorsys.hsv_to_rgb(number / len(KINDS), *shade))
    for number in range(len(BACKGROUNDS)):
        colours.append(colorsys.hsv_to_rgb(number / len(BACKGROUNDS), 0.5, 0.3))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours)


PALETTE = _palette()
"""The colour of each of `CLASSES` in a map."""


def classes_of(background: str, placed: Sequence[Placed]) -> NDArray[np.int64]:
    """[64, 64] the class of each pixel; later objects cover earlier ones."""
    classes = np.full((IMAGE_PX, IMAGE_PX), CLASSES.index(background))
    for p in placed:
        opaque = sprite(p.kind, COLOURS[p.colour], p.side_px, p.pose)[:, :, 3] >= _OPAQUE
        here = classes[p.top_px : p.top_px + p.side_px, p.left_px : p.left_px + p.side_px]
        here[opaque] = CLASSES.index(p.kind)
    return classes


def class_image(background: str, placed: Sequence[Placed]) -> Image.Image:
    """The map in its colours, 64x64 RGB."""
    return Image.fromarray(np.array(PALETTE, dtype=np.uint8)[classes_of(background, placed)])


def landmarks(placed: Sequence[Placed]) -> tuple[Landmark, ...]:
    """The middle of each object, named by its kind."""
    return tuple(
        Landmark(
            name=p.kind,
            x=(p.left_px + p.side_px / 2) / IMAGE_PX,
            y=(p.top_px + p.side_px / 2) / IMAGE_PX,
        )
        for p in placed
    )


def landmark_image(points: Sequence[Landmark]) -> Image.Image:
    """A dot in its kind's colour at each point, on black, 64x64 RGB."""
    image = Image.new("RGB", (IMAGE_PX, IMAGE_PX))
    draw = ImageDraw.Draw(image)
    for point in points:
        x, y = point.x * IMAGE_PX, point.y * IMAGE_PX
        box = (x - DOT_PX, y - DOT_PX, x + DOT_PX - 1, y + DOT_PX - 1)
        draw.ellipse(box, fill=PALETTE[CLASSES.index(point.name)])
    return image
