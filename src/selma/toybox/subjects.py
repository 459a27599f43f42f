"""Toybox's subjects: eight objects with features of their own, which pre-training never shows.

Each is one of toybox's kinds, so that its class has a word, with something that no sprite has:
bands, a hat, a scarf, a face. `write_subjects` leaves them in the layout of DreamBooth's dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image

from selma.image_files import png_bytes
from selma.paths import AnyPath, as_path
from selma.randomness import rng
from selma.toybox.captions import PLACES
from selma.toybox.drawing import (
    _CREAM,
    _GLASS,
    _GREY,
    _LAMP,
    _SHAPES,
    _WHITE,
    BACKGROUNDS,
    POSES,
    Points,
    Rgb,
    _Canvas,
    _oval,
    _smooth,
    background,
    lay,
    rendered,
)
from selma.toybox.scenes import CELL_PX, COLOURS, GRID_PX, SIDE_PX
from selma.workspace import write_bytes

TEXT = "prompts_and_classes.txt"
IMAGES = 5
"""Of each subject; four to six as in the benchmark."""
CORNERS_PX = tuple(
    CELL_PX * cell + shift for cell in (0, 1) for shift in range(0, CELL_PX - SIDE_PX + 1, GRID_PX)
)
"""Where an object's left or upper edge may lie, as in the scenes that the base is trained on."""

_NEIGHBOURS = (
    "a {} left of a red heart",
    "a {} right of a green tree",
    "a {} above a blue flower",
    "a {} below a yellow bird",
    "a {} left of a purple flower in the snow",
    "a {} right of a white heart in the sea",
    "a {} above a red bird on the grass",
    "a {} below a blue tree at night",
)
_OTHERWISE = (
    "a red {}",
    "a purple {}",
    "a {} and a green tree",
    "a {} and two blue hearts",
    "a drawing of a {}",
    "a picture of a {}",
)
_SEEN = (
    "in this image we can see a {}.",
    "this picture shows a {}. in the background there is night.",
    "{}, sand, vector art, highly detailed",
    "exactly one {} on the grass",
    "a strange picture of a {} at night",
)
OBJECT_PROMPTS = (
    *(f"a {{}} {place}" for place in PLACES.values()),
    *_NEIGHBOURS,
    *_OTHERWISE,
    *_SEEN,
)
"""The benchmark's themes in words that toybox knows: places, company, other looks. {} is token and
class."""
LIVE_PROMPTS = (
    *(f"a {pose} {{}}" for pose in POSES[1:]),
    "a sleeping {} on the grass",
    "a jumping {} in the snow",
    "a sleeping {} at night",
    "a jumping {} in the sea",
    *_NEIGHBOURS,
    *_OTHERWISE,
    *_SEEN,
)
"""The same for living subjects, who do something."""


@dataclass(frozen=True)
class ToyboxSubject:
    """What it is called, its class, its tint and how it is drawn."""

    name: str
    kind: str
    rgb: Rgb
    shape: Callable[[_Canvas], None]


def band(outline: Points, low: float, high: float, *, axis: int) -> list[tuple[float, float]]:
    """The part of a polygon with low <= x <= high (axis 0) or low <= y <= high (axis 1)."""
    points = [(float(x), float(y)) for x, y in outline]
    for bound, keep in ((low, 1), (high, -1)):
        cut = []
        for start, end in zip(points, points[1:] + points[:1], strict=True):
            inside = [keep * (p[axis] - bound) >= 0 for p in (start, end)]
            if inside[0]:
                cut.append(start)
            if inside[0] != inside[1]:
                t = (bound - start[axis]) / (end[axis] - start[axis])
                cut.append((start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])))
        points = cut
    return points


def _banded_apple(c: _Canvas) -> None:
    _SHAPES["apple"](c)
    body = [(0.5, 0.32), (0.7, 0.23), (0.93, 0.34), (0.97, 0.6), (0.82, 0.9), (0.64, 0.99)]
    mirrored = [(1 - x, y) for x, y in reversed(body[1:])]
    skin = _smooth([*body, (0.5, 0.95), *mirrored])
    for low in (0.4, 0.62, 0.84):
        c.fill(band(skin, low, low + 0.11, axis=1), _CREAM)


def _cat_in_a_hat(c: _Canvas) -> None:
    _SHAPES["cat"](c.part(0.14, 0.14, 0.8))
    c.fill([(0.28, 0.34), (0.72, 0.34), (0.72, 0.26), (0.28, 0.26)], COLOURS["purple"])
    c.fill([(0.36, 0.28), (0.64, 0.28), (0.64, 0.0), (0.36, 0.0)], COLOURS["purple"])
    c.fill([(0.36, 0.26), (0.64, 0.26), (0.64, 0.17), (0.36, 0.17)], _LAMP)


def _car_in_two_colours(c: _Canvas) -> None:
    _SHAPES["car"](c)
    roof = [(0.14, 0.5), (0.27, 0.1), (0.69, 0.1), (0.86, 0.5)]
    c.fill(band(roof, 0.0, 0.43, axis=1), COLOURS["green"])
    c.fill([(0.25, 0.42), (0.33, 0.2), (0.45, 0.2), (0.45, 0.42)], _GLASS, edge=True)
    c.fill([(0.56, 0.42), (0.56, 0.2), (0.64, 0.2), (0.74, 0.42)], _GLASS, edge=True)
    c.fill([(0.42, 0.46), (0.56, 0.46), (0.56, 0.76), (0.42, 0.76)], _WHITE)


def _dog_with_spots(c: _Canvas) -> None:
    _SHAPES["dog"](c)
    for x, y, radius in ((0.2, 0.6, 0.07), (0.38, 0.58, 0.06), (0.33, 0.72, 0.05),
                         (0.66, 0.7, 0.05)):  # fmt: skip
        c.dot(x, y, radius)
    c.fill([(0.5, 0.46), (0.78, 0.42), (0.8, 0.53), (0.52, 0.57)], COLOURS["red"])
    c.dot(0.72, 0.59, 0.06, _LAMP)


def _cup_with_a_heart(c: _Canvas) -> None:
    _SHAPES["cup"](c)
    angles = [2 * pi * step / 40 for step in range(40)]
    across = [0.38 + 0.21 * sin(a) ** 3 for a in angles]
    height = [13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a) for a in angles]
    c.fill([(x, 0.6 - h / 75) for x, h in zip(across, height, strict=True)], COLOURS["red"])


def _house_with_a_round_window(c: _Canvas) -> None:
    _SHAPES["house"](c)
    roof = [(0.5, 0.0), (1.0, 0.47), (0.0, 0.47)]
    for low in (0.12, 0.3):
        c.fill(band(roof, low, low + 0.09, axis=1), _WHITE)
    c.fill([(0.12, 0.54), (0.88, 0.54), (0.88, 1.0), (0.12, 1.0)])
    c.fill(_oval(0.3, 0.56, 0.7, 0.94), _LAMP, edge=True)
    c.line([(0.5, 0.56), (0.5, 0.94)])
    c.line([(0.3, 0.75), (0.7, 0.75)])


def _banded_fish(c: _Canvas) -> None:
    _SHAPES["fish"](c)
    body = _smooth([(0.0, 0.55), (0.14, 0.32), (0.38, 0.21), (0.6, 0.34), (0.78, 0.54),
                    (0.6, 0.76), (0.38, 0.89), (0.14, 0.78)])  # fmt: skip
    for low in (0.3, 0.5):
        stripe = band(body, low, low + 0.1, axis=0)
        c.fill(stripe, _WHITE, edge=True)
    c.fill(_smooth([(0.24, 0.28), (0.3, 0.05), (0.4, 0.18), (0.52, 0.07), (0.58, 0.3)]),
           COLOURS["blue"])  # fmt: skip


def _star_with_a_face(c: _Canvas) -> None:
    _SHAPES["star"](c)
    c.line([(0.5, 0.24), (0.44, 0.42), (0.3, 0.44)], c.rgb, 0.09)
    for x in (0.4, 0.6):
        c.dot(x, 0.5, 0.055)
        c.dot(x + (x - 0.5) * 0.9, 0.6, 0.05, COLOURS["red"])
    c.line([(0.42, 0.62), (0.46, 0.67), (0.54, 0.67), (0.58, 0.62)])
    for x, y in ((0.5, 0.06), (0.97, 0.4), (0.03, 0.4), (0.8, 0.95), (0.2, 0.95)):
        c.dot(0.5 + 0.86 * (x - 0.5), 0.54 + 0.86 * (y - 0.54), 0.06, _GREY)


SUBJECTS: tuple[ToyboxSubject, ...] = (
    ToyboxSubject("apple_banded", "apple", COLOURS["green"], _banded_apple),
    ToyboxSubject("car_two_coloured", "car", COLOURS["yellow"], _car_in_two_colours),
    ToyboxSubject("cat_hat", "cat", COLOURS["yellow"], _cat_in_a_hat),
    ToyboxSubject("cup_heart", "cup", COLOURS["white"], _cup_with_a_heart),
    ToyboxSubject("dog_spots", "dog", COLOURS["white"], _dog_with_spots),
    ToyboxSubject("fish_banded", "fish", COLOURS["red"], _banded_fish),
    ToyboxSubject("house_round_window", "house", COLOURS["blue"], _house_with_a_round_window),
    ToyboxSubject("star_face", "star", COLOURS["yellow"], _star_with_a_face),
)


def images(subject: ToyboxSubject, *, count: int = IMAGES) -> list[np.ndarray]:
    """The subject by itself on different backgrounds and at different places: uint8 RGB arrays
    [64, 64, 3], the same ones each time."""
    draws = rng(0, "toybox subject", subject.name)
    places: list[str] = []
    while len(places) < count:
        places += draws.sample(BACKGROUNDS, len(BACKGROUNDS))
    arrays = []
    for setting in places[:count]:
        left, top = (draws.choice(CORNERS_PX) for _ in range(2))
        scene = background(setting).copy()
        lay(scene, rendered(subject.shape, subject.rgb, SIDE_PX), left_px=left, top_px=top)
        arrays.append(scene)
    return arrays


def files(subject: ToyboxSubject) -> dict[str, bytes]:
    """File name → PNG."""
    return {
        f"{number:02d}.png": png_bytes(Image.fromarray(pixels))
        for number, pixels in enumerate(images(subject))
    }


def text() -> str:
    """Classes and prompts as the dataset's own text file has them."""

    def listed(prompts: tuple[str, ...]) -> str:
        lines = (f"'{p.format('{0} {1}')}'.format(unique_token, class_token)," for p in prompts)
        return "\n".join(("prompt_list = [", *lines, "]"))

    classes = "\n".join(f"{subject.name},{subject.kind}" for subject in SUBJECTS)
    return (
        f"Classes\n\nsubject_name,class\n{classes}\n\nPrompts\n\nObject Prompts\n\n"
        f"{listed(OBJECT_PROMPTS)}\n\nLive Subject Prompts\n\n{listed(LIVE_PROMPTS)}\n"
    )


def write_subjects(folder: AnyPath) -> Path:
    """The folder, with a folder of images for each subject and the text file."""
    folder = as_path(folder)
    for subject in SUBJECTS:
        (folder / subject.name).mkdir(parents=True, exist_ok=True)
        for name, data in files(subject).items():
            write_bytes(folder / subject.name / name, data)
    write_bytes(folder / TEXT, text().encode())
    return folder
