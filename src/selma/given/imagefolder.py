"""Folders of pairs: an imagefolder with its metadata, or a caption file beside each image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selma.config.given import Imagefolder
from selma.errors import DataError
from selma.given.kind import Given, GivenImage, Texts
from selma.given.rows import Row, by_skill, digest, require_rows
from selma.image_files import image_bytes, read_image
from selma.image_names import list_images
from selma.imagefolders import metadata, rows, there
from selma.records.prompts import Prompt
from selma.textfiles import read_text
from selma.texts import printable
from selma.workspace import inside

_CAPTIONS = (".txt", ".caption")
_REPEATED = re.compile(r"\d+_")


@dataclass(frozen=True)
class _Pair:
    """A caption and its image, which is there."""

    text: str
    image: Path


def texts(source: Imagefolder, skills: Sequence[str], *, seed: int) -> dict[str, Texts]:
    """Each skill's captions in the folder's order, the seed notwithstanding. Raises DataError."""
    of_skills = {}
    for skill, pairs in _pairs(source, skills).items():
        captions = list(dict.fromkeys(pair.text for pair in pairs))
        of_skills[skill] = Texts({"captions": digest(captions)}, captions)
    return of_skills


def images(
    source: Imagefolder,
    prompts: Sequence[Prompt],
    *,
    skills: Sequence[str],
    per_prompt: int,
    seed: int,
) -> dict[str, list[GivenImage]]:
    """Prompt's id → the first images that have it as their caption. Raises DataError."""
    root = Path(source.folder).resolve()
    by_text: dict[str, list[Path]] = {}
    for pair in _pairs(source, skills)[prompts[0].skill]:
        by_text.setdefault(pair.text, []).append(pair.image)
    return {
        prompt.id: [_given(image, root) for image in by_text[prompt.text][:per_prompt]]
        for prompt in prompts
        if prompt.text in by_text
    }


def _given(image: Path, root: Path) -> GivenImage:
    name = image.relative_to(root).as_posix()
    return GivenImage(name, [name, image.stat().st_size], partial(_read, image))


def _read(image: Path) -> bytes:
    """The file's bytes, which the opener can read."""
    data = image_bytes(image)
    try:
        read_image(data)
    except DataError as error:
        raise DataError(f"{image}: {error}") from error
    return data


def _pairs(source: Imagefolder, skills: Sequence[str]) -> dict[str, list[_Pair]]:
    """Skill → its pairs, each of whose images is there."""
    root = Path(source.folder)
    if not root.is_dir():
        raise DataError(f"{root} must be a folder of images with captions, but is none.")
    folders = {skill: folder for skill in skills if (folder := _folder_of(root, skill))}
    if len(folders) == len(skills):
        pairs = {skill: _of_folder(folder, source) for skill, folder in folders.items()}
    elif folders:
        lacking = ", ".join(skill for skill in skills if skill not in folders)
        raise DataError(f"{root} must have a folder for each skill, but has none for {lacking}.")
    else:
        pairs = _by_column(_train(root), source, skills)
    for skill, of_skill in pairs.items():
        require_rows(len(of_skill), skill, root)
    return pairs


def _folder_of(root: Path, skill: str) -> Path | None:
    """The skill's folder below the root, by its name or by kohya's."""
    names = [path.name for path in sorted(root.iterdir()) if path.is_dir()]
    fitting = [name for name in names if skill in (name, _REPEATED.sub("", name, count=1))]
    if len(fitting) > 1:
        raise DataError(
            f"{root} must have one folder for the skill {skill!r}, but has {', '.join(fitting)}."
        )
    return _train(inside(root, fitting[0])) if fitting else None


def _train(folder: Path) -> Path:
    """Where an imagefolder's training images are."""
    return inside(folder, "train") if (folder / "train").is_dir() else folder


def _of_folder(folder: Path, source: Imagefolder) -> list[_Pair]:
    if metadata(folder).is_file():
        return [_pair(folder, row, source) for row in _rows(folder, source)]
    return list(_beside(folder, source))


def _by_column(folder: Path, source: Imagefolder, skills: Sequence[str]) -> dict[str, list[_Pair]]:
    path = metadata(folder)
    if not path.is_file() and len(skills) == 1:
        return {skills[0]: list(_beside(folder, source))}
    if not path.is_file():
        raise DataError(
            f"{folder} must have a folder for each of {', '.join(skills)}, or metadata.jsonl or "
            "metadata.csv with a column of skills, but has neither."
        )
    split = by_skill(list(_rows(folder, source)), skills, column=source.skill, path=path)
    return {
        skill: [_pair(folder, row, source) for row in of_skill] for skill, of_skill in split.items()
    }


def _rows(folder: Path, source: Imagefolder) -> Iterator[Row]:
    return rows(folder, ("file_name", source.text))


def _pair(folder: Path, row: Row, source: Imagefolder) -> _Pair:
    image = inside(folder, row["file_name"])
    there(image)
    return _Pair(row[source.text].strip(), image)


def _beside(folder: Path, source: Imagefolder) -> Iterator[_Pair]:
    """Every image of the folder with the text in the file beside it. Raises DataError if one has
    none, or an empty one."""
    endings = (source.captions,) if source.captions else _CAPTIONS
    for listed in list_images(folder).images:
        image = inside(folder, listed.name)
        files = [inside(folder, f"{listed.stem}{end}") for end in endings]
        text = next((printable(read_text(file)).strip() for file in files if file.is_file()), "")
        if not text:
            names = " or ".join(file.name for file in files)
            raise DataError(
                f"{listed} must have its caption in {names} beside it, or in metadata.jsonl, but "
                "has none. Write it, or remove the image."
            )
        yield _Pair(" ".join(text.split()), image)


KIND = Given(
    name="imagefolder",
    settings=Imagefolder,
    texts=texts,
    prompts_are="Captions of given images",
    images=images,
    images_are="with the images that were given with them",
)
