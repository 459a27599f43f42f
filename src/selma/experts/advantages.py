"""How much better than its group an image is, pure. A group is the images of one prompt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TINY = 1e-6
"""Added to deviations, as DDPO's code does."""
Deviation = Literal["round", "prompt"]


def group_advantages(rewards: Tensor, groups: Tensor, *, deviation: Deviation) -> Tensor:
    """(r - mean of its group) / deviation, [n]; 0 in a group whose rewards are all equal.

    rewards: [n].  groups: [n] of numbers from 0.  deviation: of all rewards, or of the group's.
    """
    mean = _mean_by_group(rewards, groups)
    centred = torch.where(has_spread(rewards, groups), rewards - mean, 0.0)
    if deviation == "round":
        return centred / (rewards.std(correction=0) + TINY)
    return centred / (_mean_by_group((rewards - mean).square(), groups).sqrt() + TINY)


def has_spread(rewards: Tensor, groups: Tensor) -> Tensor:
    """[n] of booleans: whether any two rewards of the group differ."""
    count = int(groups.max()) + 1
    low = rewards.new_full((count,), torch.inf).scatter_reduce(0, groups, rewards, "amin")
    high = rewards.new_full((count,), -torch.inf).scatter_reduce(0, groups, rewards, "amax")
    return (high > low)[groups]


def _mean_by_group(values: Tensor, groups: Tensor) -> Tensor:
    """[n]: the mean over the group of each."""
    count = int(groups.max()) + 1
    sums = values.new_zeros(count).index_add(0, groups, values)
    return (sums / torch.bincount(groups, minlength=count).clamp(min=1))[groups]
