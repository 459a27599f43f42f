"""An image with its condition as a source has them, before they are prepared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.applications.control.conditions import NUMBER_COLOURS
from selma.applications.control.settings import ControlData
from selma.image_files import open_image
from selma.image_modes import Reading, Wide
from selma.randomness import rng
from selma.records.landmarks import Landmark
from selma.texts import printable

Item = TypeVar("Item")
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class Candidate:
    """An image as its source has it, of any size."""

    name: str
    """Its name in the source; never a path of the machine."""
    image: Callable[[], Image.Image]
    conditioning_image: Callable[[], Image.Image] | None
    """None if Canny's edges of the image are to be taken."""
    text: str | None
    landmarks: tuple[Landmark, ...] | None = None


def image_of(path: Path, data: ControlData) -> Callable[[], Image.Image]:
    """What opens an image."""
    return partial(open_image, path, reading=Reading(background=data.background))


def condition_of(path: Path, data: ControlData) -> Callable[[], Image.Image]:
    """What opens a conditioning image: it holds numbers, to which no colour profile applies."""
    wide: Wide = "type"
    if data.condition == "segmentation":
        wide = "as they are"
    elif data.condition == "depth":
        wide = data.depth_range or "own"
    reading = Reading(background=data.background, wide=wide, profile=False)
    return partial(open_image, path, reading=reading)


def numbers_of(path: Path, data: ControlData) -> Callable[[], Image.Image]:
    """What opens a map of class numbers 0..255, each in its colour of NUMBER_COLOURS."""
    plain = condition_of(path, data)
    return lambda: coloured(np.asarray(plain())[..., 0])


def coloured(numbers: NDArray[Any]) -> Image.Image:
    """Class numbers [h, w] in 0..255 as an image of their colours."""
    return Image.fromarray(np.array(NUMBER_COLOURS, dtype=np.uint8)[numbers])


def parted(items: Sequence[Item], split: Split, *, val: int, seed: int) -> list[Item]:
    """The split's share of items that come without splits: `val` are held out, by the seed."""
    order = list(range(len(items)))
    rng(seed, "control", "held out").shuffle(order)
    held_out = set(order[:val])
    return [item for n, item in enumerate(items) if (n in held_out) == (split == "val")]


def text_of(value: object) -> str | None:
    """A prompt without what cannot be shown; None where nothing is left."""
    text = printable(value) if isinstance(value, str) else ""
    return text if text.strip() else None
