"""What is random in training step s, as a function of seed, skill and s alone.

So a run that is resumed at any step goes on exactly as the one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat

import torch
from torch import Tensor

from selma.randomness import generator


@dataclass(frozen=True)
class Batch:
    """One step's samples and their random numbers, on the CPU."""

    indices: Tensor
    """[b] which pair."""
    timesteps: Tensor
    """[b] uniform in min_timestep..train_timesteps-1."""
    noise: Tensor
    """[b, c, h, w] standard normal: ε."""
    posterior: Tensor
    """[b, c, h, w] standard normal, for the autoencoder's posterior; 0 is its mode."""
    dropped: Tensor
    """[b] bool: train on the empty caption."""
    mirrored: Tensor
    """[b] bool: train on the mirror image."""
    prior: Batch | None = None
    """As many samples of the class pictures, with randomness of their own (prior preservation)."""

    def parts(self, size: int) -> Iterator[Batch]:
        """The same batch in micro-batches; what a sample gets does not depend on their size."""
        priors = repeat(None) if self.prior is None else self.prior.parts(size)
        columns = (
            self.indices,
            self.timesteps,
            self.noise,
            self.posterior,
            self.dropped,
            self.mirrored,
        )
        splits = zip(*(column.split(size) for column in columns), strict=True)
        for some, prior in zip(splits, priors, strict=False):  # without a prior, None for ever
            yield replace(Batch(*some), prior=prior)


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
    """Whether latents are drawn from their posteriors, rather than its modes."""
    min_timestep: int = 0
    prior: Batches | None = None
    """Those of the class pictures."""

    def at(self, step: int) -> Batch:
        """The batch of step 0, 1, ..."""
        b = self.batch_size
        draw = self._stream("step", step)
        return Batch(
            indices=self._indices(step),
            timesteps=torch.randint(self.min_timestep, self.train_timesteps, (b,), generator=draw),
            noise=torch.randn((b, *self.latent), generator=draw),
            posterior=torch.randn((b, *self.latent), generator=draw) * self.sampled,
            dropped=torch.rand(b, generator=draw) < self.caption_dropout,
            mirrored=(torch.rand(b, generator=draw) < 0.5) & self.flip,
            prior=None if self.prior is None else self.prior.at(step),
        )

    def _indices(self, step: int) -> Tensor:
        """Shuffled epochs one after the other; a batch may span two, so that all are full."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return torch.tensor([int(self._epoch(p // self.count)[p % self.count]) for p in places])

    def _epoch(self, epoch: int) -> Tensor:
        return _permutation(self.seed, self.skill, self.count, epoch)

    def _stream(self, *names: str | int) -> torch.Generator:
        return generator(self.seed, "experts", self.skill, *names)


@lru_cache(maxsize=4)
def _permutation(seed: int, skill: str, count: int, epoch: int) -> Tensor:
    stream = generator(seed, "experts", skill, "epoch", epoch)
    return torch.randperm(count, generator=stream)
