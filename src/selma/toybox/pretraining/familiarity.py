"""How well a base knows what it is fine-tuned on: its loss there beside that on its own scenes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count as numbers
from itertools import islice
from typing import Any

import numpy as np
import torch

from selma.toybox.captions import Style
from selma.toybox.pretraining.autoencoder import to_pixels
from selma.toybox.pretraining.denoiser import web_caption, web_scene
from selma.toybox.scenes import GRID_PX, Finish, Scene, render

Sample = tuple[np.ndarray, str]
"""A uint8 RGB image [64, 64, 3] and its caption."""
PASSES = 8
_SEED = 12_345  # of scenes that the base was not trained on


def own_samples(
    count: int,
    *,
    tags: bool | None = None,
    finish: Finish | None = None,
    grid_px: int = GRID_PX,
) -> list[Sample]:
    """Images and captions as pre-training has them; with `tags` of True or False, only those with
    tags, or only those with sentences; with `finish`, only images of that finish."""
    chosen = (
        (render(shown, rng, grid_px=grid_px), text)
        for style, shown, rng, text in _captioned()
        if text and tags in (None, style == "tags") and finish in (None, shown.finish)
    )
    return list(islice(chosen, count))


def single_samples(count: int, *, grid_px: int = GRID_PX) -> list[Sample]:
    """Of pre-training's images the crisp ones with one object, each captioned by its kind alone, as
    a subject's are."""
    chosen = (
        (render(shown, rng, grid_px=grid_px), f"a {shown.groups[0].kind}")
        for _, shown, rng, _ in _captioned()
        if shown.finish == "crisp" and [group.count for group in shown.groups] == [1]
    )
    return list(islice(chosen, count))


def _captioned() -> Iterator[tuple[Style, Scene, random.Random, str]]:
    """Style, what is shown, the generator that places it, and the caption."""
    for index in numbers():
        style, stated, shown, rng = web_scene(index, _SEED)
        caption_rng = random.Random(f"{_SEED}/caption/{index + 1}")
        yield style, shown, rng, web_caption(stated, style, caption_rng)


@torch.no_grad()
def base_loss(model: Any, samples: Sequence[Sample], *, passes: int = PASSES) -> float:
    """The frozen base's mean squared error of its prediction, over timesteps spread evenly.

    model: one of toybox's bases (`TextToImage`). The noise of a pass is equal for all images, so
    that sets of images are compared on equal noise.
    """
    family, vae = model.family, model.pipe.vae
    mean, _ = family.moments(vae, to_pixels([image for image, _ in samples]))
    latents = family.normalised(mean, vae)
    known = model.text_features([text for _, text in samples], guided=False).positive
    generator, path = torch.Generator().manual_seed(0), model.noise_path()
    errors = []
    for number in range(passes):
        noise = torch.randn(latents.shape[1:], generator=generator).expand_as(latents)
        timesteps = torch.full((len(latents),), int((number + 0.5) * path.steps / passes))
        noised = path.noisy(latents, noise, timesteps)
        predicted = family.denoise(model.denoiser, noised, path.times(timesteps), known)
        errors.append((predicted - path.target(latents, noise, timesteps)).square().mean())
    return float(torch.stack(errors).mean())
