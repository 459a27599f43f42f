"""Prepare images and their conditions once: squares of one size, with prompts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from selma.applications.control.candidates import SPLITS, Candidate, Split
from selma.applications.control.conditions import edges
from selma.applications.control.records import ControlSample
from selma.applications.control.settings import (
    ConditionedFolder,
    ControlData,
    PublishedFolder,
    ToyboxImages,
)
from selma.applications.control.sources import (
    candidates,
    source_digest,
    unused,
)
from selma.backbones.perception.captioning import CaptionModel
from selma.disk import make_folder
from selma.errors import DataError
from selma.image_files import OPENER, open_image, png_bytes
from selma.image_names import say_left_out
from selma.imagefolders import METADATA, rows
from selma.plurals import counted
from selma.progress import progress
from selma.record_files import read_rows
from selma.records.landmarks import Landmark
from selma.records.prompts import prompt_id
from selma.records.rows import Caption
from selma.row_files import Row, fill_rows, write_rows
from selma.versions import OPENCV, versions
from selma.workspace import IMAGES, Workspace, inside, write_bytes

NAME = "_control"
IMAGE_FOLDER, CONDITIONING_FOLDER = "color", "conditioning_image"
CAPTIONS = "captions.jsonl"
IN_BOTH = "the same image is in val"
_COLUMNS = ("file_name", "conditioning_image", "text", "sample_id", "source")
_DISCRETE = {"segmentation", "canny"}
"""Conditions whose colours are classes, which must not be averaged."""


def prepare_control(
    data: ControlData, folder: Workspace, *, px: int, seed: int
) -> dict[Split, list[ControlSample]]:
    """Prepare both splits in `2-images/_control/<condition>/<split>`: split → samples.

    px: side of the squares, the base's image size. Raises DataError if the source cannot be read or
    is empty.
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
        make_folder(path / name)
    captioner = _captioner(data)
    samples, left_out = _squares(data, split, path, px=px, seed=seed)
    samples = _with_prompts(samples, path, captioner)
    _write(path / METADATA, samples)
    (path / CAPTIONS).unlink(missing_ok=True)
    item.finish(
        [*(s.image for s in samples), *(s.conditioning_image for s in samples), path / METADATA],
        {"images": len(samples)} | ({"left_out": left_out} if left_out else {}),
    )
    seconds = round(time.monotonic() - started, 3)
    folder.journal(IMAGES, what=f"control {data.condition} {split}", seconds=seconds)
    return read_samples(path)


def _squares(
    data: ControlData, split: Split, path: Path, *, px: int, seed: int
) -> tuple[list[ControlSample], dict[str, str]]:
    """The samples, and what is left out of the source: name → why."""
    most = data.most_train if split == "train" else data.most_val
    chosen = list(candidates(data, split, seed=seed))
    if not chosen:
        held = len(list(candidates(data, "val", seed=seed))) if split == "train" else 0
        because = (
            f"all {held} are held out as val, of which control.data.source.val has up to "
            f"{data.source.val}; set that lower"
            if held and isinstance(data.source, ConditionedFolder | PublishedFolder)
            else "it needs at least one"
        )
        raise DataError(f"control.data.source has no images for {split}: {because}.")
    held_out = _held_out(data, seed=seed) if split == "train" else frozenset()
    samples: list[ControlSample] = []
    left_out = unused(data, split)
    total = min(len(chosen), most or len(chosen))
    with progress(f"preparing {data.condition}", total=total) as advance:
        for candidate in chosen:
            if len(samples) == most:
                break
            sample = _prepared_sample(candidate, data, path, px, held_out)
            if sample is None:
                left_out[candidate.name] = IN_BOTH
            else:
                samples.append(sample)
                advance()
    if not samples:
        raise DataError(f"All images of train are in val, too: {len(chosen)}. Keep them apart.")
    say_left_out(f"control {data.condition}, {split}", len(samples), left_out)
    return samples, left_out


def read_samples(folder: Path) -> list[ControlSample]:
    """Read the samples of a finished split."""
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
        for row in rows(folder, _COLUMNS, own=True)
    ]


def _recipe(data: ControlData, split: Split, *, px: int, seed: int) -> dict[str, Any]:
    """All that a split depends on; no path of the machine."""
    other = "most_val" if split == "train" else "most_train"
    opening = {"background", "depth_range"}
    settings = data.model_dump(mode="json", exclude={"captioner", other, *opening})
    settings["source"].pop("folder", None)
    captioner = _captioner(data)
    return {
        "data": settings,
        "split": split,
        "px": px,
        "seed": seed,
        "files": source_digest(data),
        "opened": None
        if isinstance(data.source, ToyboxImages)
        else [OPENER, *data.model_dump(mode="json", include=opening).values()],
        "versions": versions((OPENCV,)) if data.condition == "canny" else {},
        "captioner": captioner and captioner.identity,
    }


def _captioner(data: ControlData) -> CaptionModel | None:
    if data.captioner is None:
        return None
    return CaptionModel(data.captioner, setting="control.data.captioner")


def _held_out(data: ControlData, *, seed: int) -> frozenset[str]:
    """What val's images show. Toybox's scenes are drawn by texts, of which none is in both."""
    if isinstance(data.source, ToyboxImages):
        return frozenset()
    images = (candidate.image() for candidate in candidates(data, "val", seed=seed))
    return frozenset(map(_content, images))


def _content(image: Image.Image) -> str:
    """Equal for equal pixels, in whatever file and row."""
    size = f"{image.width}x{image.height}\n".encode()
    return hashlib.sha256(size + image.tobytes()).hexdigest()


def _prepared_sample(
    candidate: Candidate, data: ControlData, path: Path, px: int, held_out: frozenset[str]
) -> ControlSample | None:
    """Write the squares that are missing; the prompt may still be empty. None for an image that is
    held out."""
    id = prompt_id(f"control {data.condition}", f"{candidate.name}\n{candidate.text}")
    image = path / IMAGE_FOLDER / f"{id}.png"
    conditioning_image = path / CONDITIONING_FOLDER / f"{id}.png"
    source_image = None
    if not image.exists() or not conditioning_image.exists():
        source_image = candidate.image()
        if held_out and _content(source_image) in held_out:
            return None
        square = fitted(source_image, px)
        write_bytes(image, png_bytes(square))
        if candidate.conditioning_image is None:
            condition = edges(square, low=data.canny_low, high=data.canny_high)
        else:
            condition = candidate.conditioning_image()
            _require_same_way_up(candidate.name, source_image, condition)
            condition = fitted(condition, px, smooth=data.condition not in _DISCRETE)
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


def _require_same_way_up(name: str, image: Image.Image, condition: Image.Image) -> None:
    """A camera's orientation may have been lost on the way to the conditioning image."""
    ways = [(part.width > part.height) - (part.width < part.height) for part in (image, condition)]
    if ways[0] * ways[1] < 0:
        raise DataError(
            f"{name} is {image.width}x{image.height} when it stands upright, but its conditioning "
            f"image is {condition.width}x{condition.height}. Save both the same way up."
        )


def fitted(image: Image.Image, px: int, *, smooth: bool = True) -> Image.Image:
    """Resize the image's middle square to this side; unless `smooth`, no colours are averaged."""
    if image.size == (px, px):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return image.resize((px, px), resampling, box=(left, top, left + side, top + side))


def _moved(points: Sequence[Landmark], size: tuple[int, int]) -> tuple[Landmark, ...]:
    """Landmarks of an image of this size, relative to its middle square."""
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


def _with_prompts(
    samples: list[ControlSample], path: Path, captioner: CaptionModel | None
) -> list[ControlSample]:
    """Give each sample a prompt; captions are stored one by one, so that a stop loses none."""
    if captioner is None:
        if missing := [s.source for s in samples if not s.text.strip()]:
            raise DataError(
                f"Each image needs a prompt, but {counted(len(missing), 'has', 'have')} none "
                f"({missing[0]!r} first). Set control.data.captioner to have them written."
            )
        return samples

    def captioned(part: Sequence[ControlSample]) -> list[Row]:
        texts = captioner.caption([open_image(sample.image) for sample in part])
        return [{"text": text} for text in texts]

    jobs = {sample.id: sample for sample in samples}
    fill_rows(path / CAPTIONS, jobs, captioned, key="id", title="captioning", chunk=1)
    texts = {row["id"]: row["text"] for row in read_rows(path / CAPTIONS, Caption)}
    # An empty caption becomes a prompt that says nothing about the image.
    return [s.model_copy(update={"text": texts[s.id] or "a picture"}) for s in samples]


def _write(path: Path, samples: Sequence[ControlSample]) -> None:
    """Write one row for each sample, an imagefolder's with a conditioning column."""
    rows = (
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
    write_rows(path, rows)
