"""The world has a version, and all that is drawn from it and kept is told apart by that."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from selma.applications.control import sources as control
from selma.applications.control.preparing import prepare_control
from selma.applications.control.settings import ControlData, ToyboxImages
from selma.applications.sur import sources as sur
from selma.applications.sur.collecting import collecting_recipe
from selma.applications.sur.settings import SurData, ToyboxSamples
from selma.prompts.questions import sources as questions
from selma.records.prompts import Prompt
from selma.scores.benchmarks import read_benchmark
from selma.toybox import WORLD
from selma.toybox.benchmark import benchmark_prompts
from selma.toybox.pretraining.denoiser import web_caption, web_scene
from selma.toybox.questions import claims
from selma.toybox.scenes import render
from selma.workspace import Workspace, manifest

TEXTS = "e03c7c5d7899da5cfa64cb4f5aab01ba0e0a80b0f780887f502d20cd6735bb73"
"""Digest of scenes, captions, questions and the benchmark."""
BRIGHTNESS = (168.77, 182.66, 179.73)
"""Mean of red, green and blue over the images of 300 scenes."""


def test_the_world_is_the_one_that_its_version_means() -> None:
    """If this fails and was meant to: raise `toybox.WORLD`, train anew, and put the values here."""
    digest, images = hashlib.sha256(), []
    for index in range(300):
        style, stated, shown, rng = web_scene(index, 0)
        images.append(render(shown, rng))
        facts = (style, stated, shown, web_caption(stated, style, rng), claims(shown))
        digest.update(repr(facts).encode())
    for prompt in (*benchmark_prompts("dev"), *benchmark_prompts("test")):
        # None of toybox's has tags or spellings.
        empty = {"tags": True, "questions": {"__all__": {"spellings"}}}
        digest.update(prompt.model_dump_json(exclude=empty).encode())
    brightness = np.mean(images, axis=(0, 1, 2))
    assert WORLD == 2
    assert digest.hexdigest() == TEXTS, brightness
    assert brightness == pytest.approx(BRIGHTNESS, abs=0.05)


def test_another_world_is_another_collection_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SurData(source=ToyboxSamples(count=3))
    recipe = collecting_recipe(config, seed=0)
    monkeypatch.setattr(sur, "WORLD", WORLD + 1)
    assert collecting_recipe(config, seed=0) != recipe


def test_another_world_has_other_images_with_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for world in (WORLD, WORLD + 1):
        monkeypatch.setattr(control, "WORLD", world)
        data = ControlData(condition="canny", source=ToyboxImages(train=1, val=1))
        prepare_control(data, Workspace(tmp_path), px=64, seed=0)
        keys.append(manifest(tmp_path / "2-images/_control/canny/train")["key"])
    assert keys[0] != keys[1]


def test_another_world_has_other_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, prompts = [], {"coco": [Prompt(id="1", skill="coco", text="a red dog")]}
    for world in (WORLD, WORLD + 1):
        monkeypatch.setattr(questions, "WORLD", world)
        questions.write_questions(prompts, "toybox", Workspace(tmp_path), read_file=read_benchmark)
        keys.append(manifest(tmp_path / "1-prompts/_questions/coco")["key"])
    assert keys[0] != keys[1]
