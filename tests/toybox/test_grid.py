"""Whatever the base is fine-tuned on lies on the grid that it was trained on, and it shows."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from PIL import Image

from selma.applications.control import sources as control
from selma.applications.control.settings import ControlData, ToyboxImages
from selma.applications.sur import sources as sur
from selma.applications.sur.settings import SurData, ToyboxSamples
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.networks import BaseConfig
from selma.toybox import drawing, subjects
from selma.toybox.captions import caption
from selma.toybox.pretraining.autoencoder import render, to_pixels
from selma.toybox.pretraining.denoiser import scene_of
from selma.toybox.scenes import FINE_GRID_PX, GRID_PX, SIDE_PX

Sample = tuple[np.ndarray, str]
COUNT = 48
PASSES = 4


def scenes(*, grid_px: int = GRID_PX) -> list[Sample]:
    """Pre-training's first scenes, with captions in the most frequent style."""
    samples = []
    for index in range(COUNT):
        scene, draw = scene_of(index, 0)
        text = caption(scene, "coco", random.Random(index))
        samples.append((render(scene, draw, grid_px=grid_px), text))
    return samples


def sur_samples() -> list[Sample]:
    config = SurData(source=ToyboxSamples(count=COUNT))
    rows = sur.candidates(config, seed=0)
    return [(np.asarray(Image.open(io.BytesIO(row.image()))), row.prompt) for row in rows]


def conditioned() -> list[Sample]:
    data = ControlData(condition="canny", source=ToyboxImages(train=COUNT, val=1))
    rows = control.candidates(data, "train", seed=0)
    return [(np.asarray(row.image()), row.text or "") for row in rows]


def subject_images(*, plain: bool = False) -> list[Sample]:
    """Of all subjects; if `plain`, their kinds' sprites in the same colours, sizes and places."""
    each = COUNT // len(subjects.SUBJECTS)
    shown = [replace(s, shape=drawing._SHAPES[s.kind]) if plain else s for s in subjects.SUBJECTS]
    return [
        (image, f"a {subject.kind}")
        for subject in shown
        for image in subjects.images(subject, count=each)
    ]


SOURCES: dict[str, Callable[[], list[Sample]]] = {
    "pre-training": scenes,
    "SUR samples": sur_samples,
    "conditioned images": conditioned,
    "subjects": subject_images,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_lays_its_objects_on_one_grid(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    laid: list[tuple[int, int, int]] = []
    lay = drawing._lay

    def noted(
        scene: np.ndarray, colour: np.ndarray, through: np.ndarray, left: int, top: int
    ) -> None:
        laid.append((left, top, len(colour)))
        lay(scene, colour, through, left, top)

    monkeypatch.setattr(drawing, "_lay", noted)
    assert len(SOURCES[name]()) == COUNT
    assert len(laid) >= COUNT and {side for _, _, side in laid} <= {*SIDE_PX.values()}
    corners = {corner for left, top, _ in laid for corner in (left, top)}
    assert len(corners) > 4 and all(corner % GRID_PX == 0 for corner in corners)


@cache
def base() -> TextToImage:
    return load_text_to_image(BaseConfig(model="toybox", device="cpu", precision="fp32"))


@torch.no_grad()
def loss(samples: Sequence[Sample]) -> float:
    """The frozen base's mean error of velocity over all timesteps; equal noise for every image."""
    pipe = base().pipe
    pixels = to_pixels([image for image, _ in samples])
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    tokens = pipe.tokenizer(
        [text for _, text in samples], padding="max_length", truncation=True, return_tensors="pt"
    )
    texts = pipe.text_encoder(tokens.input_ids).last_hidden_state
    generator = torch.Generator().manual_seed(0)
    steps = pipe.scheduler.config.num_train_timesteps
    errors = []
    for number in range(PASSES):
        noise = torch.randn(latents.shape[1:], generator=generator).expand_as(latents)
        timesteps = torch.full((len(latents),), int((number + 0.5) * steps / PASSES))
        noised = pipe.scheduler.add_noise(latents, noise, timesteps)
        velocity = pipe.scheduler.get_velocity(latents, noise, timesteps)
        errors.append((pipe.unet(noised, timesteps, texts).sample - velocity).square().mean())
    return float(torch.stack(errors).mean())


@pytest.mark.parametrize(
    ("name", "at_most"),
    [
        ("SUR samples", 1.15),
        ("conditioned images", 1.15),
        # Their features, which no sprite has, are what is to be learnt of them.
        ("subjects", 1.35),
        ("sprites in the subjects' places", 1.15),
    ],
)
def test_the_frozen_base_knows_what_it_is_fine_tuned_on(name: str, at_most: float) -> None:
    sources = SOURCES | {"sprites in the subjects' places": partial(subject_images, plain=True)}
    assert loss(sources[name]()) < at_most * loss(scenes())


def test_the_loss_tells_another_grid() -> None:
    assert loss(scenes(grid_px=FINE_GRID_PX)) > 1.4 * loss(scenes())
