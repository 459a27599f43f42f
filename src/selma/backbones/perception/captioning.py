"""Networks of transformers that look at an image: captions, and classes.

Only safetensors are read and no code of a model's folder is run. Each image passes alone, so that
none alters another's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from selma.backbones.hub import find_device
from selma.backbones.image_processors import load_image_processor, load_processor
from selma.backbones.weights import Weights, load_network
from selma.config.networks import Captioner, Safety
from selma.errors import ModelError
from selma.image_modes import plain_rgb
from selma.texts import printable


class CaptionModel:
    """Writes what images show: BLIP (as SURD has it), BLIP-2, GIT and their like."""

    def __init__(self, config: Captioner, *, setting: str) -> None:
        self._config = config
        self._setting = setting
        self._files = Weights(config.model, config.revision)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its captions from another's; loads nothing."""
        settings = self._config.model_dump(mode="json", include={"beams", "max_new_tokens"})
        return {"kind": "captioner", "weights": self._files.fingerprint, **settings}

    def caption(self, images: Sequence[Image.Image]) -> Iterator[str]:
        """One for each, in order; may be empty."""
        import torch

        model, processor = self._network
        for image in images:
            inputs = processor(images=plain_rgb(image), return_tensors="pt").to(model.device)
            with torch.inference_mode():
                tokens = model.generate(
                    **inputs,
                    num_beams=self._config.beams,
                    max_new_tokens=self._config.max_new_tokens,
                    do_sample=False,
                )
            text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
            yield " ".join(printable(text).split())

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText

        device = find_device(self._config.device, setting=f"{self._setting}.device")
        model = load_network(AutoModelForImageTextToText, self._files).to(device)
        return model, _prepared(self._files, lambda source: load_processor(source, model.config))


class Classifier:
    """Says which class an image is of."""

    def __init__(self, config: Safety) -> None:
        self._config = config
        self._files = Weights(config.model, config.revision)

    @property
    def identity(self) -> dict[str, Any]:
        return {"weights": self._files.fingerprint, "keep": list(self._config.keep)}

    def classify(self, images: Sequence[Image.Image]) -> Iterator[str]:
        """The most probable label of each, as the model's config names it."""
        import torch

        model, processor = self._network
        for image in images:
            inputs = processor(images=plain_rgb(image), return_tensors="pt").to(model.device)
            with torch.inference_mode():
                best = int(model(**inputs).logits[0].argmax())
            yield str(model.config.id2label[best])

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageClassification

        device = find_device(self._config.device, setting="sur.data.cleaning.safety.device")
        model = load_network(AutoModelForImageClassification, self._files).to(device)
        labels = {str(label) for label in model.config.id2label.values()}
        if unknown := sorted(set(self._config.keep) - labels):
            raise ModelError(
                f"sur.data.cleaning.safety.keep must name labels of {self._files.label}, which "
                f"are {', '.join(sorted(labels)[:20])}; but {unknown[0]!r} came."
            )
        return model, _prepared(self._files, load_image_processor)


def _prepared(files: Weights, load: Callable[[Mapping[str, Any]], Any]) -> Any:
    try:
        return load(files.source())
    except Exception as error:  # many kinds: no file, no net, none for this architecture
        raise ModelError(
            f"{files.name} must hold what prepares its images, but cannot be loaded: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
