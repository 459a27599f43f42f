"""The autoencoder: 64x64 pictures to 8x8 latents of 16 channels, diffusers' `AutoencoderKL`."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from selma.toybox.drawing import IMAGE_PX, compose
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import COLOURS, GRID_PX, Placed, Scene, place, sample_scene

LATENT_CHANNELS = 16
LATENT_PX = 8
CROP_PX = 32  # training sees crops at objects: four times cheaper, and less of it background
KL_WEIGHT = 1e-4  # per latent value; keeps the latents near unit scale at no visible cost


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # Groups of few channels would norm each picture's colour away: one group for all.
        norm_num_groups=1,
        sample_size=IMAGE_PX,
        mid_block_add_attention=False,
    )


def render(scene: Scene, rng: random.Random) -> np.ndarray:
    """uint8 RGB picture [64, 64, 3] of a complete scene, objects placed at random."""
    return paint(scene, place(scene, rng))


def paint(scene: Scene, placed: list[Placed]) -> np.ndarray:
    """uint8 RGB picture [64, 64, 3] of a complete scene whose objects have their places."""
    assert scene.background is not None
    return compose(
        scene.background,
        [(p.kind, COLOURS[p.colour], p.side_px, p.left_px, p.top_px) for p in placed],
    )


def crop_at_object(scene: Scene, rng: random.Random) -> np.ndarray:
    """uint8 RGB crop [32, 32, 3] of a picture of a complete scene, at one of its objects."""
    placed = place(scene, rng)
    target = rng.choice(placed)

    def start(at_px: int) -> int:
        shift = rng.randrange(-CROP_PX + target.side_px // 2, target.side_px // 2 + 1)
        near = round((at_px + shift) / GRID_PX) * GRID_PX
        return min(max(near, 0), IMAGE_PX - CROP_PX)

    left, top = start(target.left_px), start(target.top_px)
    return paint(scene, placed)[top : top + CROP_PX, left : left + CROP_PX]


def to_pixels(pictures: list[np.ndarray]) -> Tensor:
    """uint8 pictures [h, w, 3] -> [b, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(
    folder: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains and saves a diffusers folder `folder/vae`; returns its metrics."""
    torch.manual_seed(seed)
    vae = new_autoencoder().to(device, memory_format=torch.channels_last)

    def loss(step: int) -> Tensor:
        rng = random.Random(f"{seed}/autoencoder/{step}")
        # Crops have wrong borders and too little background: most steps see whole pictures.
        whole = step >= steps // 4
        look, count = (render, batch // 4) if whole else (crop_at_object, batch)
        x = to_pixels([look(sample_scene(rng, withheld=True), rng) for _ in range(count)])
        x = x.to(device).contiguous(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            z = posterior.sample(generator=generator)
            y = vae.decode(z).sample
        y = y.float()
        # The absolute error keeps outlines sharp, the squared one colours true.
        error = F.l1_loss(y, x) + F.mse_loss(y, x)
        return error + KL_WEIGHT * posterior.kl().mean() / (LATENT_CHANNELS * LATENT_PX**2)

    course = Course(
        "autoencoder", vae, loss, steps=steps, learning_rate=2e-3, ema_decay=0.995, limit_s=limit_s
    )
    report = train(course, folder / "checkpoints")
    vae = vae.to(memory_format=torch.contiguous_format).eval()
    rng = random.Random(f"{seed}/autoencoder/held-out")
    x = to_pixels([render(sample_scene(rng, withheld=True), rng) for _ in range(256)]).to(device)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
        error = F.mse_loss(vae.decode(z).sample.clamp(-1, 1), x)
    vae.register_to_config(scaling_factor=float(1 / z.std()))
    vae.save_pretrained(folder / "vae")
    return report | {"psnr_db": float(10 * torch.log10(4 / error)), "latent_std": float(z.std())}
