"""DeepFashion-MultiModal: people with captions, dense pose and maps of 24 classes (Text2Human)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selma.applications.control.candidates import (
    Candidate,
    Split,
    condition_of,
    image_of,
    numbers_of,
    parted,
    text_of,
)
from selma.applications.control.published.layout import Published, images_in, required
from selma.applications.control.settings import ControlData, PublishedFolder
from selma.errors import DataError
from selma.records.data_sets import DataSet
from selma.textfiles import read_text

CAPTIONS = "captions.json"


def _candidates(root: Path, data: ControlData, split: Split, seed: int) -> Iterator[Candidate]:
    """Maps of classes are of the full-body images alone; for segmentation the others are out."""
    assert isinstance(data.source, PublishedFolder)
    captions = _captions(root / CAPTIONS)
    images = images_in(root / "images")
    if data.condition == "segmentation":
        images = [path for path in images if _map_of(root, path).is_file()]
    for path in parted(images, split, val=data.source.val, seed=seed):
        conditioning_image = None
        if data.condition == "densepose":
            file = root / "densepose" / f"{path.stem}_densepose.png"
            conditioning_image = condition_of(required(file), data)
        elif data.condition == "segmentation":
            conditioning_image = numbers_of(_map_of(root, path), data)
        text = text_of(captions.get(path.name))
        yield Candidate(path.name, image_of(path, data), conditioning_image, text)


def _map_of(root: Path, image: Path) -> Path:
    return root / "segm" / f"{image.stem}_segm.png"


def _captions(path: Path) -> dict[str, Any]:
    try:
        captions = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} must be JSON, but: {error}.") from error
    if not isinstance(captions, dict):
        raise DataError(f"{path} must map each image's name to its caption.")
    return captions


DEEPFASHION = Published(
    DataSet(
        "deepfashion",
        "DeepFashion-MultiModal: people with captions, for control by dense pose (OFT)",
        source="https://github.com/yumingj/DeepFashion-MultiModal",
        licence="DeepFashion's agreement: non-commercial research alone, not to be passed on",
        after="unpack images, densepose and segm into one folder, with captions.json beside them",
        layout="images/NAME.jpg, densepose/NAME_densepose.png, segm/NAME_segm.png, captions.json",
        setting="control.data.source {kind: published, folder: F, val: N}, canny, densepose or "
        "segmentation",
    ),
    signs=("images", CAPTIONS),
    conditions=("canny", "densepose", "segmentation"),
    candidates=_candidates,
)
