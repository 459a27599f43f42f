"""The columns of the table of guides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selma.backbones.families.family import Config, Family
from selma.config.guides import GuideSettings
from selma.errors import ConfigError
from selma.records.parses import Parse, Sets

if TYPE_CHECKING:
    from selma.backbones.memory import Need, Parts
    from selma.backbones.text_to_image import Guide, TextToImage


@dataclass(frozen=True, kw_only=True)
class GuideKind:
    """A row. Its functions import model libraries; reading the row does not."""

    name: str
    settings: type[GuideSettings]
    """With the row's name as `kind`."""
    sets: Callable[[str, Parse, Any], Sets]
    """(prompt, its parse, settings) → the words or phrases that the guide is told of. The image of
    a prompt that has none is the base's."""
    parsed_by: frozenset[str]
    """Settings that `sets` reads."""
    require_fit: Callable[[Family, Config, Any], None]
    """(family, the denoiser's config, settings): ConfigError unless the base can be guided so."""
    load: Callable[[TextToImage, Mapping[str, Sets], Any], Guide]
    """(model, text → its sets, settings) → what guides the model."""
    need: Callable[[Parts, Any], Need] | None = None
    """(the base's networks by shape, settings) → memory of the guide's own passes; None: it needs
    no more than generating does."""


def require_text_maps(family: Family, name: str) -> None:
    """Raise ConfigError for a denoiser that has no attention to text alone."""
    if family.map_sides is None:
        raise ConfigError(
            f"{name} needs attention to the text alone, but in {family.name} image and text attend "
            "to each other in one. Choose a base with a UNet."
        )
