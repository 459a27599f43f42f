"""The two judges, trained on scenes, degraded images among them, and claims true and false.

Beside the questions they learn to name what lies in each cell of the image: without that the
feature maps take many times longer to form. The head that names cells is not kept.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX, KINDS, POSES
from selma.toybox.judges import VqaConfig, VqaModel
from selma.toybox.lexicon import words
from selma.toybox.pretraining.autoencoder import to_pixels
from selma.toybox.pretraining.degradation import degrade
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.questions import ask, sample_claim
from selma.toybox.scenes import COLOURS, FINE_GRID_PX, Placed, Scene, paint, place, sample_scene

QUESTIONS_PER_IMAGE = 8
NAMING_WEIGHT = 3.0
NAMES = (*KINDS, *COLOURS, *POSES, *BACKGROUNDS)
_CELLS = 8
_CELL_PX = IMAGE_PX // _CELLS
ARCHITECTURES: dict[str, tuple[Literal["attention", "modulation"], int]] = {
    "judge-a": ("attention", 3),
    "judge-b": ("modulation", 2),
}
"""Name → architecture and number of layers."""


def train_judge(
    folder: Path,
    name: str,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains and saves `folder/<name>`; returns its accuracy in each category."""
    torch.manual_seed(seed)
    architecture, layers = ARCHITECTURES[name]
    config = VqaConfig(architecture=architecture, vocabulary=tuple(words()), layers=layers)
    pupil = Pupil(VqaModel(config)).to(device)
    model = pupil.model

    def loss(step: int) -> Tensor:
        rng = random.Random(f"{seed}/{name}/{step}")
        lesson = question_batch(rng, batch, degraded=True)
        # The fused attention's backward pass in bfloat16 is many times slower on a CPU.
        with torch.autocast(device.type, dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            features = model.encode(lesson.pixels.to(device))
            logits = model.logits(features, model.word_ids(lesson.questions).to(device))
            named = pupil.name_cells(features)
        answers = F.binary_cross_entropy_with_logits(logits.float(), lesson.truth.to(device))
        return answers + NAMING_WEIGHT * naming_loss(named.float(), lesson.cells.to(device))

    course = Course(
        name,
        pupil,
        loss,
        steps=steps,
        learning_rate=1e-3,
        ema_decay=0.995,
        limit_s=limit_s,
        draws={"seed": seed, "batch": batch},
    )
    report = train(course, folder / "checkpoints")
    model.cpu().eval().save(folder / name)
    return report | accuracy(model, seed=seed)


class Pupil(nn.Module):
    """A judge and the head that names the cells while it learns."""

    def __init__(self, model: VqaModel) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.width, len(NAMES))

    def name_cells(self, features: Tensor) -> Tensor:
        """Log-odds [b, 64, names] of what lies in each cell."""
        if features.dim() == 4:
            features = rearrange(features, "b c h w -> b (h w) c")
        return self.head(features)


@dataclass(frozen=True)
class QuestionBatch:
    """Images, and eight questions about each in turn."""

    pixels: Tensor
    """[p, 3, 64, 64] in [-1, 1]."""
    questions: list[str]
    truth: Tensor
    """[8 p], 1 where the answer is yes."""
    categories: list[str]
    cells: Tensor
    """[p, 64, names], 1 for each name that is true of a cell."""


def question_batch(rng: random.Random, images: int, *, degraded: bool) -> QuestionBatch:
    """Renders with questions about them, half of which are to be answered yes."""
    scenes = [sample_scene(rng) for _ in range(images)]
    places = [place(scene, rng, grid_px=FINE_GRID_PX) for scene in scenes]
    pixels = to_pixels([paint(s, placed) for s, placed in zip(scenes, places, strict=True)])
    if degraded:
        pixels = degrade(pixels, rng)
    texts, truth, categories = [], [], []
    for scene, placed in zip(scenes, places, strict=True):
        for _ in range(QUESTIONS_PER_IMAGE):
            claim, true = sample_claim(scene, placed, rng)
            texts.append(ask(claim, _spoken_of(scene, claim, rng)))
            truth.append(float(true))
            categories.append(claim[0])
    cells = [_names_of_cells(s, placed) for s, placed in zip(scenes, places, strict=True)]
    return QuestionBatch(pixels, texts, torch.tensor(truth), categories, torch.stack(cells))


def _names_of_cells(scene: Scene, placed: list[Placed]) -> Tensor:
    names = torch.zeros(_CELLS, _CELLS, len(NAMES))
    names[:, :, NAMES.index(str(scene.background))] = 1
    for p in placed:
        # The cells whose centre the object covers.
        top, left = (-(-(start - _CELL_PX // 2) // _CELL_PX) for start in (p.top_px, p.left_px))
        span = p.side_px // _CELL_PX
        for name in (p.kind, p.colour, p.pose):
            names[top : top + span, left : left + span, NAMES.index(name)] = 1
    return names.flatten(0, 1)


def naming_loss(named: Tensor, cells: Tensor) -> Tensor:
    """Cross-entropy of the names in each cell."""
    # Most names are false of most cells; the weight keeps "nothing" from being a good answer.
    return F.binary_cross_entropy_with_logits(named, cells, pos_weight=cells.new_tensor(4.0))


def _spoken_of(scene: Scene, claim: tuple[str, ...], rng: random.Random) -> dict[str, bool]:
    """Singular or plural as it is in the scene, sometimes the other; at random where absent."""
    many = {group.kind: group.count != 1 for group in scene.groups}
    for kind in claim[1:]:
        if kind not in many or rng.random() < 0.15:
            many[kind] = rng.random() < 0.5
    return many


def accuracy(model: VqaModel, *, seed: int, images: int = 1500) -> dict[str, float]:
    """Per cent right on held-out renders: "clean/<category>" and "degraded/<category>"."""
    accuracies: dict[str, float] = {}
    for kind in ("clean", "degraded"):
        rng = random.Random(f"{seed}/held-out/{kind}")
        right: dict[str, list[bool]] = defaultdict(list)
        for _ in range(images // 100):
            batch = question_batch(rng, 100, degraded=kind == "degraded")
            with torch.no_grad():
                features = model.encode(batch.pixels)
                answered_yes = model.answer(features, batch.questions) > 0.5
            for category, ok in zip(
                batch.categories, answered_yes == (batch.truth > 0.5), strict=True
            ):
                right[category].append(bool(ok))
        for category, answers in sorted(right.items()):
            accuracies[f"{kind}/{category}"] = round(100 * sum(answers) / len(answers), 2)
    return accuracies
