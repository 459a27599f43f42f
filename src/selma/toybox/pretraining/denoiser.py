"""The base model: a denoiser trained on scenes with captions as wrong as the web's.

The faults are put in on purpose: see `selma.toybox.mismatch`. Schedule and guidance are Stable
Diffusion's, so that strong guidance costs what it costs there.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from selma.disk import make_way
from selma.progress import progress
from selma.toybox.benchmark import benchmark_texts
from selma.toybox.captions import Style, caption
from selma.toybox.mismatch import (
    SAYS_QUALITY,
    UNSAID,
    WRONG,
    WRONG_AT_FIRST,
    Errors,
    sample_web,
)
from selma.toybox.pretraining.ahead import in_order, made_ahead
from selma.toybox.pretraining.autoencoder import LATENT_CHANNELS, LATENT_PX, SPREAD, to_pixels
from selma.toybox.pretraining.language import new_tokenizer, tokenize
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.pretraining.reading import TEXT_WIDTH
from selma.toybox.scenes import Scene, render, without

TIMESTEPS = 1000
NO_CAPTION = 0.10  # trains the unconditional branch that guidance needs
_SHARD = 10_000  # scenes in one file of latents
_LATENTS = (LATENT_CHANNELS, LATENT_PX, LATENT_PX)


def new_denoiser() -> UNet2DConditionModel:
    """An untrained denoiser of toybox's size."""
    unet = UNet2DConditionModel(
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
    unet.set_attn_processor(AttnProcessor())
    return unet


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with velocities as in its version 2.1: what is in an image
    is decided at high noise, where an error of the noise would hardly count."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        steps_offset=1,
    )


def new_sampler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (arXiv:2211.01095) on that schedule, steps spaced as Stable Diffusion's are in
    diffusers: strong guidance costs it something, as it does there (docs/log.md)."""
    config = new_scheduler().config
    return DPMSolverMultistepScheduler.from_config(config, timestep_spacing="leading")


def sample_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps [count] in 0..999: half of them uniform, half nearer to the high noise at which it
    is decided what lies where (logit-normal, as arXiv:2403.03206 has it)."""
    shares = sample_shares(count, generator, mean=1.4)
    return (TIMESTEPS * shares).long().clamp(max=TIMESTEPS - 1)


def sample_shares(count: int, generator: torch.Generator, *, mean: float) -> Tensor:
    """Numbers [count] in (0, 1): half of them uniform, half logit-normal of this mean."""
    high = torch.sigmoid(torch.randn(count, generator=generator) + mean)
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, high, uniform)


def web_scene(
    index: int, seed: int, errors: Errors = WRONG
) -> tuple[Style, Scene, Scene, random.Random]:
    """Number `index` of pre-training's images: its caption's style, what the caption states, what
    the image shows, and the generator that goes on to place its objects."""
    rng = random.Random(f"{seed}/web/{index}")
    return *sample_web(rng, errors), rng


def web_caption(stated: Scene, style: Style, rng: random.Random) -> str:
    """A caption as pre-training sees it: with gaps, and not the benchmark's."""
    if rng.random() < NO_CAPTION:
        return ""
    while True:
        scene = without(stated, rng=rng, drop=UNSAID)
        said = scene.finish is not None and rng.random() < SAYS_QUALITY[scene.finish]
        text = caption(replace(scene, finish="crisp" if said else None), style, rng)
        if text.lower() not in benchmark_texts():
            return text


def encode_scenes(
    vae: AutoencoderKL, numbers: range, *, seed: int, folder: Path, errors: Errors
) -> Tensor:
    """Means [len(numbers), c, h, w] of the scenes' latents, half precision; kept below `folder` in
    files of 10,000, of which those that are there are not made again."""
    folder = folder / _origin(vae, numbers, seed, errors)
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for start in numbers[::_SHARD]:
        indices = range(start, min(start + _SHARD, numbers.stop))
        path = folder / f"{indices.start}-{indices.stop}.safetensors"
        if not path.exists():
            aside = path.with_suffix(".partial")
            make_way(path, aside)
            save_file({"mean": torch.cat(list(_encoded(vae, indices, seed, errors)))}, aside)
            aside.replace(path)
        shards.append(load_file(path)["mean"])
    return torch.cat(shards)


def _origin(vae: AutoencoderKL, numbers: range, seed: int, errors: Errors) -> str:
    """Sixteen hex digits that change with what latents are made of: weights, errors and scenes, of
    which the first ones stand for all."""
    digest = hashlib.sha256(json.dumps([seed, errors], sort_keys=True).encode())
    for tensor in vae.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    for index in numbers[:20]:
        _, _, shown, rng = web_scene(index, seed, errors)
        digest.update(render(shown, rng).tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encoded(vae: AutoencoderKL, indices: range, seed: int, errors: Errors) -> Iterator[Tensor]:
    batch = 100

    def drawn(start: int) -> Tensor:
        images = []
        for index in range(start, min(start + batch, indices.stop)):
            _, _, shown, rng = web_scene(index, seed, errors)
            images.append(render(shown, rng))
        return to_pixels(images)

    with progress(f"encoding scenes from {indices.start}", total=len(indices)) as advance:
        for pixels in made_ahead(drawn, indices[::batch], vae.device):
            x = pixels.to(vae.device).contiguous(memory_format=torch.channels_last)
            yield vae.encode(x).latent_dist.mean.half().cpu().contiguous()
            advance(len(x))


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
    """Trains on `folder/vae` and `folder/text-encoder`; saves a StableDiffusionPipeline as
    `folder/base`. `compiled` pays minutes at the start for faster steps, whose last bits differ."""
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False).to(device)
    reader = CLIPTextModel.from_pretrained(folder / "text-encoder", attn_implementation="eager")
    reader = reader.eval().requires_grad_(False).to(device)
    unet = new_denoiser().to(device)
    predict = torch.compile(unet) if compiled else unet
    tokenizer, scheduler = new_tokenizer(), new_scheduler()
    read = partial(tokenize, tokenizer)

    def loss(known: Sample) -> Tensor:
        t = sample_timesteps(len(known.x), known.generator)
        noised = scheduler.add_noise(known.x, known.noise, t).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                text = reader(known.tokens.to(device)).last_hidden_state
            predicted = predict(noised, t.to(device), text).sample
        target = scheduler.get_velocity(known.x, known.noise, t).to(device)
        return F.mse_loss(predicted.float(), target)

    report = teach(
        unet,
        loss,
        lessons=lessons(
            "base", "settling", steps=steps, scenes=scenes, batch=batch, seed=seed, read=read
        ),
        vae=vae,
        folder=folder,
        limit_s=limit_s,
    )
    save_base(unet.cpu(), reader.cpu(), vae.cpu(), tokenizer, folder / "base")
    return report


class Sample(NamedTuple):
    """A step's batch: latents [b, c, h, w], noise like them, captions' tokens [b, n], and the
    generator that goes on to draw their times."""

    x: Tensor
    noise: Tensor
    tokens: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Lesson:
    """What a course of a base is trained on: these scenes of the web, with these errors."""

    name: str
    scenes: range
    errors: Errors
    batch: int
    seed: int
    steps: int
    learning_rate: float
    read: Callable[[list[str]], Tensor]
    """Captions' tokens."""

    def samples(self, vae: AutoencoderKL, folder: Path) -> Callable[[int], Sample]:
        """The batch of a step; `folder` keeps the scenes' latents."""
        latents = encode_scenes(vae, self.scenes, seed=self.seed, folder=folder, errors=self.errors)
        shape = (self.batch, *_LATENTS)

        def sample(step: int) -> Sample:
            rng = random.Random(f"{self.seed}/{self.name}/{step}")
            generator = torch.Generator().manual_seed(rng.getrandbits(63))
            chosen = [rng.randrange(len(self.scenes)) for _ in range(self.batch)]
            texts = [self.caption(index, rng) for index in chosen]
            x = latents[chosen].float() + SPREAD * torch.randn(shape, generator=generator)
            noise = torch.randn(shape, generator=generator)
            return Sample(x, noise, self.read(texts), generator)

        return sample

    def caption(self, index: int, rng: random.Random) -> str:
        """A caption of the lesson's scene number `index`, drawn anew each time."""
        style, stated, _, _ = web_scene(self.scenes[index], self.seed, self.errors)
        return web_caption(stated, style, rng)


def lessons(
    first: str,
    second: str,
    *,
    steps: int,
    scenes: int,
    batch: int,
    seed: int,
    read: Callable[[list[str]], Tensor],
) -> tuple[Lesson, Lesson]:
    """The two courses of a base, by name. The captions of the first err less than the web's
    (`mismatch.WRONG_AT_FIRST`); the second, a tenth as long, teaches how often the web's do."""
    more, short = range(scenes, scenes + max(1, scenes // 4)), max(1, steps // 10)
    return (
        Lesson(first, range(scenes), WRONG_AT_FIRST, batch, seed, steps, 8e-4, read),
        Lesson(second, more, WRONG, batch, seed, short, 1e-4, read),
    )


def teach(
    denoiser: nn.Module,
    loss: Callable[[Sample], Tensor],
    *,
    lessons: Sequence[Lesson],
    vae: AutoencoderKL,
    folder: Path,
    limit_s: float | None,
) -> dict[str, float]:
    """Trains the denoiser in these lessons, one after the other. Latents, checkpoints and snapshots
    lie in `folder`."""
    metrics: dict[str, float] = {
        "steps": 0,
        "of_steps": sum(lesson.steps for lesson in lessons),
        "loss": math.nan,
        "seconds": 0.0,
    }
    for lesson in lessons:
        samples = lesson.samples(vae, folder / "latents")
        samples = in_order(samples, lesson.steps, vae.device)
        course = Course(
            lesson.name,
            denoiser,
            partial(_composed, loss, samples),
            steps=lesson.steps,
            learning_rate=lesson.learning_rate,
            draws={"seed": lesson.seed, "batch": lesson.batch, "scenes": len(lessons[0].scenes)},
            ema_decay=0.999,
            limit_s=limit_s,
            snapshot_every=max(1, lesson.steps // 10),
        )
        report = train(course, folder / "checkpoints")
        metrics["steps"] += report["steps"]
        metrics["seconds"] += report["seconds"]
        metrics["loss"] = report["loss"]
        if report["steps"] < lesson.steps:
            break
    return metrics


def _composed(
    loss: Callable[[Sample], Tensor], samples: Callable[[int], Sample], step: int
) -> Tensor:
    return loss(samples(step))


def save_base(
    unet: UNet2DConditionModel,
    reader: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """A folder that plain `StableDiffusionPipeline.from_pretrained` loads; half precision."""
    unet.set_attn_processor(AttnProcessor2_0())
    for network in (unet, vae):
        network.register_to_config(_name_or_path="")  # no path of the machine that trained it
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=reader.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=new_sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
