"""CelebAMask-HQ: 30,000 faces of CelebA-HQ with a mask for each part, arXiv:1907.11922."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from selma.applications.control.candidates import (
    Candidate,
    Split,
    coloured,
    image_of,
    parted,
)
from selma.applications.control.published.layout import Published, images_in, required
from selma.applications.control.settings import ControlData, PublishedFolder
from selma.errors import DataError
from selma.image_files import open_image
from selma.records.data_sets import DataSet

IMAGES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
PARTS = (
    *("skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose"),
    *("mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat"),
)
"""Classes 1 to 18, each over those before it; 0 is the background."""
A_FOLDER = 2000
"""Faces whose masks lie in one folder."""


def _candidates(root: Path, data: ControlData, split: Split, seed: int) -> Iterator[Candidate]:
    assert isinstance(data.source, PublishedFolder)
    images = sorted(images_in(root / IMAGES), key=_number)
    for path in parted(images, split, val=data.source.val, seed=seed):
        conditioning_image = None
        if data.condition == "segmentation":
            conditioning_image = partial(_class_image, root, _number(path))
        yield Candidate(path.name, image_of(path, data), conditioning_image, None)


def _number(image: Path) -> int:
    if not image.stem.isdecimal():
        raise DataError(f"{image} must be named by its number, as 0.jpg.")
    return int(image.stem)


def _class_image(root: Path, number: int) -> Image.Image:
    """The face's map of classes, put together of its masks. Raises DataError without any skin."""
    folder = root / MASKS / str(number // A_FOLDER)
    classes = np.zeros(open_image(required(folder / f"{number:05d}_skin.png")).size[::-1], np.uint8)
    for part, name in enumerate(PARTS, 1):
        file = folder / f"{number:05d}_{name}.png"
        if file.is_file():
            mask = np.asarray(open_image(file))[..., 0] > 127
            if mask.shape != classes.shape:
                raise DataError(f"{file} must be as large as the face's other masks, but is not.")
            classes[mask] = part
    return coloured(classes)


CELEBA = Published(
    DataSet(
        "celeba-hq",
        "CelebAMask-HQ: faces with a mask for each part, for control by masks; landmarks are in "
        "oft-control (OFT)",
        source="https://github.com/switchablenorms/CelebAMask-HQ",
        licence="non-commercial research and education, not to be passed on",
        after="unpack CelebAMask-HQ.zip",
        layout=f"{IMAGES}/N.jpg, {MASKS}/M/N_PART.png",
        setting="control.data.source {kind: published, folder: CelebAMask-HQ, val: N}, canny or "
        "segmentation; prompts by control.data.captioner",
    ),
    signs=(IMAGES, MASKS),
    conditions=("canny", "segmentation"),
    candidates=_candidates,
)
