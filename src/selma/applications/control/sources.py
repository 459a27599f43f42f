"""Where images with conditions come from: toybox, released and published layouts, imagefolders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from selma.applications.control.candidates import (
    Candidate,
    Split,
    condition_of,
    image_of,
    parted,
    text_of,
)
from selma.applications.control.conditions import Colour, placed_points
from selma.applications.control.published import published_at
from selma.applications.control.settings import (
    Condition,
    ConditionedFolder,
    ControlData,
    PublishedFolder,
    ReleasedFolder,
    ToyboxImages,
)
from selma.errors import ConfigError, DataError
from selma.image_names import list_images
from selma.imagefolders import TEXTS, metadata, rows
from selma.randomness import rng
from selma.records.landmarks import Landmark
from selma.textfiles import json_rows, read_text
from selma.toybox import WORLD
from selma.toybox import conditions as toybox
from selma.toybox.benchmark import benchmark_texts
from selma.toybox.captions import STYLES, caption
from selma.toybox.scenes import Placed, Scene, paint, place, sample_scene, without
from selma.workspace import file_sha256, inside

FOLDERS: dict[Condition, str] = {
    "canny": "canny",
    "segmentation": "segm",
    "landmarks": "landmark",
    "depth": "depth",
    "densepose": "densepose",
    "sketch": "sketch",
}
"""The released layout's folder of each condition. Without canny's, Canny makes the edges."""
CELEBA_PX = 1024  # side of the images that its landmarks refer to
_LEFT_OUT = {"colour": 0.1, "count": 0.1, "pose": 0.1, "relation": 0.2, "background": 0.2}


def candidates(data: ControlData, split: Split, *, seed: int) -> Iterator[Candidate]:
    """The images of one split, in the source's order. Raises DataError or ConfigError."""
    match data.source:
        case ToyboxImages() as source:
            yield from _toybox(source, data.condition, split, seed)
        case ReleasedFolder(folder=folder):
            root = _folder(folder)
            celeba = root / "celeba-hq-img"
            yield from (_celeba if celeba.is_dir() else _released)(root, data, split)
        case PublishedFolder(folder=folder):
            root = _folder(folder)
            yield from published_at(root).read(root, data, split, seed)
        case ConditionedFolder() as source:
            yield from _conditioned(source, data, split, seed)


def palette_of(data: ControlData) -> tuple[Colour, ...] | None:
    """The colours of a segmenter's classes in the source's maps, where the source tells them."""
    match data.source:
        case ToyboxImages():
            return toybox.PALETTE
        case PublishedFolder(folder=folder):
            return published_at(_folder(folder)).palette
    return None


def source_digest(data: ControlData) -> str:
    """A digest of the source's texts and of the names and sizes of its images; independent of its
    path. Of toybox, its world."""
    if isinstance(data.source, ToyboxImages):
        return f"toybox {WORLD}"
    total, root = hashlib.sha256(), _folder(data.source.folder)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        label = path.relative_to(root).as_posix()
        text = path.suffix.lower() in TEXTS
        total.update(f"{label} {file_sha256(path) if text else path.stat().st_size}\n".encode())
    return total.hexdigest()


def unused(data: ControlData, split: Split) -> dict[str, str]:
    """Files of an imagefolder's split that no column of its metadata names: name → why they are
    not used. The released layouts have folders of other conditions, too."""
    if not isinstance(data.source, ConditionedFolder):
        return {}
    folder, is_own = _split_folder(_folder(data.source.folder), split)
    if not is_own and split == "val":
        return {}  # told of train
    named = {
        PurePosixPath(value).as_posix()
        for row in rows(folder, ("file_name",))
        for value in row.values()
        if isinstance(value, str)
    }
    listing = list_images(folder, deep=True)
    names = (path.relative_to(folder).as_posix() for path in listing.images)
    left_out = dict.fromkeys((name for name in names if name not in named), "no row names it")
    left_out |= listing.left_out
    left_out.pop(metadata(folder).name, None)
    return left_out


def _split_folder(root: Path, split: Split) -> tuple[Path, bool]:
    """Where a split's rows are, and whether they are its alone."""
    train = root / "train" if (root / "train").is_dir() else root
    val = next((root / name for name in ("val", "validation") if (root / name).is_dir()), None)
    return (train if split == "train" or val is None else val), val is not None


def _toybox(
    source: ToyboxImages, condition: Condition, split: Split, seed: int
) -> Iterator[Candidate]:
    """Scenes with captions. No text is a benchmark's, and none is in both splits."""
    texts, wanted = set(benchmark_texts()), source.val + (source.train if split == "train" else 0)
    count = number = 0
    while count < wanted:  # the first are val, so that val does not depend on the size of train
        number += 1
        if number > 1000 * wanted:
            raise DataError(f"toybox has fewer than {wanted} different scenes for this seed.")
        draw = rng(seed, "control", number)
        scene = replace(sample_scene(draw), finish="crisp")  # whose lines conditions are read from
        described = without(scene, rng=draw, drop=_LEFT_OUT)
        text = caption(described, draw.choice(STYLES), draw)
        if text.lower() in texts:
            continue
        texts.add(text.lower())
        count += 1
        if (split == "val") == (count <= source.val):
            yield _scene(
                f"toybox scene {number} of seed {seed}", scene, text, condition, seed, number
            )


def _scene(
    name: str, scene: Scene, text: str, condition: Condition, seed: int, number: int
) -> Candidate:
    assert scene.background is not None  # a sampled scene leaves nothing open
    placed = place(scene, rng(seed, "control", number, "places"))
    points = toybox.landmarks(placed)
    conditioning_image: dict[Condition, Callable[[], Image.Image]] = {
        "segmentation": partial(toybox.class_image, scene.background, placed),
        "landmarks": partial(toybox.landmark_image, points),
        "depth": partial(toybox.depth_image, placed),
        "densepose": partial(toybox.part_image, placed),
        "sketch": partial(toybox.sketch_image, placed),
    }
    image = partial(_painted, scene, placed)
    return Candidate(name, image, conditioning_image.get(condition), text, points)


def _painted(scene: Scene, placed: list[Placed]) -> Image.Image:
    return Image.fromarray(paint(scene, placed))


def _released(root: Path, data: ControlData, split: Split) -> Iterator[Candidate]:
    """<split>/color/, <split>/<condition>/ and a row {source, target, prompt} for each image.

    Names begin with "source/" and "target/", which are not folders. The released code ignores the
    target's name, so an image may have the name of its condition instead.
    """
    folder = root / split
    conditioning_images = folder / FOLDERS[data.condition]
    if data.condition != "canny" and not conditioning_images.is_dir():
        raise DataError(f"{conditioning_images} must be a folder of conditioning images.")
    for row in json_rows(_prompts(root, split)):
        source, target = (_file_name(row.get(key), root) for key in ("source", "target"))
        conditioning_image = None
        if conditioning_images.is_dir():
            conditioning_image = condition_of(inside(conditioning_images, source), data)
        image = inside(folder / "color", target)
        if not image.is_file():
            image, target = inside(folder / "color", source), source
        yield Candidate(
            f"{split}/{target}",
            image_of(image, data),
            conditioning_image,
            text_of(row.get("prompt")),
        )


def _celeba(root: Path, data: ControlData, split: Split) -> Iterator[Candidate]:
    """celeba-hq-img/, celeba-hq-landmark2d_cond_512/ and one line that lists {image, prompt}."""
    if data.condition not in ("landmarks", "canny"):
        raise ConfigError(
            f"CelebA has landmarks, but control.data.condition is {data.condition!r}."
        )
    path = _prompts(root, split)
    try:
        rows = json.loads(read_text(path))
        texts = [(str(row["image"]), row.get("prompt")) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} must be a list of {{image, prompt}}, but: {error!r}.") from error
    for name, text in texts:
        stem = Path(name).stem
        conditioning_image = None
        if data.condition == "landmarks":
            file = inside(root / "celeba-hq-landmark2d_cond_512", f"{stem}.png")
            conditioning_image = condition_of(file, data)
        yield Candidate(
            name,
            image_of(inside(root / "celeba-hq-img", name), data),
            conditioning_image,
            text_of(text),
            _celeba_points(inside(root / "celeba-hq-landmark2d", f"{stem}.txt")),
        )


def _celeba_points(path: Path) -> tuple[Landmark, ...] | None:
    if not path.is_file():
        return None
    try:
        points = np.loadtxt(path, ndmin=2)[:, :2].tolist()
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} must have a point x y in each line, but: {error}.") from error
    return placed_points(points, CELEBA_PX)


def _conditioned(
    source: ConditionedFolder, data: ControlData, split: Split, seed: int
) -> Iterator[Candidate]:
    folder, is_own = _split_folder(_folder(source.folder), split)
    split_rows = list(rows(folder, ("file_name",)))
    if not is_own:
        split_rows = parted(split_rows, split, val=source.val, seed=seed)
    for row in split_rows:
        conditioning_image = None
        if (name := row.get(source.conditioning)) is not None:
            conditioning_image = condition_of(inside(folder, str(name)), data)
        elif data.condition != "canny":
            raise DataError(
                f"{metadata(folder)} must name a conditioning image as "
                f"{source.conditioning!r} in each row, but {row['file_name']!r} has none. Set "
                "control.data.source.conditioning to the column's name."
            )
        yield Candidate(
            f"{folder.name}/{row['file_name']}",
            image_of(inside(folder, row["file_name"]), data),
            conditioning_image,
            text_of(row.get(source.text)),
            _points(row, folder),
        )


def _points(row: dict[str, Any], folder: Path) -> tuple[Landmark, ...] | None:
    """The row's `landmarks`, a list of {name, x, y}, 0..1."""
    points = row.get("landmarks")
    if points is None:
        return None
    try:
        return tuple(Landmark.model_validate(point) for point in points)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{metadata(folder)}: landmarks must be a list of name, x, y: {error}"
        ) from error


def _prompts(root: Path, split: Split) -> Path:
    name = f"prompt_{split}_blip.json"
    for path in (root / split / name, root / name):
        if path.is_file():
            return path
    raise DataError(f"{root} must have {split}/{name} or {name}, but has neither.")


def _file_name(name: object, root: Path) -> str:
    """The name without "source/" or "target/"."""
    if not isinstance(name, str) or not name.partition("/")[2]:
        raise DataError(f"{root}: a row needs source/NAME and target/NAME, but has {name!r}.")
    return name.partition("/")[2]


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise DataError(f"control.data.source.folder must be a folder, but {name} is none.")
    return Path(name)
