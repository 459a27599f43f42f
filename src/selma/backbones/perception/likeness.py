"""Networks that turn images (and texts) into vectors of length one, to be compared by cosine.

Of subject-driven generation (DreamBooth, arXiv:2208.12242): DINO compares images, CLIP-I images
and CLIP-T images with texts. Torch is imported at first use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from selma.backbones.hub import find_device, folder_digest, model_config
from selma.backbones.judges.toybox import pixels
from selma.backbones.perception.features import TOYBOX, See, clip_weights, seen
from selma.backbones.preference.clip import clip_and_words, image_features, read_texts
from selma.backbones.preference.preprocessing import normalised, to_tensor
from selma.backbones.weights import Weights, load_network
from selma.config.networks import FeatureNetwork
from selma.errors import ModelError
from selma.image_modes import plain_rgb

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFeatures(Protocol):
    """A network that looks at images."""

    @property
    def name(self) -> str:
        """What it is, with its Hub id or its folder's name, never a path."""
        ...

    @property
    def label(self) -> str:
        """What its column is called."""
        ...

    @property
    def fingerprint(self) -> str: ...

    def of_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[n, d] float32 on the CPU, each of length one; an image's depends on it alone."""
        ...


class TextFeatures(ImageFeatures, Protocol):
    """One that reads texts, too, into the same space."""

    def of_texts(self, texts: Sequence[str]) -> torch.Tensor: ...


def load_dino(config: FeatureNetwork, *, setting: str) -> ImageFeatures:
    """The network that DINO scores are made by; loaded when the first image comes."""
    return ToyboxEncoders() if config.model == TOYBOX else VitFeatures(config, setting=setting)


def load_clip(config: FeatureNetwork, *, setting: str) -> TextFeatures:
    """The CLIP model of CLIP-I and CLIP-T; loaded when the first image comes."""
    return ClipFeatures(config, setting=setting)


class ClipFeatures:
    """Any CLIPModel of transformers."""

    label = "CLIP-I"

    def __init__(self, config: FeatureNetwork, *, setting: str) -> None:
        self._device, self._setting = config.device, setting
        self._files = clip_weights(config.model, config.revision)
        what = "toybox's CLIP" if config.model == TOYBOX else self._files.label
        self.name = f"CLIP ({what})"

    @cached_property
    def fingerprint(self) -> str:
        return _digest("clip features", self._files.fingerprint)

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        device = find_device(self._device, setting=f"{self._setting}.device")
        return clip_and_words(self._files, self._files, device)

    def of_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        model, _ = self._network
        see = image_features(model, self._files)
        return _unit(seen(see, images, device=model.device))

    def of_texts(self, texts: Sequence[str]) -> torch.Tensor:
        import torch

        model, words = self._network
        with torch.inference_mode():
            read = [read_texts(model, words, [text]) for text in texts]
        return _unit(torch.cat(read))


class VitFeatures:
    """The first token ([CLS]) of any vision transformer of transformers, behind its last norm: for
    facebook/dino-vits16 what DreamBooth's and OFT's evaluations compare."""

    label = "DINO"

    def __init__(self, config: FeatureNetwork, *, setting: str) -> None:
        self._device, self._setting = config.device, setting
        self._files = Weights(config.model, config.revision)
        self.name = f"DINO ({self._files.label})"

    @cached_property
    def fingerprint(self) -> str:
        return _digest("first token", self._files.fingerprint)

    @cached_property
    def _network(self) -> tuple[Any, See]:
        from transformers import Dinov2Model, ViTModel

        setting = self._setting
        kind = model_config(self._files.name, self._files.revision, setting=setting)["model_type"]
        if kind not in ("vit", "dinov2"):
            raise ModelError(
                f"{self._files.name} must be a vit or dinov2, but is a {kind}. DINO's own is "
                "facebook/dino-vits16."
            )
        # A pooler is no part of DINO; its weights would be missing.
        model = (
            load_network(ViTModel, self._files, add_pooling_layer=False)
            if kind == "vit"
            else load_network(Dinov2Model, self._files)
        )
        device = find_device(self._device, setting=f"{setting}.device")
        return model.to(device), _fitting(self._files, int(model.config.image_size))

    def of_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        model, fitted = self._network

        def see(batch: Sequence[Image.Image]) -> torch.Tensor:
            tokens: torch.Tensor = model(fitted(batch).to(model.device)).last_hidden_state[:, 0]
            return tokens

        return _unit(seen(see, images, device=model.device))


class ToyboxEncoders:
    """How toybox's two judges see an image: each channel's largest value over all cells, behind
    the last convolution, both halves of length one. Supervised networks, no DINO: they were trained
    to answer questions. Means over cells, as are common, tell of little but the background."""

    name = "toybox's judges' encoders"
    label = "Encoders"

    @cached_property
    def fingerprint(self) -> str:
        from selma.toybox import weights_folder

        digests = (folder_digest(weights_folder() / f"judge-{which}") for which in "ab")
        return _digest("largest over cells", " ".join(digests))

    @cached_property
    def _networks(self) -> list[Any]:
        return [toybox_encoder(which) for which in "ab"]

    def of_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        import torch

        def see(batch: Sequence[Image.Image]) -> torch.Tensor:
            halves = [net(pixels(batch)).amax((2, 3)) for net in self._networks]
            return torch.cat([_unit(half) for half in halves], dim=1)

        return _unit(seen(see, images, device=torch.device("cpu")))


def toybox_encoder(which: str) -> Any:
    """The convolutions of toybox's judge "a" or "b", in their order."""
    from selma.toybox import weights_folder
    from selma.toybox.judges import load_vqa

    return load_vqa(weights_folder() / f"judge-{which}").picture.net


def _fitting(files: Weights, side: int) -> See:
    """What preprocessor_config.json says of size, filter, mean and deviation; where there is none,
    what DINO's evaluations do: shortest side to 256, the middle 224, ImageNet's statistics."""
    path = files.file("preprocessor_config.json")
    try:
        settings = {} if path is None else json.loads(path.read_text("utf-8"))
        size = settings.get("size", {"shortest_edge": round(side * 256 / 224)})
        square = size if isinstance(size, int) else size.get("height")
        short = side if square else int(size.get("shortest_edge", side))
        cut = settings.get("crop_size", side)
        cut = int(cut["height"] if isinstance(cut, dict) else cut)
        filtering = Image.Resampling(settings.get("resample", 3))
        mean, std = (
            settings.get("image_mean", IMAGENET_MEAN),
            settings.get("image_std", IMAGENET_STD),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} must state how images are fitted: {error!r}.") from error

    def fit(image: Image.Image) -> torch.Tensor:
        rgb = plain_rgb(image)
        if square:
            return to_tensor(rgb.resize((int(square), int(square)), filtering))
        scale = short / min(rgb.size)
        width, height = (max(short, round(length * scale)) for length in rgb.size)
        left, top = (width - cut) // 2, (height - cut) // 2
        return to_tensor(
            rgb.resize((width, height), filtering).crop((left, top, left + cut, top + cut))
        )

    return lambda images: normalised([fit(image) for image in images], mean, std)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import normalize

    return normalize(vectors.float().cpu(), dim=-1)


def _digest(what: str, weights: str) -> str:
    return hashlib.sha256(f"{what} {weights}".encode()).hexdigest()[:16]
