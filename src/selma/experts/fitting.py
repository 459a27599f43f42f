"""How training images come to the size of the base that is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from selma.config.images import ImagesConfig
from selma.config.networks import AnyBase
from selma.image_files import MAX_PIXELS


@dataclass(frozen=True)
class Fitting:
    """The defaults are for the base's own images and for photographs, as the released script has
    them."""

    filter: Literal["bilinear", "lanczos"] = "bilinear"
    """By which an image of another size is resized."""
    original_size: Literal["drawn", "trained"] = "drawn"
    """What a base that is told images' original size is told: the image's, or the base's own."""
    max_pixels: int | None = None
    """Larger images are refused; None is four times the base's own. Changes no image."""
    drawn_by: AnyBase | None = None
    """The base that generated the images, if it is another than the one that is trained."""

    @property
    def recipe(self) -> dict[str, Any] | None:
        """What encoded images depend on; None is the default."""
        if (self.filter, self.original_size) == ("bilinear", "drawn"):
            return None
        return {"filter": self.filter, "original_size": self.original_size}


OWN = Fitting()
"""Of the base's own images."""


def fitting_of(images: ImagesConfig) -> Fitting:
    """How the images of these settings are fitted."""
    limit = MAX_PIXELS if images.given or images.base is not None else None
    if images.base is None:
        return Fitting(max_pixels=limit)
    return Fitting("lanczos", images.base.original_size, limit, images.base)
