"""The paper's objective: predict what was added to an image, DDPM's simple loss (arXiv:2006.11239,
equation 14)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selma.config.experts import DenoisingObjective
from selma.experts.learners import LearnerParts, TrainedWeights

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches
    from selma.experts.encoding import Encoded, Samples


@dataclass(frozen=True)
class DenoisingLearner:
    """Weights that learn to denoise a skill's images."""

    model: TextToImage
    encoded: Encoded
    weights: TrainedWeights
    batches: Batches

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        samples = self.encoded.samples(batch).to(self.model.device)
        return {"loss": denoising_loss(self.model, samples, batch, noise_path)}


def learner(settings: DenoisingObjective, parts: LearnerParts) -> DenoisingLearner:
    """A learner of these parts."""
    return DenoisingLearner(parts.model, parts.encoded, parts.weights, parts.batches)


def denoising_loss(
    model: TextToImage, samples: Samples, batch: Batch, noise_path: NoisePath
) -> Tensor:
    """The denoising loss of each sample, [b], with a gradient for the samples' text. No sample's
    loss depends on another's."""
    from selma.experts.losses import denoising_losses

    x0 = model.family.normalised(samples.latents, model.pipe.vae)
    noise, timesteps = batch.noise.to(model.device), batch.timesteps.to(model.device)
    prediction = model.family.denoise(
        model.denoiser,
        noise_path.noisy(x0, noise, timesteps).to(model.dtype),
        noise_path.times(timesteps),
        samples.conditioning.to(model.dtype),
    )
    return denoising_losses(prediction, noise_path.target(x0, noise, timesteps))
