"""Diffusion-DPO (arXiv:2311.12908): of two images of a prompt, the winner's error is to fall by
more than the loser's, compared with the base.

Both have the same timestep, noise and place in their posteriors. The base is the same denoiser with
the adapter switched off, in a second pass without gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from selma.config.preferences import DpoObjective
from selma.errors import ConfigError
from selma.experts.learners import AdapterWeights, LearnerParts

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches
    from selma.experts.preferred import Preferred


class Errors(NamedTuple):
    """Mean squared errors of each pair, [b] each, in the paper's order."""

    winner: Tensor
    """m_w, of the model that is trained."""
    loser: Tensor
    """m_l."""
    base_winner: Tensor
    """r_w, of the base."""
    base_loser: Tensor
    """r_l."""

    @property
    def difference(self) -> Tensor:
        """(r_w - r_l) - (m_w - m_l), [b]: 0 as long as the model is the base."""
        return (self.base_winner - self.base_loser) - (self.winner - self.loser)


def sigmoid_loss(difference: Tensor, half_beta: float) -> Tensor:
    """-log σ(β' d), with β' = β / 2 of the paper's equation 14."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(half_beta * difference)


def hinge_loss(difference: Tensor, half_beta: float) -> Tensor:
    """max(0, 1 - β' d), as SLiC has it."""
    return (1 - half_beta * difference).clamp_min(0)


def ipo_loss(difference: Tensor, half_beta: float) -> Tensor:
    """(d - 1 / (2 β'))², arXiv:2310.12036."""
    return (difference - 1 / (2 * half_beta)).square()


LOSSES: dict[str, Callable[[Any, float], Any]] = {
    "sigmoid": sigmoid_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
}


@dataclass(frozen=True)
class DpoLearner:
    """Weights that learn from pairs of winner and loser."""

    settings: DpoObjective
    model: TextToImage
    preferred: Preferred
    """The skill's pairs, which the batches' indices mean."""
    weights: AdapterWeights
    batches: Batches

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        """The four errors are logged apart: both of the trained model's may grow while the loss
        falls."""
        errors = self.errors(batch, noise_path)
        return {
            "loss": LOSSES[self.settings.loss](errors.difference, self.settings.scale),
            "winner_error": errors.winner,
            "loser_error": errors.loser,
            "base_winner_error": errors.base_winner,
            "base_loser_error": errors.base_loser,
            "implicit_accuracy": (errors.difference > 0).float(),
        }

    def errors(self, batch: Batch, noise_path: NoisePath) -> Errors:
        """The four errors of each pair, those of the trained model with a gradient."""
        import torch

        from selma.experts.objectives.denoising import denoising_loss

        pairs = self.preferred
        rows = replace(batch.twice(), indices=pairs.places(batch.indices))
        samples = pairs.encoded.samples(rows).to(self.model.device)
        with torch.no_grad(), self.weights.switched_off():
            base = denoising_loss(self.model, samples, rows, noise_path)
        winner, loser = denoising_loss(self.model, samples, rows, noise_path).chunk(2)
        return Errors(winner, loser, *base.chunk(2))


def learner(settings: DpoObjective, parts: LearnerParts) -> DpoLearner:
    """A learner of these parts. Raises ConfigError unless they have preferences."""
    if parts.preferred is None:
        raise ConfigError(
            "experts.objective dpo learns from pairs of winner and loser, but only images came. "
            "Set images.choose, and hand train_experts the preferences."
        )
    return DpoLearner(settings, parts.model, parts.preferred, parts.weights, parts.batches)
