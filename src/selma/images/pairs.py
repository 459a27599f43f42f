"""Pictures with their texts on disk, in the layout that `datasets` calls an imagefolder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selma.errors import DataError
from selma.pictures import open_picture
from selma.records import Pair, Prompt, prompt_id
from selma.workspace import inside, read_lines, write_bytes

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass
class Reading:
    """What a folder holds: what can be used, and what cannot with the reason."""

    pairs: list[Pair] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    """File name → why its picture is not used. The file itself is left where it is."""

    @property
    def counts(self) -> dict[str, int]:
        used, bad = len(self.pairs), len(self.quarantined)
        return {"in": used + bad, "used": used, "quarantined": bad}


def write_metadata(path: Path, pairs: Sequence[Pair]) -> None:
    """One row for each pair, whole or nothing. No column is named `image`: that one is the
    loader's own."""
    made = (
        {
            "file_name": pair.image.name,
            "text": pair.prompt.text,
            "skill": pair.prompt.skill,
            "prompt_id": pair.prompt.id,
            "seed": pair.seed,
            "tokens_cut": pair.tokens_cut,
        }
        for pair in pairs
    )
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in made)
    write_bytes(path, "".join(lines).encode())


def read_drawn(folder: Path, prompts: Sequence[Prompt]) -> list[Pair]:
    """The pairs of a finished skill, with the very prompts that they were drawn from.

    Pictures are not decoded here (they are when they are trained on). Raises DataError where rows,
    files and prompts do not agree.
    """
    of = {prompt.id: prompt for prompt in prompts}
    train = folder / "train"
    pairs = []
    for row in rows(train):
        image, prompt = inside(train, row["file_name"]), of.get(row.get("prompt_id", ""))
        if prompt is None or prompt.text != row["text"]:
            raise DataError(
                f"{train / METADATA} must name this run's prompts, but has {row['text']!r:.80}. "
                f"Remove {folder} to have it drawn again."
            )
        there(image)
        pairs.append(
            Pair(prompt=prompt, image=image, seed=row["seed"], tokens_cut=row["tokens_cut"])
        )
    return pairs


def read_imagefolder(root: Path, *, skill: str, base_px: int) -> Reading:
    """The pairs of any imagefolder (`train/` below `root`, or `root` itself).

    Every picture is decoded whole; one that is damaged or has more than four times the base's
    pixels is quarantined. A row whose file is missing, or a file without a row, is a DataError:
    nothing is dropped silently.
    """
    folder = root / "train" if (root / "train").is_dir() else root
    reading = Reading()
    named: set[Path] = set()
    for row in rows(folder):
        image = inside(folder, row["file_name"])
        there(image)
        if image in named:
            raise DataError(f"{folder / METADATA} names {row['file_name']!r} twice; keep one row.")
        named.add(image)
        try:
            open_picture(image, max_pixels=4 * base_px**2)
        except DataError as error:
            reading.quarantined[row["file_name"]] = str(error)
            continue
        reading.pairs.append(
            Pair(
                prompt=_prompt(row, skill),
                image=image,
                seed=_whole(row, "seed"),
                tokens_cut=_whole(row, "tokens_cut"),
            )
        )
    unnamed = sorted(path.name for path in pictures(folder) if path.resolve() not in named)
    if unnamed:
        raise DataError(
            f"Each picture in {folder} needs a row in {METADATA}, but {unnamed[0]!r} has none "
            f"({len(unnamed)} in all). Add the rows or remove the files."
        )
    return reading


def rows(folder: Path, needs: Sequence[str] = ("file_name", "text")) -> Iterator[dict[str, Any]]:
    """The metadata's rows, each with a text under these keys."""
    path = folder / METADATA
    found = read_lines(path)
    if not found:
        raise DataError(f"{path} must have one row for each picture, but is empty or not there.")
    for number, row in enumerate(found, 1):
        for key in needs:
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise DataError(
                    f"{path}, line {number} needs a text {key!r}, but has {row.get(key)!r:.80}."
                )
        yield row


def _prompt(row: dict[str, Any], skill: str) -> Prompt:
    # The id is made anew: an id from a foreign file could be anything.
    return Prompt(id=prompt_id(skill, row["text"]), skill=skill, text=row["text"])


def _whole(row: dict[str, Any], key: str) -> int:
    value = row.get(key, 0)
    return value if isinstance(value, int) and value >= 0 else 0


def there(image: Path) -> None:
    """Raises DataError if a picture that a row names is no file."""
    if not image.is_file():
        raise DataError(f"{image} is named in {METADATA}, but is not there. Restore it.")


def pictures(folder: Path) -> Iterator[Path]:
    """Every picture below the folder, by its name's end."""
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
