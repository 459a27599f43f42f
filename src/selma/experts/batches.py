"""What is random in training step s, as a function of seed, skill and s alone.

So a run that is resumed at any step goes on exactly as the one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selma.config.experts import TrainingConfig
from selma.config.timesteps import UNIFORM, TimestepsConfig
from selma.errors import ConfigError
from selma.randomness import generator

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.encoding import Encoded


@dataclass(frozen=True)
class Batch:
    """One step's samples and their random numbers, on the CPU."""

    indices: Tensor
    """[b] which pair."""
    timesteps: Tensor
    """[b] in min_timestep..train_timesteps-1, the higher the noisier."""
    noise: Tensor
    """[b, c, h, w] standard normal: ε."""
    posterior: Tensor
    """[b, c, h, w] standard normal, for the autoencoder's posterior; 0 is its mode."""
    dropped: Tensor
    """[b] bool: train on the empty caption."""
    mirrored: Tensor
    """[b] bool: train on the mirror image."""
    prior: Batch | None = None
    """As many samples of the class images, with randomness of their own (prior preservation)."""

    def twice(self) -> Batch:
        """All rows, and all again with the same randomness; without the prior."""
        twice = (torch.cat([column, column]) for column in self._columns())
        indices, timesteps, noise, posterior, dropped, mirrored = twice
        return Batch(indices, timesteps, noise, posterior, dropped, mirrored)

    def parts(self, size: int) -> Iterator[Batch]:
        """Yield the batch in micro-batches; what a sample gets does not depend on their size."""
        priors = repeat(None) if self.prior is None else self.prior.parts(size)
        splits = zip(*(column.split(size) for column in self._columns()), strict=True)
        for part, prior in zip(splits, priors, strict=False):  # without a prior, None for ever
            yield replace(Batch(*part), prior=prior)

    def _columns(self) -> tuple[Tensor, ...]:
        return (
            self.indices,
            self.timesteps,
            self.noise,
            self.posterior,
            self.dropped,
            self.mirrored,
        )


@dataclass(frozen=True)
class Batches:
    """All steps' batches of one expert."""

    seed: int
    skill: str
    count: int
    """How many pairs there are."""
    batch_size: int
    latent: tuple[int, int, int]
    """(c, h, w)."""
    train_timesteps: int
    """One above the last that is trained on."""
    caption_dropout: float
    flip: bool
    sampled: bool = True
    """Whether latents are samples of their posteriors, rather than the modes."""
    min_timestep: int = 0
    timesteps: TimestepsConfig = UNIFORM
    """How likely each timestep from the least to the last is."""
    prior: Batches | None = None
    """Those of the class images."""

    def at(self, step: int) -> Batch:
        """The batch of step 0, 1, ..."""
        b = self.batch_size
        stream = self._stream("step", step)
        return Batch(
            indices=self._indices(step),
            timesteps=self._timesteps(stream),
            noise=torch.randn((b, *self.latent), generator=stream),
            posterior=torch.randn((b, *self.latent), generator=stream) * self.sampled,
            dropped=torch.rand(b, generator=stream) < self.caption_dropout,
            mirrored=(torch.rand(b, generator=stream) < 0.5) & self.flip,
            prior=None if self.prior is None else self.prior.at(step),
        )

    def _timesteps(self, stream: torch.Generator) -> Tensor:
        first, end, b = self.min_timestep, self.train_timesteps, self.batch_size
        if self.timesteps.plain:
            return torch.randint(first, end, (b,), generator=stream)
        u = shares(self.timesteps, b, generator=stream)
        return first + (u * (end - first)).long().clamp(0, end - first - 1)

    def _indices(self, step: int) -> Tensor:
        """Shuffled epochs one after the other; a batch may span two, so that all are full."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return torch.tensor([int(self._epoch(p // self.count)[p % self.count]) for p in positions])

    def _epoch(self, epoch: int) -> Tensor:
        return _permutation(self.seed, self.skill, self.count, epoch)

    def _stream(self, *names: str | int) -> torch.Generator:
        return generator(self.seed, "experts", self.skill, *names)


def shares(settings: TimestepsConfig, count: int, *, generator: torch.Generator) -> Tensor:
    """u of these many samples, [count] in [0, 1]; 1 is noise alone."""
    from diffusers.training_utils import compute_density_for_timestep_sampling

    u = compute_density_for_timestep_sampling(
        settings.kind,
        count,
        logit_mean=settings.mean,
        logit_std=settings.std,
        mode_scale=settings.scale,
        generator=generator,
    )
    shifted: Tensor = settings.shift * u / (1 + (settings.shift - 1) * u)
    return shifted


def training_batches(
    encoded: Encoded,
    config: TrainingConfig,
    *,
    skill: str,
    seed: int,
    model: TextToImage,
    prior: Encoded | None = None,
) -> Batches:
    """Batches of encoded pairs by the settings; with a prior, each comes with one of the prior's.

    Raises ConfigError unless the settings' timesteps lie in the base's noise schedule.
    """
    train_timesteps = model.noise_path().steps
    end = train_timesteps if config.max_timestep is None else config.max_timestep
    if not config.min_timestep < end <= train_timesteps:
        raise ConfigError(
            f"min_timestep and max_timestep must lie in the base's noise schedule, 0 to "
            f"{train_timesteps}, but are {config.min_timestep} and {end}."
        )
    batches = Batches(
        seed=seed,
        skill=skill,
        count=len(encoded),
        batch_size=config.batch_size,
        latent=tuple(encoded.mean.shape[1:]),  # type: ignore[arg-type]
        min_timestep=config.min_timestep,
        timesteps=config.timesteps or model.family.timesteps,
        train_timesteps=end,
        caption_dropout=config.caption_dropout,
        flip=config.flip,
        sampled=config.latents == "sample",
    )
    if prior is None:
        return batches
    return replace(batches, prior=replace(batches, skill=f"{skill}/prior", count=len(prior)))


@lru_cache(maxsize=4)
def _permutation(seed: int, skill: str, count: int, epoch: int) -> Tensor:
    stream = generator(seed, "experts", skill, "epoch", epoch)
    return torch.randperm(count, generator=stream)
