"""Every family with its denoiser replaced by the exact answer for one known image: the training
loss is zero and the sampler returns that image. So sign, time map, shift and normalisation hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from selma.backbones.text_to_image import TextToImage
from selma.experts.batches import Batch
from selma.experts.encoding import Samples
from selma.experts.objectives.denoising import denoising_loss

Answer = Callable[[Tensor, Tensor], Tensor]


def answer(model: TextToImage, x0: Tensor) -> Answer:
    """(x_t, time as the network is told) -> its exact prediction, by formulas of the test's own."""
    schedule = model.pipe.scheduler

    def of_flow(x: Tensor, time: Tensor) -> Tensor:
        return (x - x0) / (time / 1000).view(-1, 1, 1, 1)

    def of_betas(x: Tensor, time: Tensor) -> Tensor:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha = torch.cumprod(1 - betas, 0)[time.long()].view(-1, 1, 1, 1).to(x.dtype)
        noise = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        if schedule.config.prediction_type == "epsilon":
            return noise
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0

    return of_betas if hasattr(schedule, "betas") else of_flow


def replaced(model: TextToImage, exact: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*args: Any, **named: Any) -> tuple[Tensor]:
        x = named.get("hidden_states", args[0] if args else None)
        time = named.get("timestep", args[1] if len(args) > 1 else None)
        return (exact(x, torch.as_tensor(time).expand(len(x))),)

    monkeypatch.setattr(model.denoiser, "forward", forward)


def known(model: TextToImage) -> tuple[Tensor, Tensor]:
    """The autoencoder's latents of an image and the same as the denoiser knows them."""
    side = model.image_px
    pixels = 2 * torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        mean, _ = model.family.moments(model.pipe.vae, pixels)
    return mean, model.family.normalised(mean, model.pipe.vae.config)


@pytest.mark.parametrize("shape", (*tiny.SHAPES, *tiny.FLOW_SHAPES))
def test_the_exact_answer_has_no_loss(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.load(shape)
    mean, x0 = known(model)
    path = model.noise_path()
    timesteps = torch.tensor([0, 1, path.steps // 2, path.steps - 1])
    count = len(timesteps)
    replaced(model, answer(model, x0), monkeypatch)
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


@pytest.mark.parametrize("shape", (*tiny.SHAPES, *tiny.FLOW_SHAPES))
def test_the_sampler_returns_the_known_image(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.load(shape)
    scheduler = model.pipe.scheduler
    if "set_alpha_to_one" in scheduler.config:  # else their last step leaves a little noise
        model.pipe.scheduler = type(scheduler).from_config(scheduler.config, set_alpha_to_one=True)
    mean, x0 = known(model)
    replaced(model, answer(model, x0), monkeypatch)
    (made,) = model.generate(["a cat"], seeds=[3], steps=20, guidance=1.0, batch_size=1)
    with torch.no_grad():
        pixels = model.pipe.vae.decode(mean, return_dict=False)[0]
    (right,) = model.pipe.image_processor.postprocess(pixels, output_type="pil")
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
    (decoded,) = model.decode([latents], batch_size=1)
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(right).astype(int)).max() <= 2
