"""One seed → named streams. A stream depends on the run's seed and its names, on nothing else."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from selma.errors import ConfigError

if TYPE_CHECKING:
    import torch

SEEDS = 2**64
"""Seeds are 0 to SEEDS - 1, as torch takes them; what follows the last is the first."""


def require_seed(seed: int) -> int:
    """The seed. Raises ConfigError unless it is a whole number from 0 to 2^64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise ConfigError(f"A seed must be a whole number from 0 to 2^64 - 1, but {seed!r} came.")
    return seed


def following(seed: int, count: int) -> list[int]:
    """The seed and those after it, `count` in all, modulo 2^64."""
    return [(seed + number) % SEEDS for number in range(count)]


def seed_for(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream with these names; equal arguments give equal seeds."""
    # Length prefixes keep ("ab", "c") apart from ("a", "bc").
    text = "/".join(f"{len(str(name))}:{name}" for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *names: str | int) -> random.Random:
    """Python's generator for a named stream."""
    return random.Random(seed_for(seed, *names))


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator of torch for a named stream; CPU, so that every device draws the same."""
    import torch

    return torch.Generator("cpu").manual_seed(seed_for(seed, *names))
