"""Scene → its conditions: maps of classes, depth and parts, a sketch, and points where its objects
lie."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from selma.records.landmarks import Landmark
from selma.toybox.drawing import (
    _INK,
    _OVERSAMPLING,
    _POSED,
    _SHAPES,
    BACKGROUNDS,
    IMAGE_PX,
    KINDS,
    Points,
    Pose,
    Rgb,
    _Canvas,
    lay,
    rendered,
    sprite,
)
from selma.toybox.scenes import COLOURS, Placed

CLASSES = (*KINDS, *BACKGROUNDS)
"""Of the map: what an object is, or what lies behind."""
DOT_PX = 3
_OPAQUE = 128  # of 255: a pixel belongs to the object that covers most of it
_PAPER: Rgb = (255, 255, 255)
_GROUND_NEAREST = 96  # of 255; the farthest is 0
_OBJECTS_FARTHEST = 112


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
PART_COLOURS = ((0, 0, 0), *((255 - 90 * row, 90 + 80 * column, 90 * row + 20 * column)
                             for row in range(3) for column in range(3)))  # fmt: skip
"""The colour of each part of a body; first that of no part."""


def classes_of(background: str, placed: Sequence[Placed]) -> NDArray[np.int64]:
    """[64, 64] the class of each pixel; later objects cover earlier ones."""
    classes = np.full((IMAGE_PX, IMAGE_PX), CLASSES.index(background))
    for p in placed:
        _window(classes, p)[_opaque(p)] = CLASSES.index(p.kind)
    return classes


def class_image(background: str, placed: Sequence[Placed]) -> Image.Image:
    """The map in its colours, 64x64 RGB."""
    return Image.fromarray(np.array(PALETTE, dtype=np.uint8)[classes_of(background, placed)])


def depth_image(placed: Sequence[Placed]) -> Image.Image:
    """How near each pixel is, 64x64 RGB in greys: white is nearest.

    The ground comes nearer towards the lower edge. Objects stand before it, nearer the lower they
    stand; each is as near as its lower edge everywhere.
    """
    rows = np.arange(IMAGE_PX) * _GROUND_NEAREST // (IMAGE_PX - 1)
    nearness = np.repeat(rows[:, None], IMAGE_PX, axis=1)
    for p in placed:
        foot = (p.top_px + p.side_px) * (255 - _OBJECTS_FARTHEST) // IMAGE_PX
        _window(nearness, p)[_opaque(p)] = _OBJECTS_FARTHEST + foot
    return Image.fromarray(nearness.astype(np.uint8)).convert("RGB")


def sketch_image(placed: Sequence[Placed]) -> Image.Image:
    """The objects' ink lines and outlines on white paper, 64x64 RGB."""
    paper = np.full((IMAGE_PX, IMAGE_PX, 3), 255, dtype=np.uint8)
    for p in placed:
        lay(paper, _line_art(p.kind, p.side_px, p.pose), left_px=p.left_px, top_px=p.top_px)
    return Image.fromarray(paper)


@cache
def _line_art(kind: str, side_px: int, pose: Pose) -> NDArray[np.uint8]:
    shape = _shape(kind, pose)
    return rendered(lambda canvas: shape(_Pen(**vars(canvas))), _PAPER, side_px)


@dataclass(frozen=True)
class _Pen(_Canvas):
    """A canvas on which all is paper that is not ink."""

    def fill(self, points: Points, colour: Rgb | None = None, edge: bool = False) -> None:
        super().fill(points, colour if colour == _INK else _PAPER, edge)

    def line(self, points: Points, colour: Rgb = _INK, width: float = 0.045) -> None:
        super().line(points, colour if colour == _INK else _PAPER, width)


def parts_of(placed: Sequence[Placed]) -> NDArray[np.int64]:
    """[64, 64] the part of a body that each pixel shows, 1 to 9, and 0 where none is.

    Parts are the body's thirds across and down, row by row, whichever its kind. A body that lies
    flat or is up in the air takes its parts along; shadows and sleep's letters belong to none.
    """
    parts = np.zeros((IMAGE_PX, IMAGE_PX), dtype=np.int64)
    for p in placed:
        body = _body_parts(p.kind, p.side_px, p.pose)
        _window(parts, p)[body > 0] = body[body > 0]
    return parts


def part_image(placed: Sequence[Placed]) -> Image.Image:
    """The parts in their colours on black, 64x64 RGB."""
    return Image.fromarray(np.array(PART_COLOURS, dtype=np.uint8)[parts_of(placed)])


@cache
def _body_parts(kind: str, side_px: int, pose: Pose) -> NDArray[np.int64]:
    bodies: list[_Canvas] = []

    def body_alone(canvas: _Canvas) -> None:
        aside = replace(canvas, draw=ImageDraw.Draw(Image.new("RGBA", (1, 1))))
        _posed(bodies.append, pose)(aside)
        _SHAPES[kind](replace(bodies[0], draw=canvas.draw))

    alpha = rendered(body_alone, _PAPER, side_px)[:, :, 3]
    (body,) = bodies
    middles = (np.arange(side_px) + 0.5) * _OVERSAMPLING
    (left, top), width, height = body.origin, body.scale, body.scale * body.height
    row, column = (
        np.clip((3 * (middles - start) / length).astype(int), 0, 2)
        for start, length in ((top, height), (left, width))
    )
    return np.where(alpha >= _OPAQUE, 1 + 3 * row[:, None] + column[None, :], 0)


def _shape(kind: str, pose: Pose) -> Callable[[_Canvas], None]:
    return _posed(_SHAPES[kind], pose)


def _posed(shape: Callable[[_Canvas], None], pose: Pose) -> Callable[[_Canvas], None]:
    return shape if pose == "still" else partial(_POSED[pose], shape)


def _opaque(p: Placed) -> NDArray[np.bool_]:
    return sprite(p.kind, COLOURS[p.colour], p.side_px, p.pose)[:, :, 3] >= _OPAQUE


def _window(image: NDArray[np.int64], p: Placed) -> NDArray[np.int64]:
    """The part of an image that an object covers, to be written to."""
    return image[p.top_px : p.top_px + p.side_px, p.left_px : p.left_px + p.side_px]


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
