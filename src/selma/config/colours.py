"""Colours in settings: by name, or as #rrggbb."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _known(colour: str) -> str:
    from PIL import ImageColor

    if len(ImageColor.getrgb(colour)) != 3:  # it raises ValueError for a name that it lacks
        raise ValueError(f"must be an opaque colour, but is {colour!r}")
    return colour


Colour = Annotated[str, AfterValidator(_known)]
"""A colour that PIL.ImageColor knows, such as white or #ffffff."""
