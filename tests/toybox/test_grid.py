"""Whatever the base is fine-tuned on lies on the grid that it was trained on, and it shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from PIL import Image

from selma.applications.control import sources as control
from selma.applications.control.settings import ControlData, ToyboxImages
from selma.applications.sur import sources as sur
from selma.applications.sur.settings import SurData, ToyboxSamples
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.networks import BaseConfig
from selma.toybox import drawing, subjects
from selma.toybox.pretraining.familiarity import Sample, base_loss, own_samples, single_samples
from selma.toybox.scenes import FINE_GRID_PX, SIDE_PX

COUNT = 48
PASSES = 4


def sur_samples() -> list[Sample]:
    config = SurData(source=ToyboxSamples(count=COUNT))
    rows = sur.candidates(config, seed=0)
    return [(np.asarray(Image.open(io.BytesIO(row.image()))), row.prompt) for row in rows]


def conditioned() -> list[Sample]:
    data = ControlData(condition="canny", source=ToyboxImages(train=COUNT, val=1))
    rows = control.candidates(data, "train", seed=0)
    return [(np.asarray(row.image()), row.text or "") for row in rows]


def subject_images(*, plain: bool = False) -> list[Sample]:
    """Of all subjects; if `plain`, their kinds' sprites in the same colours and places."""
    each = COUNT // len(subjects.SUBJECTS)
    shown = [replace(s, shape=drawing._SHAPES[s.kind]) if plain else s for s in subjects.SUBJECTS]
    return [
        (image, f"a {subject.kind}")
        for subject in shown
        for image in subjects.images(subject, count=each)
    ]


SOURCES: dict[str, Callable[[], list[Sample]]] = {
    "pre-training": partial(own_samples, COUNT),
    "SUR samples": sur_samples,
    "conditioned images": conditioned,
    "subjects": subject_images,
}


OWN: dict[str, Callable[..., list[Sample]]] = {
    "all": own_samples,
    "crisp": partial(own_samples, finish="crisp"),
    "single": single_samples,
}
"""The base's own scenes: all, those that are crisp, and single objects by their kinds."""


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
    assert len(laid) >= COUNT and {side for _, _, side in laid} == {SIDE_PX}
    assert {corner for left, top, _ in laid for corner in (left, top)} == {0, 8, 32, 40}


@cache
def base() -> TextToImage:
    return load_text_to_image(BaseConfig(model="toybox", device="cpu", precision="fp32"))


def loss(samples: list[Sample]) -> float:
    return base_loss(base(), samples, passes=PASSES)


@pytest.mark.parametrize(
    ("name", "own", "at_most"),
    [
        ("SUR samples", "all", 1.15),
        # Crisp whatever their captions are, where the base has seen most sentences' images soft.
        ("conditioned images", "crisp", 1.3),
        ("sprites in the subjects' places", "single", 1.15),
        # Their features, which no sprite has, are what is to be learnt of them.
        ("subjects", "single", 1.9),
    ],
)
def test_the_frozen_base_knows_what_it_is_fine_tuned_on(
    name: str, own: str, at_most: float
) -> None:
    sources = SOURCES | {"sprites in the subjects' places": partial(subject_images, plain=True)}
    assert loss(sources[name]()) < at_most * loss(OWN[own](COUNT))


@pytest.mark.parametrize(("own", "at_least"), [("all", 2.5), ("crisp", 2.5), ("single", 1.9)])
def test_the_loss_tells_another_grid(own: str, at_least: float) -> None:
    assert loss(OWN[own](COUNT, grid_px=FINE_GRID_PX)) > at_least * loss(OWN[own](COUNT))
