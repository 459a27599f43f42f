"""Any model of transformers for semantic segmentation: which class each pixel is of.

Only safetensors are read and no code of a model's folder is run. Each image passes alone, so that
none alters another's map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.backbones.perception.prepared import PreparedNetwork
from selma.image_modes import plain_rgb
from selma.toybox import weights_of


class Segmenter(Protocol):
    """What scoring by maps of classes needs."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def classes(self) -> int: ...

    def segment(self, images: Sequence[Image.Image]) -> Iterator[NDArray[np.int64]]:
        """[h, w] of each image, in order; h and w are the image's own."""
        ...


class TransformersSegmenter(PreparedNetwork):
    """SegFormer, UperNet, BEiT and their like, whose output is one map of log-odds a class."""

    kind = "AutoModelForSemanticSegmentation"

    @property
    def classes(self) -> int:
        return len(self._network[0].config.id2label)

    def segment(self, images: Sequence[Image.Image]) -> Iterator[NDArray[np.int64]]:
        import torch
        import torch.nn.functional as F

        model, prepare = self._network
        for image in images:
            inputs = prepare(images=plain_rgb(image), return_tensors="pt").to(model.device)
            with torch.inference_mode():
                logits = model(pixel_values=inputs["pixel_values"]).logits
                full_size = F.interpolate(
                    logits.float(), size=image.size[::-1], mode="bilinear", align_corners=False
                )
            yield full_size[0].argmax(0).cpu().numpy()


def load_segmenter(model: str, *, revision: str | None, device: str, setting: str) -> Segmenter:
    """The one named "toybox", or any of transformers. Raises ModelError."""
    return TransformersSegmenter(
        str(weights_of("segmenter")) if model == "toybox" else model,
        revision=revision,
        device=device,
        setting=setting,
    )
