"""The CLIP scorer: `transformers.CLIPModel`, trained on clean captions of scenes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from selma.toybox.benchmark import benchmark_texts
from selma.toybox.captions import STYLES, caption
from selma.toybox.drawing import IMAGE_PX
from selma.toybox.pretraining.autoencoder import to_pixels
from selma.toybox.pretraining.degradation import degrade
from selma.toybox.pretraining.language import MAX_TOKENS, new_tokenizer, tokenize
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import FINE_GRID_PX, render, sample_scene, without

_SAYS_LESS = {"colour": 0.1, "pose": 0.1, "relation": 0.2, "background": 0.3}


def new_scorer(vocabulary: int, start: int, end: int) -> CLIPModel:
    """An untrained CLIP of toybox's size."""
    width = 128
    common = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": width,
    }
    return CLIPModel(
        CLIPConfig(
            text_config=common
            | {
                "vocab_size": vocabulary,
                "max_position_embeddings": MAX_TOKENS,
                "bos_token_id": start,
                "eos_token_id": end,
                "pad_token_id": end,
            },
            vision_config=common | {"image_size": IMAGE_PX, "patch_size": 8},
            projection_dim=width,
        )
    )


def train_scorer(
    folder: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains and saves `folder/clip`; returns retrieval accuracy among 100 held-out images."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    model = new_scorer(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    model.to(device)
    # The fused kernel's backward pass in bfloat16 is many times slower on a CPU.
    model.set_attn_implementation("eager")

    def similarities(rng: random.Random, count: int) -> Tensor:
        """Logits [images, captions]."""
        scenes = [sample_scene(rng) for _ in range(count)]
        images = [render(scene, rng, grid_px=FINE_GRID_PX) for scene in scenes]
        pixels = degrade(to_pixels(images), rng)
        texts = []
        for scene in scenes:
            text = None
            while text is None or text.lower() in benchmark_texts():
                described = without(scene, rng=rng, drop=_SAYS_LESS)
                text = caption(described, rng.choice(STYLES), rng)
            texts.append(text)
        tokens = tokenize(tokenizer, texts)
        return model(input_ids=tokens.to(device), pixel_values=pixels.to(device)).logits_per_image

    def loss(step: int) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = similarities(random.Random(f"{seed}/clip/{step}"), batch).float()
        target = torch.arange(batch, device=device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    course = Course(
        "clip",
        model,
        loss,
        steps=steps,
        learning_rate=1e-3,
        ema_decay=0.995,
        limit_s=limit_s,
        draws={"seed": seed, "batch": batch},
    )
    report = train(course, folder / "checkpoints")
    model.eval().half()
    model.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    _save_preprocessing(folder / "clip")
    model.float()
    rng = random.Random(f"{seed}/clip/held-out")
    with torch.no_grad():
        hits = [
            similarities(rng, 100)
            .argmax(1)
            .eq(torch.arange(100, device=device))
            .float()
            .mean()
            .item()
            for _ in range(5)
        ]
    return report | {"retrieval_of_100": round(100 * sum(hits) / len(hits), 1)}


def _save_preprocessing(folder: Path) -> None:
    """What CLIPImageProcessor needs to turn an image into pixels in [-1, 1]."""
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_PX},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_PX, "width": IMAGE_PX},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n")
