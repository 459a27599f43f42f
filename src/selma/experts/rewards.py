"""What an objective learns from: a reward of each image, and whether it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from selma.errors import ModelError
from selma.image_files import open_image
from selma.progress import warn
from selma.randomness import generator
from selma.workspace import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.records.images import Pair
    from selma.records.prompts import Prompt

PAIRS = 32
"""How many of a skill's pairs a reward is checked on."""
WINS = 0.75
"""Share of prompts for which the own image must beat another, ties counted half."""
LOW = 0.5
"""Of a reward that starts at 0: the share of the own images' mean that others must stay below."""


class Reward(Protocol):
    """Says how good an image of a prompt is; `scores.rewarding`."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """All that rewards depend on beside image and prompt."""
        ...

    @property
    def from_zero(self) -> bool:
        """Whether 0 is the least, and means that nothing is right."""
        ...

    def knows(self, prompt: Prompt) -> bool:
        """Whether images of this prompt can be rewarded."""
        ...

    def rows(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """For each image what is kept of it; its "reward", higher is better, among that. An image's
        depends on itself and its prompt alone."""
        ...


def check_reward(reward: Reward, pairs: Sequence[Pair], path: Path, *, seed: int) -> None:
    """Write to `path` what the reward gives to the base's images, to images of other prompts and to
    noise; warn where it does not tell them apart. A reward that likes noise would be learnt."""
    pairs = pairs[:PAIRS]
    prompts = [pair.prompt for pair in pairs]
    images = [open_image(pair.image) for pair in pairs]
    shown = {"own": images, "others": images[1:] + images[:1], "noise": _noise(images, seed)}
    given = {
        name: rewards_of(reward.rows(several, prompts), what=f"images ({name}) of the check")
        for name, several in shown.items()
    }
    means = {name: round(fmean(values), 4) for name, values in given.items()}
    means |= {
        f"own above {name}": round(_wins(given["own"], given[name]), 4)
        for name in ("others", "noise")
    }
    write_json(path, {"pairs": len(pairs), **means})
    for sentence in _doubts(means, from_zero=reward.from_zero):
        warn(f"Warning: {sentence}")


def rewards_of(rows: Sequence[Mapping[str, Any]], *, what: str) -> list[float]:
    """The rows' rewards. Raises ModelError unless all are finite."""
    rewards = [float(row["reward"]) for row in rows]
    if wrong := [reward for reward in rewards if not math.isfinite(reward)]:
        raise ModelError(
            f"Rewards must be finite, but of {len(rewards)} {what} {len(wrong)} have {wrong[0]}. "
            "Lower the weights of experts.objective.also, or choose another reward."
        )
    return rewards


def _doubts(means: Mapping[str, float], *, from_zero: bool) -> list[str]:
    """A sentence for each kind of wrong image that is rewarded too well."""
    words = {"others": "images of other prompts", "noise": "images of noise"}
    return [
        f"the reward gives {means[name]:.3g} to {shown} and {means['own']:.3g} to the base's own; "
        f"the own one is better for {means[f'own above {name}']:.0%} of prompts. An expert may "
        "learn whatever else the reward likes; look at its images, or choose another reward."
        for name, shown in words.items()
        if means[f"own above {name}"] < WINS or (from_zero and means[name] > LOW * means["own"])
    ]


def _wins(own: Sequence[float], other: Sequence[float]) -> float:
    return fmean((a > b) + 0.5 * (a == b) for a, b in zip(own, other, strict=True))


def _noise(images: Sequence[Image], seed: int) -> list[Image]:
    import torch
    from PIL.Image import fromarray

    stream = generator(seed, "experts", "noise images")
    shapes = [(*image.size[::-1], 3) for image in images]
    pixels = [torch.randint(0, 256, shape, generator=stream) for shape in shapes]
    return [fromarray(values.to(torch.uint8).numpy()) for values in pixels]
