"""What an image encoder sees in images, as vectors whose distribution can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image

from selma.backbones.hub import find_device
from selma.backbones.preference.clip import image_features
from selma.backbones.weights import Weights, load_network
from selma.config.scores import PreferenceConfig
from selma.errors import ConfigError, ModelError
from selma.image_modes import plain_rgb
from selma.progress import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOYBOX = "toybox"
ROWS_ON_A_GPU = 16
AT_ONCE = 2 * ROWS_ON_A_GPU
"""Images that are open at the same time; a GPU's rows are full, as if all were."""

See = Callable[[Sequence[Image.Image]], "Tensor"]
"""Images → [b, width]."""


class Features(Protocol):
    """Images → vectors."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def see(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, width], float32, on the CPU."""
        ...


class ClipEncoder:
    """Features of any CLIPModel's image encoder, which is loaded when the first image comes."""

    def __init__(self, weights: Weights, *, name: str, device: str, setting: str) -> None:
        self.weights = weights
        self.name = f"image encoder of {name}"
        self.fingerprint = weights.fingerprint[:16]
        self._device, self._setting = device, setting

    def see(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, width], float32, on the CPU."""
        return seen(self._network, images, device=self._where)

    @cached_property
    def _where(self) -> torch.device:
        return find_device(self._device, setting=self._setting)

    @cached_property
    def _network(self) -> See:
        from transformers import CLIPModel

        return image_features(load_network(CLIPModel, self.weights).to(self._where), self.weights)


class InceptionFeatures:
    """Torchmetrics' own Inception network, by torch-fidelity: the features of the usual FID
    (arXiv:1706.08500)."""

    name = "Inception v3, TensorFlow's weights"
    fingerprint = "inception-2048"

    def __init__(self, *, setting: str) -> None:
        self._setting = setting

    def see(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, 2048]. Raises ModelError where the network cannot be had."""
        import torch

        each = []
        with torch.inference_mode():
            for image in images:
                pixels = torch.from_numpy(np.array(plain_rgb(image)))
                each.append(self._metric.inception(pixels.permute(2, 0, 1)[None]))
        return torch.cat(each).float()

    @cached_property
    def _metric(self) -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        try:
            return FrechetInceptionDistance(feature=2048)
        except Exception as error:  # not installed, or its weights cannot be fetched
            raise ModelError(
                f"{self._setting}: inception needs the package torch-fidelity and its weights: "
                f"{error}"
            ) from error


def load_features(config: Literal["toybox"] | PreferenceConfig, *, setting: str) -> ClipEncoder:
    """The encoder that the settings at `setting` name: of toybox's scorer, or of any CLIP model
    (arXiv:2203.06026 takes CLIP's for FID). Raises ConfigError for a scorer that is no plain CLIP,
    ModelError for weights that are not there."""
    if isinstance(config, str):
        weights = clip_weights(config)
        return ClipEncoder(weights, name="toybox-clip", device="cpu", setting=setting)
    if config.kind != "clip":
        raise ConfigError(f"{setting} must be toybox or of the kind clip, but is {config.kind}.")
    weights = clip_weights(config.model, config.revision)
    where = f"{setting}.device"
    return ClipEncoder(weights, name=weights.label, device=config.device, setting=where)


def clip_weights(model: str, revision: str | None = None) -> Weights:
    """Of a CLIP model by its folder or Hub id; of toybox's scorer by the name toybox."""
    from selma.toybox import weights_folder

    return Weights(str(weights_folder() / "clip")) if model == TOYBOX else Weights(model, revision)


def seen(see: See, images: Sequence[Image.Image], *, device: torch.device) -> Tensor:
    """[n, width], float32, on the CPU. On a CPU an image passes alone, so that no neighbour moves
    its last digits."""
    import torch

    rows = 1 if device.type == "cpu" else ROWS_ON_A_GPU
    with torch.inference_mode():
        rows_of_vectors = [
            see(images[start : start + rows]).float().cpu() for start in range(0, len(images), rows)
        ]
    return torch.cat(rows_of_vectors).clone()  # out of inference mode


def see_all(see: See, images: Iterable[Image.Image], *, total: int, what: str) -> Tensor:
    """[total, width] of images of which few are open at a time; `what` is shown with the
    progress."""
    import torch

    vectors, coming = [], iter(images)
    with progress(f"looking at {what}", total=total) as advance:
        while batch := [*islice(coming, AT_ONCE)]:
            vectors.append(see(batch))
            advance(len(batch))
            del batch  # before the next ones are opened
    return torch.cat(vectors)
