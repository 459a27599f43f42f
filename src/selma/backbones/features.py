"""What an image encoder sees in pictures, as vectors whose distribution can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image

from selma.backbones.hub import find_device
from selma.backbones.judging import ClipScorer, load_scorer
from selma.backbones.preference_clip import load_image_features
from selma.backbones.weights import Weights
from selma.config.scores import PreferenceConfig
from selma.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS_ON_A_GPU = 16

See = Callable[[Sequence[Image.Image]], "Tensor"]
"""Pictures → [b, width]."""


class Features(Protocol):
    """Pictures → vectors."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def see(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[n, width], float32, on the CPU."""
        ...


@dataclass(frozen=True)
class PictureFeatures:
    """An image encoder; its network is loaded when the first picture comes."""

    name: str
    fingerprint: str
    device: str
    setting: str
    """Where the device stands, for messages."""
    load: Callable[[torch.device], See]

    def see(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[n, width], float32, on the CPU. On a CPU a picture passes alone, so that no other moves
        its last digits."""
        import torch

        rows = 1 if self._where.type == "cpu" else ROWS_ON_A_GPU
        with torch.inference_mode():
            found = [
                self._network(pictures[start : start + rows]).float().cpu()
                for start in range(0, len(pictures), rows)
            ]
        return torch.cat(found).clone()  # out of inference mode

    @cached_property
    def _where(self) -> torch.device:
        return find_device(self.device, setting=self.setting)

    @cached_property
    def _network(self) -> See:
        return self.load(self._where)


class InceptionFeatures:
    """Of torchmetrics' own Inception network, by torch-fidelity: those of the usual FID
    (arXiv:1706.08500)."""

    name = "Inception v3, TensorFlow's weights"
    fingerprint = "inception-2048"

    def see(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[n, 2048]. Raises ModelError where the network cannot be had."""
        import torch

        each = []
        with torch.inference_mode():
            for picture in pictures:
                pixels = torch.from_numpy(np.array(picture.convert("RGB")))
                each.append(self._metric.inception(pixels.permute(2, 0, 1)[None]))
        return torch.cat(each).float()

    @cached_property
    def _metric(self) -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        try:
            return FrechetInceptionDistance(feature=2048)
        except Exception as error:  # not installed, or its weights cannot be fetched
            raise ModelError(
                "control.scores.features: inception needs the package torch-fidelity and its "
                f"weights: {error}"
            ) from error


def load_features(config: Literal["toybox"] | PreferenceConfig, *, setting: str) -> PictureFeatures:
    """The encoder that the settings at `setting` name: of toybox's scorer, or of any CLIP model
    (arXiv:2203.06026 takes CLIP's for FID). Raises ConfigError for a scorer that is no plain CLIP,
    ModelError for weights that are not there."""
    if isinstance(config, str):
        scorer = load_scorer(config)
        assert isinstance(scorer, ClipScorer)
        name = f"image encoder of {scorer.name}"
        return PictureFeatures(name, scorer.fingerprint, "cpu", setting, lambda _: scorer.see)
    if config.kind != "clip":
        raise ConfigError(f"{setting} must be toybox or of the kind clip, but is {config.kind}.")
    weights = Weights(config.model, config.revision)
    return PictureFeatures(
        f"image encoder of {weights.label}",
        weights.fingerprint[:16],
        config.device,
        f"{setting}.device",
        lambda device: load_image_features(weights, device),
    )
