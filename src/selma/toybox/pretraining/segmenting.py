"""The segmenter: `transformers.SegformerForSemanticSegmentation`, trained on scenes.

Its first stage keeps every second pixel, since outlines of 64x64 images are what it is asked for.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from selma.toybox.conditions import CLASSES, classes_of
from selma.toybox.drawing import IMAGE_PX, KINDS
from selma.toybox.pretraining.autoencoder import to_pixels
from selma.toybox.pretraining.degradation import degrade
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import Placed, Scene, paint, place, sample_scene

NAME = "segmenter"
_OBJECTS_FIRST = 4.0
"""Weight of objects' pixels in the first two thirds. They are few: without it the network finds
outlines at once, and kinds only after a thousand steps. Then all pixels are alike, so that
outlines end where they are."""


def new_segmenter() -> SegformerForSemanticSegmentation:
    """An untrained segmenter of toybox's size."""
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            depths=[1, 1, 2, 1],
            hidden_sizes=[24, 48, 96, 128],
            num_attention_heads=[1, 2, 3, 4],
            sr_ratios=[8, 4, 2, 1],
            patch_sizes=[5, 3, 3, 3],
            strides=[2, 2, 2, 2],
            mlp_ratios=[3, 3, 3, 3],
            decoder_hidden_size=96,
            hidden_dropout_prob=0.0,
            classifier_dropout_prob=0.0,
            drop_path_rate=0.0,
            id2label=dict(enumerate(CLASSES)),
            label2id={name: number for number, name in enumerate(CLASSES)},
        )
    )


def train_segmenter(
    folder: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains and saves `folder/segmenter`; returns its accuracies on held-out images."""
    torch.manual_seed(seed)
    model = new_segmenter().to(device)
    model.set_attn_implementation("eager")  # as the scorer

    def loss(step: int) -> Tensor:
        rng = random.Random(f"{seed}/{NAME}/{step}")
        pixels, classes = lesson(rng, batch)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(pixel_values=degrade(pixels, rng).to(device)).logits
        weight = weights(_OBJECTS_FIRST if step < steps * 2 // 3 else 1.0).to(device)
        return F.cross_entropy(enlarged(logits.float()), classes.to(device), weight=weight)

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
    model.cpu().eval().half()
    model.save_pretrained(folder / NAME)
    _save_preprocessing(folder / NAME)
    return report | accuracies(model.float(), seed=seed)


def lesson(rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """Images [n, 3, 64, 64] in [-1, 1] and their classes [n, 64, 64]."""
    scenes = [sample_scene(rng) for _ in range(count)]
    # Anywhere, not on the grid: a model that draws does not keep to it.
    each = [place(scene, rng, grid_px=1) for scene in scenes]
    pixels = to_pixels([paint(scene, placed) for scene, placed in zip(scenes, each, strict=True)])
    maps = [_classes(scene, placed) for scene, placed in zip(scenes, each, strict=True)]
    return pixels, torch.from_numpy(np.stack(maps))


def weights(objects: float) -> Tensor:
    """[classes]: of an object's pixels, with 1 for a background's."""
    return torch.tensor([objects if name in KINDS else 1.0 for name in CLASSES])


def enlarged(logits: Tensor) -> Tensor:
    """[n, classes, 64, 64]."""
    return F.interpolate(logits, size=(IMAGE_PX, IMAGE_PX), mode="bilinear", align_corners=False)


@torch.no_grad()
def accuracies(
    model: SegformerForSemanticSegmentation, *, seed: int, images: int = 200
) -> dict[str, float]:
    """Per cent of pixels that are right, and mean intersection over union, on clean renders."""
    rng = random.Random(f"{seed}/{NAME}/held-out")
    sums = np.zeros((3, len(CLASSES)))
    for start in range(0, images, 50):
        pixels, classes = lesson(rng, min(50, images - start))
        predicted = enlarged(model(pixel_values=pixels).logits).argmax(1).numpy().reshape(-1)
        truth = classes.numpy().reshape(-1)
        sums[0] += np.bincount(truth[predicted == truth], minlength=len(CLASSES))
        sums[1] += np.bincount(truth, minlength=len(CLASSES))
        sums[2] += np.bincount(predicted, minlength=len(CLASSES))
    right, in_truth, in_prediction = sums
    union = in_truth + in_prediction - right
    iou = right[union > 0] / union[union > 0]
    return {
        "pixels": round(100 * float(right.sum() / in_truth.sum()), 2),
        "miou": round(100 * float(iou.mean()), 2),
    }


def _classes(scene: Scene, placed: list[Placed]) -> np.ndarray:
    assert scene.background is not None  # a sampled scene leaves nothing open
    return classes_of(scene.background, placed)


def _save_preprocessing(folder: Path) -> None:
    """What SegformerImageProcessor needs to turn an image into pixels in [-1, 1]."""
    settings = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": True,
        "size": {"height": IMAGE_PX, "width": IMAGE_PX},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_reduce_labels": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n")
