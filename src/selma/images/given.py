"""Stage 2 without a model: images that are given become each skill's imagefolder, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from selma import processes
from selma.backbones.base_files import base_fingerprint
from selma.config.images import ImagesConfig
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.given import GIVEN
from selma.given.kind import GivenImage
from selma.image_places import make_folders, places
from selma.imagefolders import METADATA
from selma.images.pairs import ROWS_FILE, finished_pairs, pair_facts, write_metadata
from selma.progress import console
from selma.records.images import Pair
from selma.records.prompts import Prompt
from selma.texts import quoted
from selma.workspace import IMAGES, Item, Workspace, write_bytes

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage


def take_pairs(
    prompts: Mapping[str, Sequence[Prompt]],
    config: ImagesConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> dict[str, Sequence[Pair]]:
    """Skill → each prompt with the image(s) that the source has for it, copied into
    `2-images/<skill>/train/`; prompts without any have no pair.

    base, model: what will be trained, whose limit of text tokens is told. `model` is called only if
    something is missing. Raises DataError for an image that cannot be read, and for a skill without
    any.
    """
    row = GIVEN.find(config.source.kind, setting="images.source.kind")
    return {
        skill: _take_skill(
            skill,
            of_skill,
            row.images_of(
                config.source,
                of_skill,
                skills=list(prompts),
                per_prompt=config.per_prompt,
                seed=seed,
            ),
            folder,
            kind=config.source.kind,
            base=base,
            model=model,
        )
        for skill, of_skill in prompts.items()
    }


def _take_skill(
    skill: str,
    prompts: Sequence[Prompt],
    images: Mapping[str, Sequence[GivenImage]],
    folder: Workspace,
    *,
    kind: str,
    base: BaseConfig,
    model: Callable[[], TextToImage],
) -> Sequence[Pair]:
    images = {prompt: of_prompt for prompt, of_prompt in images.items() if of_prompt}
    recipe: dict[str, Any] = {
        "source": kind,
        "read_by": base_fingerprint(base),
        "prompts": [[prompt.id, prompt.text] for prompt in prompts],
        "images": {prompt: [image.key for image in images[prompt]] for prompt in sorted(images)},
    }
    item = folder.item(IMAGES, skill, recipe=recipe)
    if item.done:
        return finished_pairs(item, prompts)
    without = _without(skill, prompts, images)
    began = time.monotonic()
    pairs = _copied(item, prompts, images, model)
    item.finish(
        [*(pair.image for pair in pairs), item.path / "train" / METADATA],
        {
            "images": len(pairs),
            "over_token_limit": sum(pair.tokens_cut > 0 for pair in pairs),
            "without_image": without,
        },
        rows={ROWS_FILE: pair_facts},
    )
    seconds = round(time.monotonic() - began, 3)
    folder.journal(IMAGES, skill=skill, images=len(pairs), seconds=seconds)
    return pairs


def _copied(
    item: Item,
    prompts: Sequence[Prompt],
    images: Mapping[str, Sequence[GivenImage]],
    model: Callable[[], TextToImage],
) -> list[Pair]:
    """The pairs, with their images and rows in the item's folder."""
    train = item.begin() / "train"
    of = [
        (prompt, image, _name(prompt, number, image))
        for prompt in prompts
        for number, image in enumerate(images.get(prompt.id, ()))
    ]
    files = places(train, (name for _, _, name in of))
    if processes.main():
        make_folders(files)
    pairs = []
    for (prompt, image, _), path in zip(of, files, strict=True):
        if processes.main() and not path.exists():
            write_bytes(path, image.data())
        cut = model().tokens_cut(prompt.text)
        pairs.append(Pair(prompt=prompt, image=path, seed=None, tokens_cut=cut))
    if processes.main():
        write_metadata(train / METADATA, pairs)
    processes.wait()
    return pairs


def _name(prompt: Prompt, number: int, image: GivenImage) -> str:
    end = PurePosixPath(image.name).suffix.lower()
    return f"{prompt.id}-{number}{end}" if number else f"{prompt.id}{end}"


def _without(
    skill: str, prompts: Sequence[Prompt], images: Mapping[str, Sequence[GivenImage]]
) -> int:
    """How many prompts have no image, which is said. Raises DataError if all have none."""
    without = [prompt.text for prompt in prompts if prompt.id not in images]
    if not images:
        raise DataError(
            f"images.source must have an image of at least one prompt of the skill {skill!r}, but "
            f"has none of {quoted(without[0])} and all others. Let prompts.source give the "
            "captions of the same images."
        )
    if without and processes.main():
        sentence = f"{skill}: {len(without)} of {len(prompts)} prompts have no image in the source"
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return len(without)
