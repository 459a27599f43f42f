"""ADE20K for scene parsing: photographs with maps of 150 classes, arXiv:1608.05442."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selma.applications.control.candidates import Candidate, Split, image_of, numbers_of
from selma.applications.control.conditions import NUMBER_COLOURS
from selma.applications.control.published.layout import Published, images_in, required
from selma.applications.control.settings import ControlData
from selma.records.data_sets import DataSet

FOLDERS: dict[Split, str] = {"train": "training", "val": "validation"}
CLASSES = 150


def _candidates(root: Path, data: ControlData, split: Split, seed: int) -> Iterator[Candidate]:
    """Numbers 1 to 150 are classes 0 to 149 of segmenters; 0 is what nobody named, and black."""
    maps = root / "annotations" / FOLDERS[split]
    for path in images_in(root / "images" / FOLDERS[split]):
        conditioning_image = None
        if data.condition == "segmentation":
            conditioning_image = numbers_of(required(maps / f"{path.stem}.png"), data)
        name = f"{FOLDERS[split]}/{path.name}"
        yield Candidate(name, image_of(path, data), conditioning_image, None)


ADE20K = Published(
    DataSet(
        "ade20k",
        "photographs with maps of 150 classes, for control by segmentation (OFT)",
        source="https://ade20k.csail.mit.edu",
        licence="images for non-commercial research and education, annotations BSD 3-Clause",
        after="unpack ADEChallengeData2016.zip, the scene parsing benchmark",
        layout="images/{training,validation}/NAME.jpg, annotations/{training,validation}/NAME.png",
        setting="control.data.source {kind: published, folder: ADEChallengeData2016}, canny or "
        "segmentation; prompts by control.data.captioner",
    ),
    signs=("images/training", "images/validation", "annotations/training"),
    conditions=("canny", "segmentation"),
    candidates=_candidates,
    palette=NUMBER_COLOURS[1 : CLASSES + 1],
)
