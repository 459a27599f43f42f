"""Any model of transformers for object detection: what is where in an image.

Only safetensors are read and no code of a model's folder is run. Each image passes alone, so that
none alters another's boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from PIL import Image

from selma.backbones.perception.prepared import PreparedNetwork
from selma.errors import ModelError
from selma.image_modes import plain_rgb


class Box(NamedTuple):
    """One thing that is seen; edges in pixels of the image."""

    name: str
    """Its class, in lower case."""
    score: float
    """0..1."""
    left: float
    top: float
    right: float
    bottom: float


class Detector(Protocol):
    """What judging by boxes needs."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all that it can see, in lower case; to be had without the weights."""
        ...

    def detect(self, images: Sequence[Image.Image], *, least: float) -> Iterator[list[Box]]:
        """The boxes of each image, in order, whose score is more than `least`."""
        ...


class TransformersDetector(PreparedNetwork):
    """DETR, RT-DETR, D-FINE, YOLOS and their like."""

    kind = "AutoModelForObjectDetection"

    @cached_property
    def classes(self) -> tuple[str, ...]:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(**self._files.source())
        except Exception as error:  # many kinds: no file, no net, an architecture that is unknown
            raise ModelError(
                f"{self._files.name} must hold the config.json of a detector of transformers, but: "
                f"{str(error).splitlines()[0]}"
            ) from error
        # COCO's numbers have gaps, which some models name so.
        names = (str(name).lower() for _, name in sorted(config.id2label.items()))
        return tuple(dict.fromkeys(name for name in names if name != "n/a"))

    def detect(self, images: Sequence[Image.Image], *, least: float) -> Iterator[list[Box]]:
        import torch

        model, prepare = self._network
        for image in images:
            inputs = prepare(images=plain_rgb(image), return_tensors="pt").to(model.device)
            with torch.inference_mode():
                outputs = model(**inputs)
            (found,) = prepare.post_process_object_detection(
                outputs, threshold=least, target_sizes=[image.size[::-1]]
            )
            yield [
                Box(model.config.id2label[label].lower(), score, *edges)
                for label, score, edges in zip(
                    found["labels"].tolist(),
                    found["scores"].tolist(),
                    found["boxes"].tolist(),
                    strict=True,
                )
            ]
