"""Images of one text, with or without adapters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL.Image import Image

from selma.adapters.applying import applied
from selma.backbones.bases import guidance_of
from selma.backbones.text_to_image import load_text_to_image
from selma.config.networks import BaseConfig
from selma.errors import ConfigError
from selma.records.adapters import AppliedAdapter

TOYBOX = BaseConfig()


def generate(
    text: str,
    *,
    base: BaseConfig = TOYBOX,
    adapters: Sequence[AppliedAdapter] = (),
    seed: int = 0,
    steps: int = 50,
    guidance: float | None = None,
    count: int = 1,
) -> Iterator[Image]:
    """Generate `count` images of one text, with seeds `seed`, `seed + 1` and so on.

    adapters: of any kind, applied in their order (`adapters.applying.chosen`); without them the
    images are the base model's own.  guidance: None is the short name's own, and 7.5 for any other
    base.
    """
    model = load_text_to_image(base)
    with applied(model, adapters):
        yield from model.generate(
            [text] * count,
            seeds=[seed + i for i in range(count)],
            steps=steps,
            guidance=guidance_of(base) if guidance is None else guidance,
            batch_size=min(count, 8),
        )


def save_images(images: Iterable[Image], path: Path, *, count: int) -> Iterator[Path]:
    """Save the images as `path`, or as `path` with -1, -2, ... where there are several."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"Images are saved as .png, but {path} came.")
    for number, image in enumerate(images, 1):
        file = path if count == 1 else path.with_stem(f"{path.stem}-{number}")
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
        yield file
