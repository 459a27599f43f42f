"""The landmark reader, trained on scenes whose objects lie anywhere, degraded ones among them."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from selma.toybox.conditions import landmarks
from selma.toybox.drawing import KINDS
from selma.toybox.landmarks import (
    CELL_PX,
    CELLS,
    LandmarkReader,
    ReaderConfig,
    found_landmarks,
)
from selma.toybox.pretraining.autoencoder import to_pixels
from selma.toybox.pretraining.degradation import degrade
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import Placed, paint, place, sample_scene

NAME = "reader"
_RARE = 8.0  # weight of the few cells with a middle among all the empty ones
_PLACE_WEIGHT = 2.0


def train_reader(
    folder: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains and saves `folder/reader`; returns how well it finds held-out objects."""
    torch.manual_seed(seed)
    model = LandmarkReader(ReaderConfig()).to(device)

    def loss(step: int) -> Tensor:
        rng = random.Random(f"{seed}/{NAME}/{step}")
        pixels, each = lesson(rng, batch)
        truth, places = targets(each)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits, positions = model(degrade(pixels, rng).to(device))
        return losses(logits.float(), positions.float(), truth.to(device), places.to(device))

    course = Course(
        NAME,
        model,
        loss,
        steps=steps,
        learning_rate=1e-3,
        ema_decay=0.995,
        limit_s=limit_s,
        draws={"seed": seed, "batch": batch},
    )
    report = train(course, folder / "checkpoints")
    model.cpu().eval().save(folder / NAME)
    return report | accuracies(model, seed=seed)


def lesson(rng: random.Random, count: int) -> tuple[Tensor, list[list[Placed]]]:
    """Images [n, 3, 64, 64] in [-1, 1] and what lies in them."""
    scenes = [sample_scene(rng) for _ in range(count)]
    each = [place(scene, rng, grid_px=1) for scene in scenes]
    return to_pixels([paint(scene, p) for scene, p in zip(scenes, each, strict=True)]), each


def targets(each: list[list[Placed]]) -> tuple[Tensor, Tensor]:
    """[n, kinds, 16, 16] where a middle lies, and [n, 2, 16, 16] where in its cell, NaN in empty
    ones."""
    truth = torch.zeros(len(each), len(KINDS), CELLS, CELLS)
    places = torch.full((len(each), 2, CELLS, CELLS), torch.nan)
    for n, placed in enumerate(each):
        for p in placed:
            x, y = (start + p.side_px / 2 for start in (p.left_px, p.top_px))
            column, row = int(x // CELL_PX), int(y // CELL_PX)
            truth[n, KINDS.index(p.kind), row, column] = 1
            places[n, :, row, column] = torch.tensor([x % CELL_PX, y % CELL_PX]) / CELL_PX
    return truth, places


def losses(logits: Tensor, positions: Tensor, truth: Tensor, places: Tensor) -> Tensor:
    """Loss of which kind lies in which cell, and of where in the cell."""
    seen = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=truth.new_tensor(_RARE))
    here = ~places.isnan()
    return len(KINDS) * seen + _PLACE_WEIGHT * F.l1_loss(positions[here], places[here])


@torch.no_grad()
def accuracies(model: LandmarkReader, *, seed: int, images: int = 500) -> dict[str, float]:
    """Per cent of images in which all objects and nothing else are found, and their middles'
    mean distance in px where so."""
    rng, exact, away = random.Random(f"{seed}/{NAME}/held-out"), 0, []
    for start in range(0, images, 50):
        pixels, each = lesson(rng, min(50, images - start))
        for points, placed in zip(found_landmarks(*model(pixels)), each, strict=True):
            truth = sorted(landmarks(placed), key=lambda p: (p.name, p.x, p.y))
            located = sorted(points, key=lambda p: (p.name, p.x, p.y))
            if [p.name for p in truth] == [p.name for p in located]:
                exact += 1
                away += [
                    CELL_PX * CELLS * ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5
                    for a, b in zip(truth, located, strict=True)
                ]
    middle = {"px": round(sum(away) / len(away), 3)} if away else {}
    return {"whole": round(100 * exact / images, 2), **middle}
