"""What each kind of given prompts and images can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selma.config.section import Section
from selma.records.prompts import Prompt


@dataclass(frozen=True)
class Texts:
    """One skill's texts."""

    key: Any
    """What they depend on, as JSON; names no path."""
    texts: Iterable[str]
    """In order; there may be more than anybody asks for."""


@dataclass(frozen=True)
class GivenImage:
    """An image of others."""

    name: str
    """Its name in its source; no path of this machine. Its end is the file's."""
    key: Any
    """Changes with the image, as JSON."""
    data: Callable[[], bytes]
    """The file's bytes. Raises DataError."""


@dataclass(frozen=True)
class Given:
    """One row."""

    name: str
    settings: type[Section]
    """Its section of the settings, whose `kind` is the name."""
    texts: Callable[..., Mapping[str, Texts]]
    """(settings, names of skills, seed=...) → each skill's texts. Raises DataError."""
    prompts_are: str
    """What these prompts are, as the beginning of a sentence of the report."""
    images: Callable[..., Mapping[str, Sequence[GivenImage]]] | None = None
    """(settings, prompts of one skill, skills=..., per_prompt=..., seed=...) → prompt's id → its
    images, at most `per_prompt`; prompts without any are left out. None where there are no images.
    Raises DataError."""
    images_are: str = ""
    """What these images are, as the end of that sentence."""

    def images_of(self, settings: Any, prompts: Sequence[Prompt], **how: Any) -> Any:
        """What `images` gives, of a kind that has images."""
        assert self.images is not None, f"{self.name} has no images"
        return self.images(settings, prompts, **how)
