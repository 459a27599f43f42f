"""COCO 2017: photographs with captions, and COCO-Stuff's maps; arXiv:1405.0312, 1612.03716."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selma.applications.control.candidates import (
    Candidate,
    Split,
    image_of,
    numbers_of,
    text_of,
)
from selma.applications.control.published.layout import Published, required
from selma.applications.control.settings import ControlData
from selma.errors import DataError
from selma.records.data_sets import DataSet
from selma.textfiles import read_text
from selma.workspace import inside

MAPS = "stuffthingmaps"


def _candidates(root: Path, data: ControlData, split: Split, seed: int) -> Iterator[Candidate]:
    """Each image once, with the first of its captions by their numbers."""
    folder = f"{split}2017"
    for name, text in _captioned(root / "annotations" / f"captions_{folder}.json"):
        image = required(inside(root / folder, name))
        conditioning_image = None
        if data.condition == "segmentation":
            file = inside(root / MAPS / folder, f"{image.stem}.png")
            conditioning_image = numbers_of(required(file), data)
        yield Candidate(f"{folder}/{name}", image_of(image, data), conditioning_image, text)


def _captioned(path: Path) -> list[tuple[str, str | None]]:
    """File name and caption of each image, in the order of the images' ids."""
    try:
        stored: Any = json.loads(read_text(path))
        names = {int(row["id"]): str(row["file_name"]) for row in stored["images"]}
        captions: dict[int, Any] = {}
        for row in sorted(stored["annotations"], key=lambda row: int(row["id"])):
            captions.setdefault(int(row["image_id"]), str(row["caption"]).strip())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} must have images with id and file_name, and annotations with id, image_id "
            f"and caption, but: {error!r}."
        ) from error
    return [(names[id], text_of(captions.get(id))) for id in sorted(names)]


COCO = Published(
    DataSet(
        "coco",
        "photographs with captions, for control by edges or COCO-Stuff's maps (OFT)",
        source="https://cocodataset.org",
        licence="annotations CC BY 4.0; each image has its own, of Flickr's",
        after="unpack train2017.zip, val2017.zip and annotations_trainval2017.zip into one folder, "
        f"and COCO-Stuff's stuffthingmaps_trainval2017.zip into its {MAPS} (for segmentation)",
        layout="{train,val}2017/NAME.jpg, annotations/captions_{train,val}2017.json, "
        f"{MAPS}/{{train,val}}2017/NAME.png",
        setting="control.data.source {kind: published, folder: F}, canny or segmentation",
    ),
    signs=("annotations/captions_train2017.json", "annotations/captions_val2017.json"),
    conditions=("canny", "segmentation"),
    candidates=_candidates,
)
