"""Pre-training resumes exactly, degrades as it says, and ends in folders that plain tools load."""

import itertools
import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from einops import rearrange
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from selma.backbones.text_to_image import load_text_to_image
from selma.config.networks import BaseConfig
from selma.errors import ModelError
from selma.images.plain_diffusers import in_diffusers
from selma.toybox import weights_folder
from selma.toybox.mismatch import WRONG, WRONG_AT_FIRST, Errors
from selma.toybox.pretraining import denoiser, loop, transformer
from selma.toybox.pretraining.autoencoder import (
    SPREAD,
    new_autoencoder,
    to_pixels,
    train_autoencoder,
    whiten,
)
from selma.toybox.pretraining.degradation import degrade
from selma.toybox.pretraining.denoiser import (
    TIMESTEPS,
    encode_scenes,
    sample_timesteps,
    train_base,
)
from selma.toybox.pretraining.language import MAX_TOKENS, new_tokenizer, tokenize
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.pretraining.reading import train_text_encoder
from selma.toybox.pretraining.scoring import train_scorer
from selma.toybox.pretraining.sisters import save_weak, snapshots
from selma.toybox.pretraining.transformer import train_transformer
from selma.toybox.scenes import GRID_PX, place, render, sample_scene


def course(steps: int, *, stop_at: int | None = None) -> Course:
    """A small regression; raises KeyboardInterrupt at `stop_at`, as a person would."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))

    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    return Course(
        "small",
        model,
        loss,
        steps,
        1e-2,
        draws={"seed": 0},
        warmup_steps=3,
        ema_decay=0.9,
        checkpoint_every=5,
    )


@pytest.mark.parametrize("stop_at", [4, 5, 13, 19])
def test_a_resumed_course_equals_an_uninterrupted_one(tmp_path: Path, stop_at: int):
    whole = course(20)
    train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(course(20, stop_at=stop_at), tmp_path / "cut")
    resumed = course(20)
    report = train(resumed, tmp_path / "cut")
    assert report["steps"] == 20
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_limit_of_time_leaves_a_checkpoint_to_go_on_from(tmp_path: Path):
    limited = course(20)
    limited.limit_s = 0.0
    assert train(limited, tmp_path)["steps"] == 0
    resumed, whole = course(20), course(20)
    train(resumed, tmp_path)
    train(whole, tmp_path / "whole")
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    train(course(5), tmp_path)
    other = course(5)
    other.model.append(nn.Linear(1, 1))
    with pytest.raises(ModelError, match=r"small\.safetensors.*another"):
        train(other, tmp_path)


@pytest.mark.parametrize(
    ("differing", "words"),
    [
        ({"steps": 6}, "steps 5 instead of 6"),
        ({"draws": {"seed": 1}}, "seed 0 instead of 1"),
        ({"learning_rate": 2e-2}, "learning_rate 0.01 instead of 0.02"),
    ],
)
def test_a_checkpoint_of_another_course_is_refused(
    tmp_path: Path, differing: dict[str, Any], words: str
):
    train(course(5), tmp_path)
    with pytest.raises(ModelError, match=f"{words}.*Move the file away"):
        train(replace(course(5), **differing), tmp_path)


def test_a_checkpoint_of_another_world_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as before:
        before.setattr(loop, "WORLD", 1)
        train(course(5), tmp_path)
    with pytest.raises(ModelError, match="world 1 instead of"):
        train(course(5), tmp_path)


@pytest.fixture(scope="module")
def before_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a base is trained with: the autoencoder and the text encoder, hardly trained."""
    folder, cpu = tmp_path_factory.mktemp("before"), torch.device("cpu")
    train_autoencoder(folder, steps=2, batch=4, seed=0, device=cpu)
    train_text_encoder(folder, steps=1, batch=4, seed=0, device=cpu)
    return folder


def test_plain_diffusers_and_transformers_load_what_pre_training_leaves(
    before_base: Path, tmp_path: Path
):
    cpu = torch.device("cpu")
    shutil.copytree(before_base, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="--only base"):
        save_weak(tmp_path)
    train_base(tmp_path, steps=2, batch=2, scenes=4, seed=0, device=cpu)
    train_scorer(tmp_path, steps=1, batch=4, seed=0, device=cpu)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "base", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a red dog", num_inference_steps=2).images
    assert image.size == (64, 64)
    assert [*snapshots(tmp_path)] == [1, 2]
    sisters = []
    for step in (None, 2):
        save_weak(tmp_path, step=step)
        sister = StableDiffusionPipeline.from_pretrained(tmp_path / "weak", dtype=torch.float32)
        sisters.append(sister.unet.state_dict())
    # The base goes on after the last snapshot, with captions that err as the web's do.
    networks = [*sisters, pipe.unet.state_dict()]
    for one, other in itertools.combinations(networks, 2):
        assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
    assert CLIPModel.from_pretrained(tmp_path / "clip").config.projection_dim == 128


def test_a_base_stopped_between_and_within_its_courses_is_the_one_never_stopped(
    before_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cpu, whole, cut = torch.device("cpu"), tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        shutil.copytree(before_base, folder)

    def base(folder: Path) -> dict[str, float]:
        return train_base(folder, steps=20, batch=2, scenes=8, seed=0, device=cpu)

    assert base(whole)["steps"] == base(whole)["of_steps"] == 22
    # Stopped in the first course, between both and in the second, with a checkpoint of each step.
    losses, compute = [], denoiser.F.mse_loss

    def stopping(*args: torch.Tensor) -> torch.Tensor:
        losses.append(1)
        if len(losses) in (9, 22, 24):
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(denoiser.F, "mse_loss", stopping)
    monkeypatch.setattr(denoiser, "Course", partial(Course, checkpoint_every=1))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            base(cut)
    assert base(cut)["steps"] == 22
    name = "base/unet/diffusion_pytorch_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_the_transformer_is_a_base_that_plain_diffusers_loads_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cpu, whole, cut = torch.device("cpu"), tmp_path / "whole", tmp_path / "cut"

    def dit(folder: Path) -> dict[str, float]:
        return train_transformer(folder, steps=3, batch=2, scenes=4, seed=0, device=cpu)

    assert dit(whole)["steps"] == 4
    compute = transformer.F.mse_loss
    losses = []

    def stopping(*args: torch.Tensor) -> torch.Tensor:
        losses.append(1)
        if len(losses) == 3:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(transformer.F, "mse_loss", stopping)
    monkeypatch.setattr(denoiser, "Course", partial(Course, checkpoint_every=1))
    with pytest.raises(KeyboardInterrupt):
        dit(cut)
    dit(cut)
    name = "dit/transformer/diffusion_pytorch_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert sum(f.stat().st_size for f in (whole / "dit").rglob("*") if f.is_file()) < 20e6

    base = BaseConfig(model=str(whole / "dit"))
    ours = load_text_to_image(base)
    (image,) = ours.generate(["a red dog"], seeds=[1], steps=2, guidance=2.0, batch_size=1)
    names: dict[str, Any] = {}
    exec(in_diffusers("a red dog", base=base, seed=1, steps=2, guidance=2.0), names)
    differ = np.asarray(image).astype(int) - np.asarray(names["image"])
    assert np.abs(differ).max() <= 1
    # One token stands for T5, and both readers' features are toybox's own, not yet normalised.
    (text,) = ours.text_features(["a red dog"], guided=False).positive.text
    reader = load_text_to_image(BaseConfig()).pipe.text_encoder
    tokens = tokenize(new_tokenizer(), ["a red dog"])[:, : transformer.TOKENS]
    own = reader(tokens, output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(text[:-1], torch.cat([own, own], dim=-1))
    assert len(text) == transformer.TOKENS + 1 and not text[-1].any()


def test_the_loss_falls(tmp_path: Path):
    lesson = course(200)
    before = lesson.loss(10_000).item()
    train(lesson, tmp_path)
    assert lesson.loss(10_000).item() < 0.3 * before


@pytest.mark.parametrize("shipped", ["base/tokenizer", "clip"])
def test_the_tokenizer_is_the_same_each_time_it_is_made(shipped):
    kept = CLIPTokenizer.from_pretrained(weights_folder() / shipped)
    assert new_tokenizer().get_vocab() == kept.get_vocab()


def test_the_tokenizer_takes_any_text_and_one_token_for_each_word_of_toybox():
    tokenizer = new_tokenizer()
    assert len(tokenizer("two sleeping red dogs left of a cat").input_ids) == 8 + 2
    assert tokenizer("naïve 犬 \U0001f600").input_ids[-1] == tokenizer.eos_token_id
    long = tokenizer("dog " * 200, truncation=True).input_ids
    assert len(long) == MAX_TOKENS


def test_pixels_are_in_range_and_degrading_keeps_them_there():
    rng = random.Random(0)
    pixels = to_pixels([render(sample_scene(rng), rng) for _ in range(40)])
    assert pixels.min() >= -1 and pixels.max() <= 1
    worse = degrade(pixels, rng)
    assert worse.shape == pixels.shape and worse.abs().max() <= 1
    same = sum(torch.equal(a, b) for a, b in zip(pixels, worse, strict=True))
    assert 4 <= same <= 24  # about a third is left as it is


def test_timesteps_cover_the_whole_range_and_favour_high_noise():
    t = sample_timesteps(20_000, torch.Generator().manual_seed(0))
    assert t.min() < 10 and t.max() > TIMESTEPS - 10
    share = ((t >= 500) & (t < 900)).float().mean()
    assert 0.45 < share < 0.6  # 0.4 if all were uniform


def test_whitening_makes_samples_white_and_changes_no_picture():
    torch.manual_seed(0)
    vae = new_autoencoder().eval().requires_grad_(False)
    rng = random.Random(0)
    images = to_pixels([render(sample_scene(rng), rng) for _ in range(100)])
    before = vae.encode(images).latent_dist
    decoded = vae.decode(before.mode()).sample
    whiten(vae, images)
    after = vae.encode(images).latent_dist
    torch.testing.assert_close(vae.decode(after.mode()).sample, decoded, atol=1e-4, rtol=1e-3)
    assert torch.allclose(after.std, torch.full_like(after.std, SPREAD))
    old, new = (rearrange(p.mode(), "n c h w -> (n h w) c").double() for p in (before, after))
    map_to_white = torch.linalg.lstsq(old - old.mean(0), new - new.mean(0)).solution
    samples = rearrange(before.sample(torch.Generator().manual_seed(1)), "n c h w -> (n h w) c")
    covariance = torch.cov((samples.double() @ map_to_white).T)
    assert (covariance - torch.eye(len(covariance))).abs().max() < 0.1
    assert new.mean(0).abs().max() < 0.1
    assert vae.config.scaling_factor == 1.0


def test_the_base_sees_objects_on_the_grid_of_its_latents():
    for seed in range(50):
        rng = random.Random(seed)
        scene = sample_scene(rng)
        for placed in place(scene, rng, grid_px=GRID_PX):
            assert placed.left_px % GRID_PX == placed.top_px % GRID_PX == 0


def test_kept_latents_are_those_of_these_weights_and_errors(tmp_path: Path):
    def encoded(vae: AutoencoderKL, errors: Errors, folder: Path = tmp_path) -> torch.Tensor:
        return encode_scenes(vae, range(8), seed=0, folder=folder, errors=errors)

    torch.manual_seed(0)
    vaes = [new_autoencoder().eval() for _ in range(2)]
    origins = list(itertools.product(vaes, (WRONG, WRONG_AT_FIRST)))
    made = [encoded(*origin) for origin in origins]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    for number, (origin, kept) in enumerate(zip(origins, made, strict=True)):
        assert torch.equal(kept, encoded(*origin, tmp_path / str(number)))
    assert not torch.equal(made[0], made[2])
