"""What generates images: a base that is loaded here, or one on a server."""

from __future__ import annotations

from collections.abc import Callable

from selma.backbones.served_base import ServedTextToImage
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.networks import AnyBase, BaseConfig
from selma.errors import ConfigError

AnyTextToImage = TextToImage | ServedTextToImage
"""Both have `image_px`, `tokens_cut` and `generate`; adapters are applied to either by
`adapters.applying.applied`."""


def load_any_text_to_image(
    base: AnyBase, *, note: Callable[..., None] | None = None, spent: float = 0.0
) -> AnyTextToImage:
    """The model that generates by these settings. `note` receives one record for each request to a
    server, `spent` is what earlier ones have cost. Raises ModelError or BackendError."""
    if isinstance(base, BaseConfig):
        return load_text_to_image(base)
    return ServedTextToImage(base, note=note, spent=spent)


def require_local(model: AnyTextToImage, what: str) -> TextToImage:
    """The model. Raises ConfigError if it is on a server, which has none of `what`."""
    if isinstance(model, TextToImage):
        return model
    raise ConfigError(
        f"{model.base.setting}: {model.where} takes no {what}; name a base that is loaded here."
    )
