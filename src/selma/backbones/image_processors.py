"""The only place that asks transformers what prepares a model's images.

transformers takes torchvision's arithmetic where that package is installed, and Pillow's elsewhere:
other pixels, and other scores by the same weights. Here it is Pillow's everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def load_image_processor(source: Mapping[str, Any]) -> Any:
    """What prepares images for a model, by Pillow.

    source: keywords for `from_pretrained`. Raises ValueError where a model's images can be prepared
    by torchvision alone, and whatever transformers raises.
    """
    from transformers import AutoImageProcessor
    from transformers.image_processing_backends import TorchvisionBackend

    images = AutoImageProcessor.from_pretrained(**source, backend="pil")
    if isinstance(images, TorchvisionBackend):  # what transformers falls back on, with a warning
        raise ValueError(
            f"{type(images).__name__} prepares images by torchvision alone, whose versions give "
            "different pixels. Choose a model whose images Pillow prepares, or ask a server."
        )
    return images


def load_processor(source: Mapping[str, Any], config: Any) -> Any:
    """What prepares images and text for the model of this config: its own, with the images by
    Pillow and without its part for videos, which would need torchvision.

    Raises ValueError for a model that does not read both; see `load_image_processor`.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    complete: Any = AutoProcessor  # of what the files name: a reader of text lines, for one
    if type(config) in PROCESSOR_MAPPING:
        complete = _without_videos(PROCESSOR_MAPPING[type(config)])
    processor = complete.from_pretrained(**source)
    if not hasattr(processor, "image_processor"):
        raise ValueError(f"{config.model_type} is no model that reads images and text")
    processor.image_processor = load_image_processor(source)
    return processor


def _without_videos(complete: Any) -> Any:
    class Images(complete):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in complete.get_attributes() if name != "video_processor"]

    return Images
