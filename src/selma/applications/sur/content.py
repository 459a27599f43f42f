"""How much a prompt decides at each timestep: content is decided where there is much noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from selma.applications.sur.encoding import SKILL
from selma.experts.batches import Batch
from selma.experts.losses import denoising_losses
from selma.randomness import generator

if TYPE_CHECKING:
    from selma.applications.sur.learner import SurLearner

TIMESTEPS = 16
"""Where in the noise schedule it is measured, on the captions that stand for all."""


def content_weights(learner: SurLearner) -> Tensor:
    """[timesteps], E || v(z_t, keywords) - v(z_t, empty) ||^2 of the base, over its mean on those
    that are trained on; measured at some, and linear between them."""
    batches = learner.batches
    first, end = batches.min_timestep, batches.train_timesteps
    if learner.config.losses.teacher.timesteps == "even":
        return torch.ones(end, device=learner.model.device)
    at = torch.linspace(first, end - 1, min(TIMESTEPS, end - first)).round().long()
    sizes = [_decided(learner, timestep) for timestep in at.tolist()]
    curve = torch.from_numpy(np.interp(np.arange(end), at.numpy(), sizes))
    return (curve / curve[first:].mean()).float().to(learner.model.device)


@torch.no_grad()
def _decided(learner: SurLearner, timestep: int) -> float:
    """The mean over some samples of what their keyword prompts decide at this timestep."""
    noise_path = learner.model.noise_path()
    gaps = []
    for indices in learner.weights.references.split(learner.config.training.batch_size):
        batch = _batch(learner, indices, timestep)
        scene = learner.scene(batch, noise_path)
        keywords = learner.predict(scene, learner.keywords(scene, batch))
        gaps.append(denoising_losses(keywords, learner.predict(scene, scene.captions)))
    return float(torch.cat(gaps).mean())


def _batch(learner: SurLearner, indices: Tensor, timestep: int) -> Batch:
    """These samples with noise of their own and the empty caption."""
    shape = (len(indices), *learner.batches.latent)
    where = (timestep, int(indices[0]))
    return Batch(
        indices=indices,
        timesteps=torch.full((len(indices),), timestep),
        noise=torch.randn(
            shape, generator=generator(learner.seed, "experts", SKILL, "content", *where)
        ),
        posterior=torch.zeros(shape),
        dropped=torch.ones(len(indices), dtype=torch.bool),
        mirrored=torch.zeros(len(indices), dtype=torch.bool),
    )
