"""Every family with its denoiser replaced by the exact answer for one known image: the training
loss is zero and the sampler returns that image. So sign, time map, shift and normalisation hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderDC, AutoencoderKLQwenImage
from PIL import Image
from torch import Tensor

from selma.backbones.text_to_image import TextToImage
from selma.experts.batches import Batch
from selma.experts.encoding import Samples
from selma.experts.objectives.denoising import denoising_loss

SHAPES = (*tiny.SHAPES, *tiny.FLOW_SHAPES)
DOWN = {"z-image", "lumina-2"}
"""Whose networks count time from noise to image, and predict the velocity that way."""
SHARES = {*tiny.FLOW_SHAPES} - {"sd3", "sana"}
"""Whose networks are told a share of the way, and not its thousandth parts."""


def of_betas(x: Tensor, time: Tensor, x0: Tensor, prediction: str) -> Tensor:
    """What a network of Stable Diffusion's is to predict."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = torch.cumprod(1 - betas, 0)[time.long()].view(-1, 1, 1, 1).to(x.dtype)
    noise = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
    return noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * x0


def of_flow(x: Tensor, time: Tensor, x0: Tensor, shape: str) -> Tensor:
    """The velocity on the line to x, as this network counts time and looks along it."""
    share = time if shape in SHARES else time / 1000
    sigma = (1 - share if shape in DOWN else share).view(-1, *[1] * (x.dim() - 1))
    velocity = (x - x0) / sigma
    return -velocity if shape in DOWN else velocity


def as_taken(model: TextToImage, x0: Tensor, shape: str) -> Tensor:
    """Latents as the family's network takes them."""
    b, c, h, w = x0.shape
    if shape in {"flux.2", "flux.2-base"}:
        return x0.flatten(2).mT
    if hasattr(model.pipe, "_pack_latents"):
        packed: Tensor = model.pipe._pack_latents(x0, b, c, h, w)
        return packed
    return x0.unsqueeze(2) if shape == "z-image" else x0


def replaced(model: TextToImage, x0: Tensor, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is the exact answer from here on, by formulas of the test's own."""
    known = as_taken(model, x0, shape)

    def forward(*args: Any, **named: Any) -> tuple[Any]:
        x = named.get("hidden_states", args[0] if args else None)
        listed = isinstance(x, list)
        x = torch.stack(x) if listed else x
        time = torch.as_tensor(named.get("timestep", args[1] if len(args) > 1 else None))
        time = time.expand(len(x))
        if shape in tiny.FLOW_SHAPES:
            out = of_flow(x, time, known, shape)
        else:
            out = of_betas(x, time, known, model.pipe.scheduler.config.prediction_type)
        return (list(out) if listed else out,)

    monkeypatch.setattr(model.denoiser, "forward", forward)


def image_of(model: TextToImage) -> Tensor:
    """Some image, [1, 3, h, w] in [-1, 1]."""
    side = model.image_px
    return 2 * torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)) - 1


def known(model: TextToImage) -> tuple[Tensor, Tensor]:
    """The latents of that image as trainings keep them, and as the denoiser knows them."""
    with torch.no_grad():
        mean, _ = model.family.moments(model.pipe.vae, image_of(model))
        return mean, model.family.normalised(mean, model.pipe.vae)


def decoded(model: TextToImage) -> Image.Image:
    """That image through the autoencoder and back, by its own class alone."""
    vae, pixels = model.pipe.vae, image_of(model)
    film = isinstance(vae, AutoencoderKLQwenImage)
    with torch.no_grad():
        out = vae.encode(pixels.unsqueeze(2) if film else pixels)
        latent = out.latent if isinstance(vae, AutoencoderDC) else out.latent_dist.mean
        back = vae.decode(latent, return_dict=False)[0]
    back = back.squeeze(2) if film else back
    (right,) = model.pipe.image_processor.postprocess(back, output_type="pil")
    assert isinstance(right, Image.Image)
    return right


@pytest.mark.parametrize("shape", SHAPES)
def test_the_exact_answer_has_no_loss(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.load(shape)
    mean, x0 = known(model)
    path = model.noise_path()
    timesteps = torch.tensor([0, 1, path.steps // 2, path.steps - 1])
    count = len(timesteps)
    replaced(model, x0, shape, monkeypatch)
    rows = torch.zeros(count, dtype=torch.bool)
    batch = Batch(
        indices=torch.zeros(count, dtype=torch.long),
        timesteps=timesteps,
        noise=torch.randn(count, *x0.shape[1:], generator=torch.Generator().manual_seed(1)),
        posterior=torch.zeros(count, *x0.shape[1:]),
        dropped=rows,
        mirrored=rows,
    )
    text = model.text_features(["a cat"] * count, guided=False).positive
    losses = denoising_loss(model, Samples(mean.expand(count, -1, -1, -1), text), batch, path)
    assert losses.max() < 1e-4 * x0.square().mean(), losses


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sampler_returns_the_known_image(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.load(shape)
    scheduler = model.pipe.scheduler
    if "set_alpha_to_one" in scheduler.config:  # else their last step leaves a little noise
        model.pipe.scheduler = type(scheduler).from_config(scheduler.config, set_alpha_to_one=True)
    _, x0 = known(model)
    replaced(model, x0, shape, monkeypatch)
    (made,) = model.generate(["a cat"], seeds=[3], steps=20, guidance=1.0, batch_size=1)
    right = decoded(model)
    differ = np.abs(np.asarray(made).astype(int) - np.asarray(right).astype(int))
    assert differ.max() <= 2, differ.max()
    (latents,) = model.generate_latents(
        model.text_features(["a cat"], guided=False).positive,
        model.text_features([""], guided=False).positive,
        seeds=[4],
        steps=20,
        guidance=1.0,
        batch_size=1,
    )
    (back,) = model.decode([latents], batch_size=1)
    assert np.abs(np.asarray(back).astype(int) - np.asarray(right).astype(int)).max() <= 2
