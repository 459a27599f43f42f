"""Samples on disk: an imagefolder whose rows have `text` (caption) and `prompt` (keywords)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from selma.applications.sur.records import SurSample
from selma.errors import DataError
from selma.image_files import open_image
from selma.image_names import list_images
from selma.imagefolders import metadata, rows, there
from selma.records.prompts import prompt_id
from selma.row_files import write_rows
from selma.workspace import inside

NEEDED = ("file_name", "text", "prompt")
SKILL = "triples"  # what a sample's id is made with


@dataclass
class Reading:
    """What a folder holds: what can be used, and what cannot with the reason."""

    samples: list[SurSample] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    """File name → why its image is not used. The file itself is left where it is."""


def read_samples(
    root: Path, *, base_px: int | None, licence: str = "unknown", own: bool = False
) -> Reading:
    """The samples of an imagefolder (`train/` below `root`, or `root` itself), as SURD is one.

    A file name may lack its extension, as in the released sample. With `base_px`, every image is
    decoded; a damaged one, or one of more than four times the base's pixels, is quarantined.
    own: whether selma collected it. Raises DataError for a row without text, prompt or image.
    """
    folder = train_folder(root)
    reading, seen = Reading(), set[Path]()
    images = cache(partial(_by_stem, folder))
    for row in rows(folder, NEEDED, own=own):
        image = named_image(folder, row["file_name"], images)
        if image in seen:
            raise DataError(f"{metadata(folder)} names {row['file_name']!r} twice; keep one row.")
        seen.add(image)
        if base_px is not None:
            try:
                open_image(image, max_pixels=4 * base_px**2)
            except DataError as error:
                reading.quarantined[row["file_name"]] = str(error)
                continue
        reading.samples.append(_sample(row, image, licence))
    return reading


def train_folder(root: Path) -> Path:
    """Where an imagefolder's training images are."""
    return root / "train" if (root / "train").is_dir() else root


def named_image(folder: Path, name: str, images: Callable[[], Mapping[str, list[str]]]) -> Path:
    """The image of this name in the folder, with or without its extension. Raises DataError if
    there is none, or more than one.

    images: gives the folder's images, by their names without extension.
    """
    image = inside(folder, name)
    if image.is_file():
        return image
    names = images().get(name, [])
    if len(names) > 1:
        raise DataError(
            f"{metadata(folder)} names {name!r}, which may be {names[0]} or {names[1]}. Write the "
            "extension."
        )
    if not names:
        there(image)
    return inside(folder, names[0])


def _by_stem(folder: Path) -> dict[str, list[str]]:
    """The names of all images below the folder, by themselves without extension."""
    names: dict[str, list[str]] = {}
    for path in list_images(folder, deep=True).images:
        # Not `with_suffix`: a name may have a dot that begins no extension.
        name = path.relative_to(folder).as_posix()
        names.setdefault(name.removesuffix(path.suffix), []).append(name)
    return names


def write_samples(
    path: Path, samples: Sequence[SurSample], facts: Sequence[Mapping[str, Any]]
) -> None:
    """One row for each sample with what else is known of it; whole or nothing."""
    rows = (
        {
            **more,
            "file_name": sample.image.name,
            "text": sample.text,
            "prompt": sample.prompt,
            "sample_id": sample.id,
            "source": sample.source,
            "licence": sample.licence,
        }
        for sample, more in zip(samples, facts, strict=True)
    )
    write_rows(path, rows)


def _sample(row: Mapping[str, Any], image: Path, licence: str) -> SurSample:
    def said(key: str, default: str) -> str:
        value = row.get(key)
        return value if isinstance(value, str) and value else default

    return SurSample(
        id=prompt_id(SKILL, f"{row['text']}\n{row['prompt']}\n{image.name}"),
        text=row["text"],
        prompt=row["prompt"],
        image=image,
        source=said("source", image.name),
        licence=said("licence", licence),
    )
