"""Images with their conditions, made ready once: squares of one size, with prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from selma.applications.control.conditions import edges
from selma.applications.control.records import ControlSample
from selma.applications.control.settings import Condition, ControlData
from selma.applications.control.sources import (
    SPLITS,
    Candidate,
    Split,
    candidates,
    source_digest,
)
from selma.backbones.hub import installed
from selma.backbones.perception.captioning import CaptionModel
from selma.errors import DataError
from selma.image_files import open_image, png_bytes
from selma.images.pairs import METADATA, rows
from selma.progress import progress
from selma.records.landmarks import Landmark
from selma.records.prompts import prompt_id
from selma.row_files import Row, fill_rows, write_rows
from selma.workspace import IMAGES, Workspace, inside, read_lines, write_bytes

NAME = "_control"
IMAGE_FOLDER, CONDITIONING_FOLDER = "color", "conditioning_image"
CAPTIONS = "captions.jsonl"
_ROUND = {"segmentation", "canny"}
"""Conditions whose colours mean something: they are never mixed."""


def prepare_control(
    data: ControlData, folder: Workspace, *, px: int, seed: int
) -> dict[Split, list[ControlSample]]:
    """Split → samples, from `2-images/_control/<condition>/<split>`, made if they are not there.

    px: side of the squares, the base's own. Raises DataError where the source cannot be read or
    gives nothing.
    """
    return {split: _prepared(data, folder, split, px=px, seed=seed) for split in SPLITS}


def _prepared(
    data: ControlData, folder: Workspace, split: Split, *, px: int, seed: int
) -> list[ControlSample]:
    recipe = _recipe(data, split, px=px, seed=seed)
    item = folder.item(IMAGES, NAME, data.condition, split, recipe=recipe)
    if item.done:
        return read_samples(item.path)
    path, started = item.begin(), time.monotonic()
    for name in (IMAGE_FOLDER, CONDITIONING_FOLDER):
        (path / name).mkdir(exist_ok=True)
    captioner = _captioner(data)
    most = data.most_train if split == "train" else data.most_val
    found = [
        _made(candidate, data, path, px)
        for candidate in _shown(islice(candidates(data, split, seed=seed), most), data.condition)
    ]
    if not found:
        raise DataError(f"control.data.source has no images for {split}; it needs at least one.")
    samples = _told(found, path, captioner)
    _write(path / METADATA, samples)
    (path / CAPTIONS).unlink(missing_ok=True)
    item.finish(
        [*(s.image for s in samples), *(s.conditioning_image for s in samples), path / METADATA],
        {"images": len(samples)},
    )
    seconds = round(time.monotonic() - started, 3)
    folder.journal(IMAGES, what=f"control {data.condition} {split}", seconds=seconds)
    return read_samples(path)


def read_samples(folder: Path) -> list[ControlSample]:
    """The samples of a finished split."""
    return [
        ControlSample(
            id=row["sample_id"],
            text=row["text"],
            image=inside(folder, row["file_name"]),
            conditioning_image=inside(folder, row["conditioning_image"]),
            source=row["source"],
            landmarks=None
            if row.get("landmarks") is None
            else tuple(Landmark.model_validate(point) for point in row["landmarks"]),
        )
        for row in rows(folder, ("file_name", "conditioning_image", "text", "sample_id", "source"))
    ]


def _recipe(data: ControlData, split: Split, *, px: int, seed: int) -> dict[str, Any]:
    """All that a split depends on; no path of this machine."""
    other = "most_val" if split == "train" else "most_train"
    settings = data.model_dump(mode="json", exclude={"captioner", other})
    settings["source"].pop("folder", None)
    captioner = _captioner(data)
    return {
        "data": settings,
        "split": split,
        "px": px,
        "seed": seed,
        "files": source_digest(data),
        "pillow": installed("pillow"),
        "opencv": installed("opencv-python-headless") if data.condition == "canny" else None,
        "captioner": captioner and captioner.identity,
    }


def _captioner(data: ControlData) -> CaptionModel | None:
    if data.captioner is None:
        return None
    return CaptionModel(data.captioner, setting="control.data.captioner")


def _shown(found: Iterator[Candidate], condition: Condition) -> Iterator[Candidate]:
    some = list(found)
    with progress(f"preparing {condition}", total=len(some)) as advance:
        for candidate in some:
            yield candidate
            advance()


def _made(candidate: Candidate, data: ControlData, path: Path, px: int) -> ControlSample:
    """Its squares, written where they are not there yet; the prompt may still be missing."""
    id = prompt_id(f"control {data.condition}", f"{candidate.name}\n{candidate.text}")
    image, conditioning_image = (
        path / IMAGE_FOLDER / f"{id}.png",
        path / CONDITIONING_FOLDER / f"{id}.png",
    )
    source_image = None
    if not image.exists() or not conditioning_image.exists():
        source_image = candidate.image()
        square = fitted(source_image, px)
        write_bytes(image, png_bytes(square))
        if candidate.conditioning_image is None:
            condition = edges(square, low=data.canny_low, high=data.canny_high)
        else:
            condition = fitted(
                candidate.conditioning_image(), px, mixed=data.condition not in _ROUND
            )
        write_bytes(conditioning_image, png_bytes(condition))
    points = candidate.landmarks
    if points is not None:
        points = _moved(points, (source_image or candidate.image()).size)
    return ControlSample(
        id=id,
        text=candidate.text or "",
        image=image,
        conditioning_image=conditioning_image,
        source=candidate.name,
        landmarks=points,
    )


def fitted(image: Image.Image, px: int, *, mixed: bool = True) -> Image.Image:
    """The middle square of the image, px a side. `mixed` pixels are averages; others are as they
    were, as colours of classes must be."""
    if image.size == (px, px):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    how = Image.Resampling.LANCZOS if mixed else Image.Resampling.NEAREST
    return image.resize((px, px), how, box=(left, top, left + side, top + side))


def _moved(points: Sequence[Landmark], size: tuple[int, int]) -> tuple[Landmark, ...]:
    """Points of an image as points of its middle square."""
    width, height = size
    side = min(size)
    return tuple(
        point.model_copy(
            update={
                "x": (point.x * width - (width - side) // 2) / side,
                "y": (point.y * height - (height - side) // 2) / side,
            }
        )
        for point in points
    )


def _told(
    samples: list[ControlSample], path: Path, captioner: CaptionModel | None
) -> list[ControlSample]:
    """The samples with a prompt each; captions are kept as they come, to go on from."""
    if captioner is None:
        if silent := [s.source for s in samples if not s.text.strip()]:
            raise DataError(
                f"Each image needs a prompt, but {len(silent)} have none ({silent[0]!r} first). "
                "Set control.data.captioner to have them written."
            )
        return samples

    def captioned(part: Sequence[ControlSample]) -> list[Row]:
        texts = captioner.caption([open_image(sample.image) for sample in part])
        return [{"text": text} for text in texts]

    jobs = {sample.id: sample for sample in samples}
    fill_rows(path / CAPTIONS, jobs, captioned, key="id", title="captioning", chunk=1)
    texts = {row["id"]: row["text"] for row in read_lines(path / CAPTIONS)}
    # An image that the captioner has no words for is generated without a prompt, as "an image".
    return [s.model_copy(update={"text": texts[s.id] or "a picture"}) for s in samples]


def _write(path: Path, samples: Sequence[ControlSample]) -> None:
    """One row for each sample, as an imagefolder with a conditioning column has it."""
    made = (
        {
            "file_name": f"{IMAGE_FOLDER}/{sample.image.name}",
            "conditioning_image": f"{CONDITIONING_FOLDER}/{sample.conditioning_image.name}",
            "text": sample.text,
            "sample_id": sample.id,
            "source": sample.source,
            "landmarks": None
            if sample.landmarks is None
            else [point.model_dump() for point in sample.landmarks],
        }
        for sample in samples
    )
    write_rows(path, made)
