"""Vector art of the toybox: twelve tinted objects, six quiet backgrounds, and their composition.
Everything is drawn here with plain polygons at 8x and box-averaged down, so edges are smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import cos, pi, sin
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

IMAGE_PX = 64
KINDS = (
    "apple", "star", "heart", "tree", "flower", "fish", "bird", "dog", "cat", "car", "house", "cup",
)  # fmt: skip
BACKGROUNDS = ("grass", "sand", "snow", "night", "sky", "sea")
Pose = Literal["still", "sleeping", "jumping"]
POSES: tuple[Pose, ...] = get_args(Pose)

_OVERSAMPLING = 8
_INK: Rgb = (45, 40, 50)
_WHITE: Rgb = (250, 250, 250)
_CREAM: Rgb = (244, 228, 196)
_BARK: Rgb = (112, 72, 42)
_LEAF: Rgb = (62, 140, 58)
_BEAK: Rgb = (240, 150, 40)
_GLASS: Rgb = (186, 222, 242)
_LAMP: Rgb = (255, 226, 120)
_GREY: Rgb = (176, 176, 184)
_HAZE = 200


def _mix(rgb: Rgb, other: Rgb, share: float) -> Rgb:
    """The colour `share` (0..1) of the way from `rgb` to `other`."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(rgb, other, strict=True))
    return red, green, blue


def _oval(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    """48 points (x, y) round the ellipse inscribed in the given box."""
    angles = [2 * pi * step / 48 for step in range(48)]
    half_width, half_height = (right - left) / 2, (bottom - top) / 2
    return [(left + half_width * (1 + cos(a)), top + half_height * (1 + sin(a))) for a in angles]


def _smooth(corners: Points) -> Points:
    """8 points (x, y) per corner on the closed Catmull-Rom curve through all `corners`."""
    points = []
    count = len(corners)
    for index in range(count):
        before, start, end, after = (corners[(index + step) % count] for step in (-1, 0, 1, 2))
        for t in (step / 8 for step in range(8)):
            weights = (
                (-t + 2 * t**2 - t**3) / 2,
                (2 - 5 * t**2 + 3 * t**3) / 2,
                (t + 4 * t**2 - 3 * t**3) / 2,
                (t**3 - t**2) / 2,
            )
            knots = (before, start, end, after)
            x = sum(weight * knot[0] for weight, knot in zip(weights, knots, strict=True))
            y = sum(weight * knot[1] for weight, knot in zip(weights, knots, strict=True))
            points.append((x, y))
    return points


@dataclass(frozen=True)
class _Canvas:
    """A drawing surface in unit coordinates: (0, 0) top left, (1, 1) bottom right of the object."""

    draw: ImageDraw.ImageDraw
    rgb: Rgb
    origin: tuple[float, float]
    scale: float
    height: float = 1.0
    """Share of the scale along y: below 1 the object is flattened."""

    @property
    def light(self) -> Rgb:
        """The tint's highlight."""
        return _mix(self.rgb, (255, 255, 255), 0.5)

    @property
    def shade(self) -> Rgb:
        """The tint's shadow; kept mild, so that it is still the tint."""
        return _mix(self.rgb, _INK, 0.17)

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        left, top = self.origin
        width, height = self.scale, self.scale * self.height
        return [(left + width * x, top + height * y) for x, y in points]

    def part(self, left: float, top: float, scale: float, *, height: float = 1.0) -> _Canvas:
        """A rectangle of this canvas, with unit coordinates of its own."""
        down = self.scale * self.height
        corner = (self.origin[0] + self.scale * left, self.origin[1] + down * top)
        return replace(self, origin=corner, scale=self.scale * scale, height=self.height * height)

    def fill(self, points: Points, colour: Rgb | None = None, edge: bool = False) -> None:
        """A filled polygon, in the tint unless told; with `edge` an ink line runs round it."""
        self.draw.polygon(self._pixels(points), fill=(*(colour or self.rgb), 255))
        if edge:
            self.line([*points, points[0]])

    def line(self, points: Points, colour: Rgb = _INK, width: float = 0.045) -> None:
        """A polyline with round joints and round ends, `width` in unit coordinates."""
        pixels, thick = self._pixels(points), self.scale * width
        self.draw.line(pixels, fill=(*colour, 255), width=round(thick), joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            box = (x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2)
            self.draw.ellipse(box, fill=(*colour, 255))

    def dot(self, x: float, y: float, radius: float, colour: Rgb = _INK) -> None:
        """A filled disc."""
        self.fill(_oval(x - radius, y - radius, x + radius, y + radius), colour)


def _apple(c: _Canvas) -> None:
    c.line([(0.5, 0.4), (0.5, 0.2), (0.43, 0.04)], _BARK, 0.09)
    c.fill(_smooth([(0.54, 0.2), (0.66, 0.05), (0.9, 0.02), (0.8, 0.18)]), _LEAF)
    body = [(0.5, 0.32), (0.7, 0.23), (0.93, 0.34), (0.97, 0.6), (0.82, 0.9), (0.64, 0.99)]
    mirrored = [(1 - x, y) for x, y in reversed(body[1:])]
    c.fill(_smooth([*body, (0.5, 0.95), *mirrored]), edge=True)
    c.fill(_oval(0.16, 0.38, 0.32, 0.62), c.light)


def _star(c: _Canvas) -> None:
    radii_angles = [(0.525 if step % 2 == 0 else 0.26, pi * step / 5) for step in range(10)]
    c.fill([(0.5 + r * sin(a), 0.54 - r * cos(a)) for r, a in radii_angles])
    c.line([(0.5, 0.24), (0.44, 0.42), (0.3, 0.44)], c.light, 0.07)


def _heart(c: _Canvas) -> None:
    angles = [2 * pi * step / 60 for step in range(60)]
    across = [0.5 + 0.5 * sin(a) ** 3 for a in angles]
    height = [13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a) for a in angles]
    c.fill([(x, 0.42 - h / 29) for x, h in zip(across, height, strict=True)])
    c.fill(_oval(0.14, 0.16, 0.36, 0.38), c.light)


def _tree(c: _Canvas) -> None:
    c.fill([(0.4, 0.8), (0.6, 0.8), (0.6, 1.0), (0.4, 1.0)], _BARK)
    for top, bottom, half in ((0.42, 0.86, 0.5), (0.2, 0.6, 0.4), (0.0, 0.34, 0.28)):
        c.fill([(0.5, top), (0.5 + half, bottom), (0.5 - half, bottom)], edge=True)


def _flower(c: _Canvas) -> None:
    c.line([(0.5, 0.5), (0.5, 0.97)], _LEAF, 0.1)
    c.fill(_smooth([(0.52, 0.96), (0.62, 0.84), (0.84, 0.8), (0.75, 0.95)]), _LEAF)
    c.fill(_smooth([(0.48, 0.96), (0.38, 0.84), (0.16, 0.8), (0.25, 0.95)]), _LEAF)
    for step in range(5):
        x, y = 0.5 + 0.29 * sin(2 * pi * step / 5), 0.42 - 0.235 * cos(2 * pi * step / 5)
        c.fill(_oval(x - 0.215, y - 0.185, x + 0.215, y + 0.185), edge=True)
    c.fill(_oval(0.37, 0.29, 0.63, 0.55), _LAMP, edge=True)


def _fish(c: _Canvas) -> None:
    c.fill([(0.6, 0.54), (1.0, 0.14), (0.9, 0.54), (1.0, 0.94)], edge=True)
    c.fill(_smooth([(0.22, 0.3), (0.36, 0.04), (0.62, 0.1), (0.58, 0.36)]), c.shade)
    c.fill(_smooth([(0.0, 0.55), (0.14, 0.32), (0.38, 0.21), (0.6, 0.34), (0.78, 0.54),
                    (0.6, 0.76), (0.38, 0.89), (0.14, 0.78)]), edge=True)  # fmt: skip
    c.line([(0.36, 0.38), (0.42, 0.5), (0.42, 0.6), (0.36, 0.72)])
    c.dot(0.2, 0.48, 0.085, _WHITE)
    c.dot(0.19, 0.48, 0.05)


def _bird(c: _Canvas) -> None:
    for x in (0.42, 0.56):
        c.line([(x, 0.8), (x, 0.97), (x + 0.1, 0.97)], _BEAK, 0.06)
    c.fill([(0.8, 0.16), (1.0, 0.29), (0.8, 0.38)], _BEAK)
    c.fill(_smooth([(0.0, 0.38), (0.2, 0.46), (0.42, 0.4), (0.48, 0.12), (0.66, 0.0), (0.83, 0.09),
                    (0.86, 0.32), (0.84, 0.6), (0.62, 0.85), (0.36, 0.84), (0.14, 0.64)]),
           edge=True)  # fmt: skip
    c.fill(_smooth([(0.2, 0.54), (0.42, 0.46), (0.66, 0.5), (0.58, 0.68), (0.4, 0.7)]),
           c.shade, edge=True)  # fmt: skip
    c.dot(0.69, 0.2, 0.06)


def _dog(c: _Canvas) -> None:
    c.line([(0.12, 0.55), (0.04, 0.4), (0.05, 0.25)], c.rgb, 0.1)
    for left, right, colour in ((0.2, 0.33, c.shade), (0.51, 0.62, c.shade), (0.07, 0.24, c.rgb),
                                (0.6, 0.77, c.rgb)):  # fmt: skip
        c.fill([(left, 0.7), (right, 0.7), (right, 1.0), (left, 1.0)], colour)
    c.fill(_smooth([(0.08, 0.54), (0.2, 0.48), (0.5, 0.48), (0.78, 0.4), (0.8, 0.7), (0.74, 0.8),
                    (0.5, 0.76), (0.2, 0.8), (0.07, 0.74)]))  # fmt: skip
    c.fill(_smooth([(0.5, 0.12), (0.66, 0.03), (0.78, 0.12), (0.96, 0.22), (0.99, 0.36),
                    (0.82, 0.44), (0.6, 0.46), (0.48, 0.32)]))  # fmt: skip
    c.fill(_smooth([(0.54, 0.1), (0.6, 0.22), (0.58, 0.48), (0.46, 0.54), (0.38, 0.42),
                    (0.43, 0.16)]), c.shade, edge=True)  # fmt: skip
    c.dot(0.95, 0.24, 0.06)
    c.dot(0.72, 0.2, 0.045)


def _cat(c: _Canvas) -> None:
    for side in (-1, 1):
        c.fill([(0.5 + side * x, y) for x, y in ((0.46, 0.0), (0.12, 0.26), (0.48, 0.55))])
    c.fill(_oval(0.0, 0.2, 1.0, 1.0))
    for side in (-1, 1):
        c.fill([(0.5 + side * x, y) for x, y in ((0.4, 0.12), (0.24, 0.25), (0.39, 0.34))], c.shade)
        c.fill(_oval(0.5 + side * 0.21 - 0.065, 0.43, 0.5 + side * 0.21 + 0.065, 0.6), _INK)
        for y in (0.66, 0.76):
            c.line([(0.5 + side * 0.22, 0.69), (0.5 + side * 0.47, y - 0.01)], width=0.035)
        c.line([(0.5, 0.7), (0.5 + side * 0.06, 0.81), (0.5 + side * 0.13, 0.81)])
    c.fill([(0.42, 0.63), (0.58, 0.63), (0.5, 0.73)], (236, 130, 140), edge=True)


def _car(c: _Canvas) -> None:
    c.fill([(0.14, 0.5), (0.27, 0.1), (0.69, 0.1), (0.86, 0.5)])
    c.fill(_smooth([(0.03, 0.44), (0.5, 0.42), (0.9, 0.45), (1.0, 0.56), (0.98, 0.78), (0.5, 0.8),
                    (0.02, 0.78), (0.0, 0.56)]))  # fmt: skip
    c.fill([(0.25, 0.42), (0.33, 0.2), (0.45, 0.2), (0.45, 0.42)], _GLASS, edge=True)
    c.fill([(0.56, 0.42), (0.56, 0.2), (0.64, 0.2), (0.74, 0.42)], _GLASS, edge=True)
    for x in (0.23, 0.77):
        c.dot(x, 0.8, 0.16)
        c.dot(x, 0.8, 0.07, _GREY)
    c.dot(0.96, 0.57, 0.045, _LAMP)


def _house(c: _Canvas) -> None:
    c.fill([(0.72, 0.04), (0.86, 0.04), (0.86, 0.4), (0.72, 0.4)], c.shade)
    c.fill([(0.1, 0.42), (0.9, 0.42), (0.9, 1.0), (0.1, 1.0)])
    c.fill([(0.5, 0.0), (1.0, 0.47), (0.0, 0.47)], edge=True)
    c.fill([(0.2, 0.62), (0.42, 0.62), (0.42, 0.82), (0.2, 0.82)], _LAMP, edge=True)
    c.fill([(0.56, 0.62), (0.78, 0.62), (0.78, 1.0), (0.56, 1.0)], _BARK, edge=True)


def _cup(c: _Canvas) -> None:
    c.line(_oval(0.56, 0.3, 0.94, 0.74) + _oval(0.56, 0.3, 0.94, 0.74)[:1], c.rgb, 0.13)
    c.fill(_smooth([(0.0, 0.14), (0.0, 0.14), (0.4, 0.14), (0.78, 0.14), (0.78, 0.14), (0.76, 0.7),
                    (0.64, 0.97), (0.4, 1.0), (0.14, 0.97), (0.02, 0.7)]), edge=True)  # fmt: skip
    c.fill(_oval(0.0, 0.0, 0.78, 0.28), c.light, edge=True)
    c.fill(_oval(0.09, 0.08, 0.69, 0.25), _BARK)
    c.line([(0.15, 0.42), (0.17, 0.68)], c.light, 0.09)


_SHAPES: dict[str, Callable[[_Canvas], None]] = {
    "apple": _apple, "star": _star, "heart": _heart, "tree": _tree, "flower": _flower,
    "fish": _fish, "bird": _bird, "dog": _dog, "cat": _cat, "car": _car, "house": _house,
    "cup": _cup,
}  # fmt: skip


def _with_outline(drawing: Image.Image, radius: float) -> Image.Image:
    """`drawing` (RGBA) over its own silhouette in ink, grown by `radius` pixels all round."""
    pixels = np.asarray(drawing)
    # Ink grows no outline of its own: edge lines would make it half as thick again.
    solid = (pixels[:, :, 3] > 0) & (pixels[:, :, :3] != _INK).any(axis=2)
    grown = solid.copy()
    # Shifting by two circles of offsets is a round brush; the strokes are far wider than the gaps.
    for turn in range(32):
        for reach in (radius, radius / 2):
            shift = (round(reach * sin(pi * turn / 16)), round(reach * cos(pi * turn / 16)))
            grown |= np.roll(solid, shift, axis=(0, 1))
    outlined = Image.new("RGBA", drawing.size, (0, 0, 0, 0))
    outlined.paste((*_INK, 255), mask=Image.fromarray(grown))
    outlined.alpha_composite(drawing)
    return outlined


def _sleeping(shape: Callable[[_Canvas], None], c: _Canvas) -> None:
    """Lying flat, with two z above."""
    shape(c.part(0.0, 0.45, 0.95, height=0.58))
    for left, top, side in ((0.5, 0.22, 0.14), (0.74, 0.0, 0.22)):
        c.line([(left, top), (left + side, top), (left, top + side), (left + side, top + side)],
               _WHITE, 0.07)  # fmt: skip


def _jumping(shape: Callable[[_Canvas], None], c: _Canvas) -> None:
    """High above its shadow."""
    shape(c.part(0.13, 0.0, 0.74))
    c.fill(_oval(0.08, 0.88, 0.92, 1.0), _INK)


_POSED = {"sleeping": _sleeping, "jumping": _jumping}


@cache
def sprite(kind: str, rgb: Rgb, side_px: int, pose: Pose = "still") -> np.ndarray:
    """The image of one object: uint8 RGBA array [side_px, side_px, 4], read-only.

    `kind` is one of `KINDS`; `rgb` (0..255 each) fills its main area; alpha is not premultiplied.
    The object and its dark outline reach to about a pixel from the edges of the square.
    """
    shape = _SHAPES[kind]
    if pose == "still":
        return rendered(shape, rgb, side_px)
    return rendered(lambda canvas: _POSED[pose](shape, canvas), rgb, side_px)


def rendered(shape: Callable[[_Canvas], None], rgb: Rgb, side_px: int) -> np.ndarray:
    """As `sprite`, of whatever `shape` draws on the unit square."""
    # Below 24 px a line that shrinks with the object would fade away, so it stops at 0.8 px.
    outline_px = max(0.8, side_px / 24)
    margin_px = 0.9 + outline_px
    size = side_px * _OVERSAMPLING
    drawing = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas = _Canvas(
        draw=ImageDraw.Draw(drawing),
        rgb=rgb,
        origin=(margin_px * _OVERSAMPLING, margin_px * _OVERSAMPLING),
        scale=(side_px - 2 * margin_px) * _OVERSAMPLING,
    )
    shape(canvas)
    outlined = _with_outline(drawing, outline_px * _OVERSAMPLING)
    # Pillow averages RGBA premultiplied, so transparent black does not bleed into the edges.
    small = outlined.resize((side_px, side_px), Image.Resampling.BOX)
    pixels = np.array(small)
    pixels.flags.writeable = False
    return pixels


def _grass(c: _Canvas) -> None:
    c.fill([(0, 0), (1, 0), (1, 1), (0, 1)], (192, 221, 164))
    c.fill([(0, 0), (1, 0), (1, 0.2), (0, 0.24)], (216, 234, 240))
    for x, y in ((0.1, 0.42), (0.44, 0.36), (0.8, 0.46), (0.26, 0.68), (0.62, 0.66), (0.1, 0.92),
                 (0.46, 0.92), (0.88, 0.84)):  # fmt: skip
        c.line([(x - 0.03, y - 0.06), (x, y), (x + 0.03, y - 0.06)], (166, 201, 138), 0.018)


def _sand(c: _Canvas) -> None:
    c.fill([(0, 0), (1, 0), (1, 1), (0, 1)], (233, 215, 178))
    c.fill(_smooth([(-0.2, 0.62), (0.3, 0.55), (0.7, 0.66), (1.2, 0.58), (1.2, 1.2), (-0.2, 1.2)]),
           (226, 205, 163))  # fmt: skip
    for x, y in ((0.12, 0.14), (0.5, 0.08), (0.84, 0.22), (0.3, 0.36), (0.66, 0.44), (0.08, 0.54),
                 (0.46, 0.72), (0.88, 0.72), (0.2, 0.86), (0.66, 0.92)):  # fmt: skip
        c.dot(x, y, 0.014, (204, 180, 136))


def _snow(c: _Canvas) -> None:
    c.fill([(0, 0), (1, 0), (1, 1), (0, 1)], (214, 225, 240))
    c.fill(_oval(-0.4, 0.6, 0.8, 1.6), (230, 237, 247))
    c.fill(_oval(0.3, 0.7, 1.5, 1.6), (230, 237, 247))
    for x, y in ((0.12, 0.12), (0.42, 0.2), (0.74, 0.1), (0.92, 0.34), (0.24, 0.42), (0.6, 0.46),
                 (0.86, 0.58), (0.06, 0.58)):  # fmt: skip
        c.dot(x, y, 0.02, (242, 246, 252))


def _night(c: _Canvas) -> None:
    c.fill([(0, 0), (1, 0), (1, 1), (0, 1)], (74, 80, 138))
    for x, y in ((0.1, 0.14), (0.36, 0.08), (0.64, 0.2), (0.9, 0.1), (0.22, 0.4), (0.5, 0.46),
                 (0.82, 0.42), (0.08, 0.68), (0.38, 0.76), (0.7, 0.7), (0.92, 0.86),
                 (0.2, 0.92)):  # fmt: skip
        c.dot(x, y, 0.014, (222, 222, 190))


def _sky(c: _Canvas) -> None:
    c.fill([(0, 0), (1, 0), (1, 1), (0, 1)], (178, 213, 243))
    for x, y in ((0.04, 0.14), (0.52, 0.6)):
        for left, top, right in ((0.0, 0.08, 0.2), (0.1, 0.0, 0.3), (0.22, 0.06, 0.42)):
            c.fill(_oval(x + left, y + top, x + right, y + 0.2), (206, 228, 247))


def _sea(c: _Canvas) -> None:
    c.fill([(0, 0), (1, 0), (1, 1), (0, 1)], (118, 186, 188))
    for x, y in ((0.06, 0.12), (0.58, 0.2), (0.26, 0.38), (0.74, 0.48), (0.04, 0.64), (0.46, 0.72),
                 (0.72, 0.9), (0.14, 0.9)):  # fmt: skip
        wave = [(x + 0.01 * step, y + 0.022 * cos(pi * step / 5)) for step in range(21)]
        c.line(wave, (148, 206, 206), 0.022)


_SCENERY: dict[str, Callable[[_Canvas], None]] = {
    "grass": _grass, "sand": _sand, "snow": _snow, "night": _night, "sky": _sky, "sea": _sea,
}  # fmt: skip


@cache
def background(name: str) -> np.ndarray:
    """An empty scene, quiet and of low contrast: uint8 RGB array [64, 64, 3], read-only.

    `name` is one of `BACKGROUNDS`.
    """
    size = IMAGE_PX * _OVERSAMPLING
    drawing = Image.new("RGBA", (size, size))
    _SCENERY[name](_Canvas(ImageDraw.Draw(drawing), rgb=_WHITE, origin=(0, 0), scale=size))
    small = drawing.convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BOX)
    pixels = np.array(small)
    pixels.flags.writeable = False
    return pixels


@cache
def _layers(kind: str, rgb: Rgb, side_px: int, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """A sprite ready to blend: uint16 [side, side, 3] colour x alpha + 127, and 255 - alpha."""
    return _ready(sprite(kind, rgb, side_px, pose))


def _ready(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = drawn.astype(np.uint16)
    alpha = np.repeat(pixels[:, :, 3:], 3, axis=2)
    return pixels[:, :, :3] * alpha + 127, 255 - alpha


Sprite = tuple[str, Rgb, int, int, int, Pose]
"""(kind, rgb, side_px, left_px, top_px, pose)."""


def compose(background_name: str, placed: Sequence[Sprite]) -> np.ndarray:
    """A finished scene: uint8 RGB array [64, 64, 3], the caller's own to change.

    Later ones of `placed` cover earlier ones, and what lies outside the image is cut off. Integer
    arithmetic only: the same on every machine.
    """
    scene = background(background_name).copy()
    for kind, rgb, side_px, left, top, pose in placed:
        _lay(scene, *_layers(kind, rgb, side_px, pose), left, top)
    return scene


def soften(scene: np.ndarray) -> np.ndarray:
    """The scene as a poor image shows it, blurred and faded: uint8 RGB array [64, 64, 3].

    Integer arithmetic only, as in `compose`: a binomial blur of 5 pixels along both axes, then a
    fifth of the way to a light grey.
    """
    blurred = scene.astype(np.int64)
    for axis in (0, 1):
        width = [(2, 2) if side == axis else (0, 0) for side in range(3)]
        padded = np.pad(blurred, width, mode="edge")
        parts = (np.take(padded, range(k, k + IMAGE_PX), axis) for k in range(5))
        weighted = (w * part for w, part in zip((1, 4, 6, 4, 1), parts, strict=True))
        blurred = sum(weighted, start=np.zeros_like(blurred))
    return ((blurred * 4 // 256 + _HAZE + 2) // 5).astype(np.uint8)


def lay(scene: np.ndarray, drawn: np.ndarray, *, left_px: int, top_px: int) -> None:
    """Puts one sprite into the scene, as `compose` does."""
    _lay(scene, *_ready(drawn), left_px, top_px)


def _lay(scene: np.ndarray, colour: np.ndarray, through: np.ndarray, left: int, top: int) -> None:
    if min(left, top) < 0:
        colour = colour[max(-top, 0) :, max(-left, 0) :]
        through = through[max(-top, 0) :, max(-left, 0) :]
        left, top = max(left, 0), max(top, 0)
    window = scene[top : top + colour.shape[0], left : left + colour.shape[1]]
    height, width = window.shape[:2]
    # At most 255 * 255 + 127, which uint16 holds; the 127 rounds the division.
    window[:] = (window * through[:height, :width] + colour[:height, :width]) // 255
