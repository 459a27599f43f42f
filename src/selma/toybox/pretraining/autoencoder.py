"""The autoencoder: 64x64 images to 8x8 latents of 8 channels, diffusers' `AutoencoderKL`.

Its latents, with the noise of training's posteriors, are white: of mean 0 and variance 1 in every
direction. That noise is then taken away, so that directions which it filled have next to no
variance in what the denoiser learns.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor

from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import FINE_GRID_PX, Scene, paint, place, render, sample_scene

LATENT_CHANNELS = 8
LATENT_PX = 8
CROP_PX = 32  # training sees crops at objects: four times cheaper, and less of it background
SPREAD = 0.05  # standard deviation of the posteriors
KL_WEIGHT = 2e-3  # per latent value; a decoder that bears noise forgives the denoiser its errors


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # Groups of few channels would norm each image's colour away: one group for all.
        norm_num_groups=1,
        sample_size=IMAGE_PX,
        mid_block_add_attention=False,
    )


def _fine(scene: Scene, rng: random.Random) -> np.ndarray:
    return render(scene, rng, grid_px=FINE_GRID_PX)


def crop_at_object(scene: Scene, rng: random.Random) -> np.ndarray:
    """uint8 RGB crop [32, 32, 3] of an image of a complete scene, at one of its objects."""
    placed = place(scene, rng, grid_px=FINE_GRID_PX)
    target = rng.choice(placed)

    def start(at_px: int) -> int:
        shift = rng.randrange(-CROP_PX + target.side_px // 2, target.side_px // 2 + 1)
        near = round((at_px + shift) / FINE_GRID_PX) * FINE_GRID_PX
        return min(max(near, 0), IMAGE_PX - CROP_PX)

    left, top = start(target.left_px), start(target.top_px)
    return paint(scene, placed)[top : top + CROP_PX, left : left + CROP_PX]


def to_pixels(images: list[np.ndarray]) -> Tensor:
    """uint8 images [h, w, 3] -> [b, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


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
        # Crops have wrong borders and too little background: most steps see whole images.
        uncropped = step >= steps // 4
        look, count = (_fine, batch // 4) if uncropped else (crop_at_object, batch)
        x = to_pixels([look(sample_scene(rng), rng) for _ in range(count)])
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
        "autoencoder",
        vae,
        loss,
        steps=steps,
        learning_rate=2e-3,
        ema_decay=0.995,
        limit_s=limit_s,
        draws={"seed": seed, "batch": batch},
    )
    report = train(course, folder / "checkpoints")
    vae = vae.to("cpu", memory_format=torch.contiguous_format).eval()
    rng = random.Random(f"{seed}/autoencoder/held-out")
    whiten(vae, _scenes(2000, rng))
    vae.save_pretrained(folder / "vae")
    return report | psnr(vae, seed=seed)


@torch.no_grad()
def psnr(vae: AutoencoderKL, *, seed: int, images: int = 100) -> dict[str, float]:
    """How near crisp held-out images come back, in dB: in all, and of the objects of each
    background."""
    rng = random.Random(f"{seed}/autoencoder/psnr")
    errors, decibels = [], {}
    for background in BACKGROUNDS:
        scenes = [
            replace(sample_scene(rng), background=background, finish="crisp") for _ in range(images)
        ]
        places = [place(scene, rng) for scene in scenes]
        x = to_pixels([paint(s, p) for s, p in zip(scenes, places, strict=True)])
        error = (vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1) - x).square()
        of_objects = [
            error[n, :, p.top_px : p.top_px + p.side_px, p.left_px : p.left_px + p.side_px].mean()
            for n, placed in enumerate(places)
            for p in placed
        ]
        errors.append(error.mean())
        decibels[f"objects/{background}"] = _decibels(torch.stack(of_objects).mean())
    return {"psnr_db": _decibels(torch.stack(errors).mean()), **decibels}


def _decibels(error: Tensor) -> float:
    """Of a mean squared error of values in [-1, 1]."""
    return round(float(10 * torch.log10(4 / error)), 2)


def _scenes(count: int, rng: random.Random) -> Tensor:
    return to_pixels([_fine(sample_scene(rng), rng) for _ in range(count)])


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Tensor) -> None:
    """Turns and scales the latents so that samples of the images' posteriors [n, 3, h, w] have mean
    0 and the identity as covariance; what is decoded stays the same.

    The map goes into the two 1x1 convolutions at the latents. The posterior's spread becomes
    `SPREAD` everywhere: the training's own, which makes the decoder bear noise, would be learnt as
    a part of all images.
    """
    generator = torch.Generator().manual_seed(0)
    posteriors = [vae.encode(part).latent_dist for part in images.split(100)]
    samples = torch.cat([p.sample(generator=generator) for p in posteriors])
    values = rearrange(samples, "n c h w -> (n h w) c").double()
    mean = values.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov(values.T))
    to_white = (directions / variances.sqrt()).mT  # white = to_white (latent - mean)
    from_white = directions * variances.sqrt()
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    moments, offset = before.weight[:, :, 0, 0].double(), before.bias.double()
    before.weight[:channels, :, 0, 0] = (to_white @ moments[:channels]).float()
    before.bias[:channels] = (to_white @ (offset[:channels] - mean)).float()
    before.weight[channels:] = 0.0
    before.bias[channels:] = 2 * math.log(SPREAD)
    decoding = after.weight[:, :, 0, 0].double()
    after.bias += (decoding @ mean).float()
    after.weight[:, :, 0, 0] = (decoding @ from_white).float()
    vae.register_to_config(scaling_factor=1.0)
