"""The base model: text encoder and denoiser, trained on scenes with captions as noisy as the web's.

The faults are put in on purpose: attributes are dropped or wrong, relations are missing, some
styles are rare, and one colour of each kind is never shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from selma.progress import progress
from selma.toybox.benchmark import benchmark_texts
from selma.toybox.captions import STYLES, caption
from selma.toybox.pretraining.autoencoder import LATENT_CHANNELS, LATENT_PX, render, to_pixels
from selma.toybox.pretraining.language import MAX_TOKENS, new_tokenizer
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import Scene, mistaken, sample_scene, without

TEXT_WIDTH = 128
STYLE_FREQUENCY = {"coco": 0.40, "tags": 0.25, "count": 0.15, "narratives": 0.10, "whoops": 0.10}
FORGOTTEN = {
    "colour": 0.20,
    "count": 0.20,
    "size": 0.30,
    "relation": 0.35,
    "background": 0.30,
    "group": 0.12,
}
WRONG = {"colour": 0.06, "count": 0.08, "relation": 0.08, "background": 0.03}
TIMESTEPS = 1000
NO_CAPTION = 0.10  # trains the unconditional branch that guidance needs


class Base(nn.Module):
    """Text encoder and denoiser, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                projection_dim=TEXT_WIDTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                attn_implementation="eager",
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=LATENT_PX,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(64, 128),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        # The fused kernel's backward pass in bfloat16 is many times slower on a CPU.
        self.unet.set_attn_processor(AttnProcessor())

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        text = self.text_encoder(tokens).last_hidden_state
        return self.unet(latents, timesteps, text).sample


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of toybox's base."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # read by no trailing schedule, but diffusers' pipelines insist
        rescale_betas_zero_snr=True,
    )


def sample_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps [count] in 0..999: half of them uniform, half nearer to the middle, where shapes
    are decided (logit-normal, as arXiv:2403.03206 has it, a little towards less noise)."""
    middle = torch.sigmoid(torch.randn(count, generator=generator) - 0.4)
    uniform = torch.rand(count, generator=generator)
    chosen = torch.where(torch.rand(count, generator=generator) < 0.5, middle, uniform)
    return (TIMESTEPS * chosen).long().clamp(max=TIMESTEPS - 1)


def noisy_caption(scene: Scene, rng: random.Random) -> str:
    """A caption as pre-training sees it: incomplete, sometimes wrong, not the benchmark's."""
    if rng.random() < NO_CAPTION:
        return ""
    style = rng.choices(STYLES, [STYLE_FREQUENCY[s] for s in STYLES])[0]
    while True:
        described = mistaken(without(scene, rng=rng, drop=FORGOTTEN), rng=rng, wrong=WRONG)
        text = caption(described, style, rng)
        if text.lower() not in benchmark_texts():
            return text


def scene_of(index: int, seed: int) -> tuple[Scene, random.Random]:
    """Pre-training's scene number `index`, and the generator that goes on to place its objects."""
    rng = random.Random(f"{seed}/scene/{index}")
    return sample_scene(rng), rng


def encode_scenes(
    vae: AutoencoderKL, count: int, *, seed: int, path: Path
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [count, c, h, w] of the scenes' latents, kept at `path`; what
    it holds already is not encoded again."""
    means, stds, done = [], [], 0
    if path.exists():
        cached = load_file(path)
        done = len(cached["mean"])
        if done >= count:
            return cached["mean"][:count], cached["std"][:count]
        means.append(cached["mean"])
        stds.append(cached["std"])
    batch = 100
    with progress("encoding scenes", total=count, done=done) as advance, torch.no_grad():
        for start in range(done, count, batch):
            images = [
                render(*scene_of(index, seed)) for index in range(start, min(start + batch, count))
            ]
            x = to_pixels(images).to(vae.device).contiguous(memory_format=torch.channels_last)
            posterior = vae.encode(x).latent_dist
            means.append(posterior.mean.half().cpu())
            stds.append(posterior.std.half().cpu())
            advance(len(images))
    mean, std = torch.cat(means).contiguous(), torch.cat(stds).contiguous()
    save_file({"mean": mean, "std": std}, path)
    return mean, std


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids [n, tokens], padded and cut to the tokenizer's length."""
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def train_base(
    folder: Path,
    *,
    steps: int,
    batch: int,
    scenes: int,
    seed: int,
    device: torch.device,
    compiled: bool = False,
    limit_s: float | None = None,
) -> dict[str, float]:
    """Trains on `folder/vae` and saves a StableDiffusionPipeline as `folder/base`.

    `compiled` pays minutes at the start for faster steps, whose last bits differ.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False).to(device)
    mean, std = encode_scenes(vae, scenes, seed=seed, path=folder / "latents.safetensors")
    tokenizer = new_tokenizer()
    base = Base(tokenizer).to(device)
    predict = torch.compile(base) if compiled else base
    scheduler = new_scheduler()

    def loss(step: int) -> Tensor:
        rng = random.Random(f"{seed}/base/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        chosen = [rng.randrange(scenes) for _ in range(batch)]
        texts = [noisy_caption(scene_of(index, seed)[0], rng) for index in chosen]
        shape = (batch, LATENT_CHANNELS, LATENT_PX, LATENT_PX)
        spread = std[chosen].float() * torch.randn(shape, generator=generator)
        latents = (mean[chosen].float() + spread) * vae.config.scaling_factor
        noise = torch.randn(shape, generator=generator)
        t = sample_timesteps(batch, generator)
        noised = scheduler.add_noise(latents, noise, t).to(device)
        tokens = tokenize(tokenizer, texts).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            predicted = predict(noised, t.to(device), tokens)
        velocity = scheduler.get_velocity(latents, noise, t).to(device)
        return F.mse_loss(predicted.float(), velocity)

    course = Course(
        "base", base, loss, steps=steps, learning_rate=8e-4, ema_decay=0.999, limit_s=limit_s
    )
    report = train(course, folder / "checkpoints")
    save_base(base.cpu(), vae.cpu(), tokenizer, folder / "base")
    return report


def save_base(base: Base, vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """A folder that plain `StableDiffusionPipeline.from_pretrained` loads; half precision."""
    base.unet.set_attn_processor(AttnProcessor2_0())
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=base.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=base.unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
