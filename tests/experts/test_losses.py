"""The losses' algebra, against diffusers' own scheduler."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from selma.backbones.families.paths import (
    TARGETS,
    RectifiedFlow,
    VariancePreserving,
    diffuse,
    velocity,
)
from selma.config.timesteps import TimestepsConfig
from selma.errors import ConfigError
from selma.experts.losses import denoising_losses, require_weights, timestep_weights


@pytest.fixture
def generated():
    torch.manual_seed(0)
    x0, noise = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    return x0, noise, torch.tensor([0, 1, 500, 998, 999])


def test_diffusion_and_velocity_agree_with_diffusers(generated):
    x0, noise, t = generated
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    alpha_bar = scheduler.alphas_cumprod[t]
    torch.testing.assert_close(diffuse(x0, noise, alpha_bar), scheduler.add_noise(x0, noise, t))
    torch.testing.assert_close(velocity(x0, noise, alpha_bar), scheduler.get_velocity(x0, noise, t))


@pytest.mark.parametrize("kind", TARGETS)
def test_every_target_gives_the_clean_image_back(generated, kind):
    x0, noise, t = generated
    scheduler = DDPMScheduler(prediction_type=kind, clip_sample=False)
    alpha_bar = scheduler.alphas_cumprod[t].double()
    x0, noise = x0.double(), noise.double()
    said = TARGETS[kind](x0, noise, alpha_bar)
    for i, step in enumerate(t):
        noisy = diffuse(x0, noise, alpha_bar)[i : i + 1]
        out = scheduler.step(said[i : i + 1], int(step), noisy)
        torch.testing.assert_close(out.pred_original_sample, x0[i : i + 1], atol=1e-3, rtol=1e-3)


def test_one_sample_never_alters_anothers_loss(generated):
    x0, noise, _ = generated
    before = denoising_losses(x0, noise)
    x0[1] = float("nan")
    after = denoising_losses(x0, noise)
    assert torch.isnan(after[1])
    keep = [0, 2, 3, 4]
    assert torch.equal(before[keep], after[keep])


def test_half_precision_is_squared_in_float32():
    large = torch.full((1, 4, 8, 8), 300.0, dtype=torch.float16)  # its square overflows float16
    assert denoising_losses(large, torch.zeros_like(large)).tolist() == [90_000.0]


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("none", [1.0, 1.0, 1.0]),
        ("sigma_sqrt", [16.0, 4.0, 1.0]),
        ("cosmap", [2 / (math.pi * 0.625), 4 / math.pi, 2 / math.pi]),
    ],
)
def test_timesteps_count_by_their_share_of_noise(weighting: str, expected: list[float]) -> None:
    """arXiv:2403.03206: σ⁻², and 2 / (π (1 - 2σ + 2σ²))."""
    path = RectifiedFlow(torch.tensor([0.25, 0.5, 1.0]))
    settings = TimestepsConfig(weighting=weighting)
    weights = timestep_weights(settings, path, torch.arange(3))
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_what_has_no_share_of_noise_cannot_be_weighted_by_it() -> None:
    path = VariancePreserving(torch.tensor([0.9, 0.5]), "epsilon")
    require_weights(TimestepsConfig(), path, prior=True)
    with pytest.raises(ConfigError, match="straight lines"):
        require_weights(TimestepsConfig(weighting="cosmap"), path, prior=False)
    flow = RectifiedFlow(torch.tensor([0.5]))
    with pytest.raises(ConfigError, match="class images"):
        require_weights(TimestepsConfig(weighting="cosmap"), flow, prior=True)
