"""The two judges, trained on scenes, degraded pictures among them, and claims true and false."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selma.toybox.judges import VqaConfig, VqaModel
from selma.toybox.lexicon import words
from selma.toybox.pretraining.autoencoder import render, to_pixels
from selma.toybox.pretraining.degradation import degrade
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.questions import ask, sample_claim
from selma.toybox.scenes import Scene, sample_scene

QUESTIONS_PER_PICTURE = 8
ARCHITECTURES: dict[str, Literal["attention", "modulation"]] = {
    "judge-a": "attention",
    "judge-b": "modulation",
}


def train_judge(
    folder: Path, name: str, *, steps: int, batch: int, seed: int, limit_s: float | None = None
) -> dict[str, float]:
    """Trains and saves `folder/<name>`; returns its accuracy in each category, clean and degraded."""
    torch.manual_seed(seed)
    config = VqaConfig(architecture=ARCHITECTURES[name], vocabulary=tuple(words()))
    model = VqaModel(config)

    def loss(step: int) -> Tensor:
        rng = random.Random(f"{seed}/{name}/{step}")
        pixels, asked, truth, _ = examination(rng, batch, degraded=True)
        features = model.encode(pixels).repeat_interleave(QUESTIONS_PER_PICTURE, dim=0)
        logits = model.logits(features, model.word_ids(asked))
        return F.binary_cross_entropy_with_logits(logits, truth)

    course = Course(name, model, loss, steps=steps, learning_rate=1e-3, ema_decay=0.995, limit_s=limit_s)
    report = train(course, folder / "checkpoints")
    model.eval().save(folder / name)
    return report | accuracy(model, seed=seed)


def examination(
    rng: random.Random, pictures: int, *, degraded: bool
) -> tuple[Tensor, list[str], Tensor, list[str]]:
    """Pixels [p, 3, 64, 64], and for each picture in turn eight questions: texts, truth [8 p],
    categories."""
    scenes = [sample_scene(rng, withheld=True) for _ in range(pictures)]
    pixels = to_pixels([render(scene, rng) for scene in scenes])
    if degraded:
        pixels = degrade(pixels, rng)
    texts, truth, categories = [], [], []
    for scene in scenes:
        for _ in range(QUESTIONS_PER_PICTURE):
            claim, true = sample_claim(scene, rng)
            texts.append(ask(claim, _spoken_of(scene, claim, rng)))
            truth.append(float(true))
            categories.append(claim[0])
    return pixels, texts, torch.tensor(truth), categories


def _spoken_of(scene: Scene, claim: tuple[str, ...], rng: random.Random) -> dict[str, bool]:
    """Singular or plural as it is in the scene, sometimes the other; at random where absent."""
    many = {group.kind: group.count != 1 for group in scene.groups}
    for kind in claim[1:]:
        if kind not in many or rng.random() < 0.15:
            many[kind] = rng.random() < 0.5
    return many


def accuracy(model: VqaModel, *, seed: int, pictures: int = 1500) -> dict[str, float]:
    """Per cent right on held-out renders: "clean/<category>" and "degraded/<category>"."""
    found: dict[str, float] = {}
    for kind in ("clean", "degraded"):
        rng = random.Random(f"{seed}/held-out/{kind}")
        right: dict[str, list[bool]] = defaultdict(list)
        for _ in range(pictures // 100):
            pixels, asked, truth, categories = examination(rng, 100, degraded=kind == "degraded")
            with torch.no_grad():
                features = model.encode(pixels).repeat_interleave(QUESTIONS_PER_PICTURE, dim=0)
                said = model.answer(features, asked) > 0.5
            for category, ok in zip(categories, said == (truth > 0.5), strict=True):
                right[category].append(bool(ok))
        for category, answers in sorted(right.items()):
            found[f"{kind}/{category}"] = round(100 * sum(answers) / len(answers), 2)
    return found
