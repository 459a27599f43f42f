"""Features of whole pictures, for distances between sets of them (FID, arXiv:1706.08500).

The usual FID takes those of an Inception network with TensorFlow's weights, which torch-fidelity
has; CLIP's features are the choice of arXiv:2203.06026, and of toybox, where no photo is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from selma.backbones.hub import find_device
from selma.backbones.preprocessing import normalised, shortest_side_and_crop
from selma.backbones.weights import Weights, load_network
from selma.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


class ClipFeatures:
    """A CLIP model's own, before its projection: [b, width]."""

    def __init__(self, model: str, *, device: str) -> None:
        self._files, self._wanted = Weights(model), device
        self._network: Any = None

    @property
    def name(self) -> str:
        return f"CLIP features of {self._files.label}"

    @property
    def fingerprint(self) -> str:
        return self._files.fingerprint[:16]

    def of(self, pictures: Iterable[Image.Image]) -> Tensor:
        import torch

        from selma.backbones.preference_clip import statistics_of

        if self._network is None:
            from transformers import CLIPModel

            device = find_device(self._wanted, setting="control.scores.device")
            self._network = load_network(CLIPModel, self._files).to(device)
        model, each = self._network, []
        mean, std = statistics_of(self._files)
        side = model.config.vision_config.image_size
        with torch.inference_mode():
            for picture in pictures:
                square = shortest_side_and_crop(picture, side, crop="floor")
                seen = normalised([square], mean, std).to(model.device)
                each.append(model.vision_model(pixel_values=seen).pooler_output)
        return torch.cat(each).float().cpu()


class InceptionFeatures:
    """Of torchmetrics' own Inception network, by torch-fidelity."""

    name = "Inception v3, TensorFlow's weights"

    def __init__(self) -> None:
        self._metric: Any = None

    @property
    def fingerprint(self) -> str:
        return "inception-2048"

    def of(self, pictures: Iterable[Image.Image]) -> Tensor:
        import torch

        if self._metric is None:
            from torchmetrics.image.fid import FrechetInceptionDistance

            try:
                self._metric = FrechetInceptionDistance(feature=2048)
            except Exception as error:  # not installed, or its weights cannot be fetched
                raise ModelError(
                    "control.scores.features: inception needs the package torch-fidelity and its "
                    f"weights: {error}"
                ) from error
        each = []
        with torch.inference_mode():
            for picture in pictures:
                pixels = torch.from_numpy(np.array(picture.convert("RGB")))
                each.append(self._metric.inception(pixels.permute(2, 0, 1)[None]))
        return torch.cat(each).float()


Features = ClipFeatures | InceptionFeatures


def load_features(name: str, *, device: str) -> Features:
    """ "toybox", "inception", or a CLIP model's folder or Hub id. Raises ModelError."""
    if name == "inception":
        return InceptionFeatures()
    if name == "toybox":
        from selma.toybox import weights_folder

        return ClipFeatures(str(weights_folder() / "clip"), device=device)
    return ClipFeatures(name, device=device)
