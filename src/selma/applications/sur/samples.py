"""Samples on disk: an imagefolder whose rows have `text` (caption) and `prompt` (keywords)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selma.applications.sur.records import SurSample
from selma.errors import DataError
from selma.image_files import open_image
from selma.images.pairs import SUFFIXES, metadata, rows, there
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


def read_samples(root: Path, *, base_px: int | None, licence: str = "unknown") -> Reading:
    """The samples of an imagefolder (`train/` below `root`, or `root` itself), as SURD is one.

    A file name may lack its extension, as in the released sample. With `base_px`, every image is
    decoded; a damaged one, or one of more than four times the base's pixels, is quarantined. Raises
    DataError for a row without text, prompt or image.
    """
    folder = root / "train" if (root / "train").is_dir() else root
    reading, seen = Reading(), set[Path]()
    for row in rows(folder, NEEDED):
        image = named_image(folder, row["file_name"])
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


def named_image(folder: Path, name: str) -> Path:
    """The image of this name in the folder, with or without its extension. Raises DataError if
    there is none, or more than one."""
    image = inside(folder, name)
    if image.is_file():
        return image
    # Not `with_suffix`: a name may have a dot that begins no extension.
    files = [path for end in SUFFIXES if (path := inside(folder, name + end)).is_file()]
    if len(files) > 1:
        raise DataError(
            f"{metadata(folder)} names {name!r}, which may be {files[0].name} or {files[1].name}. "
            "Write the extension."
        )
    there(files[0] if files else image)
    return files[0]


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
