"""Preferences → the images that they are about, each once, and which of them are a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selma.records.images import Pair, Preference

if TYPE_CHECKING:
    from torch import Tensor

    from selma.experts.encoding import Encoded


def preferred_images(preferences: Sequence[Preference]) -> list[Pair]:
    """The images of all preferences with their prompts, each once, in the order in which they
    first come."""
    images = [
        Pair(prompt=preference.prompt, image=image, seed=0)
        for preference in preferences
        for image in (preference.winner, preference.loser)
    ]
    return list({pair.image: pair for pair in images}.values())


def places(preferences: Sequence[Preference]) -> list[tuple[int, int]]:
    """Places of winner and loser among `preferred_images`, for each preference."""
    position = {pair.image: number for number, pair in enumerate(preferred_images(preferences))}
    return [(position[each.winner], position[each.loser]) for each in preferences]


@dataclass(frozen=True)
class Preferred:
    """One skill's preferences in memory."""

    encoded: Encoded
    """The images, each once."""
    winners: Tensor
    """[n], of each preference its winner's place in `encoded`."""
    losers: Tensor
    """[n]."""

    def __len__(self) -> int:
        return len(self.winners)

    def places(self, indices: Tensor) -> Tensor:
        """[2 b]: the places of all winners, then of all losers, of preferences [b]."""
        import torch

        return torch.cat([self.winners[indices], self.losers[indices]])

    @staticmethod
    def of(encoded: Encoded, pairs: Sequence[tuple[int, int]]) -> Preferred:
        """Encoded `preferred_images` with their `places`."""
        import torch

        winners, losers = zip(*pairs, strict=True)
        return Preferred(encoded, torch.tensor(winners), torch.tensor(losers))
