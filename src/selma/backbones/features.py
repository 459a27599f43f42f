"""What an image encoder sees in pictures, as vectors whose distribution can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from PIL import Image

from selma.backbones.hub import find_device
from selma.backbones.judging import ClipScorer, load_scorer
from selma.backbones.preference_clip import load_image_features
from selma.backbones.weights import Weights
from selma.config.scores import PreferenceConfig
from selma.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS_ON_A_GPU = 16

See = Callable[[Sequence[Image.Image]], "Tensor"]
"""Pictures → [b, width]."""


@dataclass(frozen=True)
class PictureFeatures:
    """An image encoder; its network is loaded when the first picture comes."""

    name: str
    fingerprint: str
    device: str
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
        return find_device(self.device, setting="sur.scores.quality.features.device")

    @cached_property
    def _network(self) -> See:
        return self.load(self._where)


def load_features(config: Literal["toybox"] | PreferenceConfig) -> PictureFeatures:
    """The encoder that the settings name: of toybox's scorer, or of any CLIP model. Raises
    ConfigError for a scorer that is no plain CLIP, ModelError for weights that are not there."""
    if isinstance(config, str):
        scorer = load_scorer(config)
        assert isinstance(scorer, ClipScorer)
        return PictureFeatures(
            f"image encoder of {scorer.name}", scorer.fingerprint, "cpu", lambda _: scorer.see
        )
    if config.kind != "clip":
        raise ConfigError(
            f"sur.scores.quality.features must be toybox or of the kind clip, but is {config.kind}."
        )
    weights = Weights(config.model, config.revision)
    return PictureFeatures(
        f"image encoder of {weights.label}",
        weights.fingerprint[:16],
        config.device,
        lambda device: load_image_features(weights, device),
    )
