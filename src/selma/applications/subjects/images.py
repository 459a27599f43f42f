"""Subjects' pictures, their classes and prompts; and the class pictures that the base draws.

2-images/_subjects/<subject>/train/    its pictures, made smaller where they are large
2-images/_class/<class>/train/        the class, drawn by the base (prior preservation)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from PIL import Image, ImageOps

from selma.applications.subjects.prompts import (
    LIVE_PROMPTS,
    OBJECT_PROMPTS,
    PromptText,
    read_prompt_text,
    worded,
)
from selma.applications.subjects.records import Subject
from selma.applications.subjects.settings import SubjectData, SubjectSettings
from selma.backbones.hub import installed
from selma.config import ImagesConfig
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.image_files import decode, png_bytes
from selma.images.generating import generate_pairs
from selma.images.pairs import SUFFIXES
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.images import Pair
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import IMAGES, Workspace, write_bytes

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage

NAME, CLASS = "_subjects", "_class"
TOYBOX = "toybox"
TEXT = "prompts_and_classes.txt"
"""Of a picture that is made smaller here: the dataset's are photographs."""


@dataclass(frozen=True)
class _Source:
    """One subject as it was found."""

    name: str
    kind: str
    images: Sequence[tuple[str, bytes]]
    """Name and bytes of each file."""


def read_subjects(config: SubjectData, folder: Workspace, *, base_px: int) -> list[Subject]:
    """The subjects in the order of their names, each with its pictures in the run's folder.

    base_px: side of the base's pictures.  Raises DataError for a picture that cannot be read, a
    subject without pictures or without a class word, and a name that is not there: none is guessed.
    """
    text, sources = _sources(config)
    px = config.image_px or base_px
    return [
        Subject(
            name=source.name,
            kind=source.kind,
            images=_prepared(source, px, folder),
            prompts=_prompts(source.kind, config, text),
        )
        for source in sources
    ]


def instance_pairs(subject: Subject, config: SubjectData) -> list[Pair]:
    """The subject's pictures, each with the instance prompt."""
    text = worded(config.instance_prompt, token=config.token, kind=subject.kind)
    skill = f"{NAME}/{subject.name}"
    prompt = Prompt(id=prompt_id(skill, text), skill=skill, text=text)
    return [Pair(prompt=prompt, image=image, seed=0) for image in subject.images]


def class_pairs(
    subjects: Sequence[Subject],
    config: SubjectSettings,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    batch_size: int,
    model: Callable[[], TextToImage],
) -> dict[str, list[Pair]]:
    """Subject → pictures of its class with the class prompt, drawn by the base with one seed each.

    Subjects of one class share them. {} where the prior has no weight.
    """
    if not config.prior.weight:
        return {}
    prompts = {}
    for subject in subjects:
        skill = f"{CLASS}/{_folder_name(subject.kind)}"
        text = worded(config.data.class_prompt, token=None, kind=subject.kind)
        prompts[subject.name] = Prompt(id=prompt_id(skill, text), skill=skill, text=text)
    generation = ImagesConfig(
        per_prompt=config.prior.images,
        steps=config.prior.steps,
        guidance=config.prior.guidance,
        batch_size=batch_size,
    )
    generated = generate_pairs(
        {prompt.skill: [prompt] for prompt in prompts.values()},
        generation,
        folder,
        base=base,
        seed=seed,
        model=model,
    )
    return {name: generated[prompt.skill] for name, prompt in prompts.items()}


def _folder_name(kind: str) -> str:
    """The class word as a folder may be called; dots alone would lead out of theirs."""
    name = quote(kind, safe=" ")
    return name if name.strip(".") else name.replace(".", "%2E")


def image_prompts(
    subject: Subject, config: SubjectData, *, images: int, curve: int | None = None
) -> list[BenchmarkPrompt]:
    """What is to be drawn of a subject: each prompt so many times, with ids from which the seeds
    come; or (`curve`) so many evenly spaced prompts once each, with the ids that these have too."""
    count = len(subject.prompts)
    chosen: Sequence[int] = range(count)
    if curve is not None:
        few = min(curve, count)
        chosen = [(2 * i + 1) * count // (2 * few) for i in range(few)]
    return [
        BenchmarkPrompt(
            id=f"{number:02d}-{k}",
            text=worded(subject.prompts[number], token=config.token, kind=subject.kind),
            group=subject.name,
            questions=(),
        )
        for number in chosen
        for k in range(images if curve is None else 1)
    ]


def _sources(config: SubjectData) -> tuple[PromptText, list[_Source]]:
    """The folder's text and its subjects, only those asked for."""
    if config.folder == TOYBOX:
        from selma.toybox import subjects as toybox

        text = read_prompt_text(toybox.text(), of="toybox")
        found = {one.name: sorted(toybox.files(one).items()) for one in toybox.SUBJECTS}
        return text, list(_chosen(config, text, found.__getitem__, sorted(found)))
    root = Path(config.folder)
    if not root.is_dir():
        raise DataError(f"{root} must be a folder of subjects, but is not there.")
    text = PromptText()
    if (root / TEXT).is_file():
        words = (root / TEXT).read_text("utf-8", errors="replace")
        text = read_prompt_text(words, of=root / TEXT)
    if any(_images(root)):
        return text, list(_chosen(config, text, lambda _: _read(root), [root.resolve().name]))
    names = sorted(
        path.name for path in root.iterdir() if path.is_dir() and path.name[0] not in "._"
    )
    return text, list(_chosen(config, text, lambda name: _read(root / name), names))


def _chosen(
    config: SubjectData,
    text: PromptText,
    files: Callable[[str], Sequence[tuple[str, bytes]]],
    names: Sequence[str],
) -> Iterator[_Source]:
    wanted = names if config.subjects is None else config.subjects
    if strangers := [name for name in wanted if name not in names]:
        raise DataError(
            f"subjects.data.subjects must be among {', '.join(names) or 'none'}, but "
            f"{strangers[0]!r} came."
        )
    if not wanted:
        raise DataError(f"{config.folder} must hold a folder for each subject, but has none.")
    for name in wanted:
        kind = config.classes.get(name) or text.classes.get(name)
        if not kind:
            raise DataError(
                f"The subject {name!r} needs a class word: a line in {TEXT}, or "
                f"subjects.data.classes: {{{name}: ...}}."
            )
        yield _Source(name, kind, files(name))


def _prompts(kind: str, config: SubjectData, text: PromptText) -> tuple[str, ...]:
    if config.prompts is not None:
        return config.prompts
    living = kind in config.living
    own = text.live_prompts if living else text.object_prompts
    return own or (LIVE_PROMPTS if living else OBJECT_PROMPTS)


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != "."
    )


def _read(folder: Path) -> list[tuple[str, bytes]]:
    found = [(path.name, path.read_bytes()) for path in _images(folder)]
    if not found:
        raise DataError(f"{folder} must hold pictures of its subject, but has none.")
    return found


def _prepared(source: _Source, px: int, folder: Workspace) -> tuple[Path, ...]:
    """The subject's pictures as PNG, upright and no larger than needed."""
    recipe = {
        "images": [[name, hashlib.sha256(data).hexdigest()] for name, data in source.images],
        "image_px": px,
        "pillow": installed("pillow"),
    }
    item = folder.item(IMAGES, NAME, source.name, recipe=recipe)
    paths = tuple(item.path / "train" / f"{n:02d}.png" for n in range(len(source.images)))
    if item.done:
        return paths
    (item.begin() / "train").mkdir(exist_ok=True)
    for path, (name, data) in zip(paths, source.images, strict=True):
        try:
            image = _fitted(data, px)
        except DataError as error:
            raise DataError(f"{source.name}/{name}: {error}") from error
        write_bytes(path, png_bytes(image))
    item.finish(paths, {"images": len(paths), "class": source.kind})
    return paths


def _fitted(data: bytes, px: int) -> Image.Image:
    # A camera held sideways says so beside the pixels; a network would see the subject lying.
    image = ImageOps.exif_transpose(decode(data))
    side = min(image.size)
    if side > px:
        width, height = (max(px, round(length * px / side)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    if image.width * image.height > 4 * px**2:
        raise DataError(
            f"The picture is {image.width}x{image.height} when made smaller: too long for a "
            "square to be cut out of it. Cut it yourself."
        )
    return image
