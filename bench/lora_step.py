"""Training an expert, encoded before, beside a loop that encodes in every step (B3, B4).

    .venv/bin/python bench/lora_step.py
    .venv/bin/python bench/lora_step.py --steps 3 --rounds 2         # a first look
    .venv/bin/python bench/lora_step.py --size sdxl --device cuda --batch 64 --micro 8 --steps 30

The loop is that of diffusers' train_text_to_image_lora.py in our own words: in each step it
decodes JPEGs, tokenises, and runs autoencoder and text encoders before the UNet. It is patched in
one place: gradients are clipped (there, the list of parameters is spent before it is clipped). Both
sides train equal factors on the same pairs with the same noise, timesteps and samples of the
posterior, so that their losses must agree. The narrow networks read images of 512 pixels; their
autoencoder should cost 0.61 of a step's arithmetic, as Stable Diffusion 1's does. The proportion is
printed, in arithmetic and in seconds. Data loading by other processes would hide some of the
decoding on a machine with idle cores.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from sizes import FLOOR, SIZES, Peaks, built, clock
from torch.utils.flop_counter import FlopCounterMode
from turns import in_turn

from selma.adapters import lora
from selma.backbones.families.paths import diffuse
from selma.backbones.text_to_image import TextToImage
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.experts.batches import Batch, Batches
from selma.experts.encoding import Encoded, encode_pairs
from selma.experts.recipes import image_digests
from selma.experts.skills import expert_learner
from selma.experts.training import fit
from selma.randomness import generator
from selma.records.images import Pair
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import Workspace

SAME = {"fp32": 1e-5, "bf16": 2e-2}
"""How far losses may differ, as a share."""
SKILL = "bench"


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of each round.")] = 50,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    batch: Annotated[int, typer.Option(min=1)] = 2,
    pairs: Annotated[int, typer.Option(min=2)] = 16,
    rank: Annotated[int, typer.Option(min=1)] = 8,
    micro: Annotated[int | None, typer.Option(min=1, help="Samples in a backward pass.")] = None,
    size: Annotated[str, typer.Option(help=f"{', '.join(SIZES)}; random weights.")] = "narrow",
    device: Annotated[str, typer.Option(help="cpu, or cuda, where bf16 is used.")] = "cpu",
    kernels: Annotated[bool, typer.Option("--kernels", help="Tell what takes our time.")] = False,
) -> None:
    """Print seconds of both, what encoding cost once, and how far losses differ."""
    torch.set_num_threads(1)
    precision: Literal["fp32", "bf16"] = "bf16" if device == "cuda" else "fp32"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = built(size, device=device, precision=precision)
        data = made_up(folder, pairs, model.image_px)
        config = ExpertsConfig(
            adapter=LoraConfig(rank=rank),
            steps=steps,
            batch_size=batch,
            micro_batch_size=micro,
            precision=precision,
            checkpoint_every=steps,
        )
        made: list[Encoded] = []
        once = in_turn(
            {"encoding": lambda: made.append(encoded(model, data, folder / f"run-{len(made)}"))},
            rounds=1,
            warm=False,
            clock=clock(device),
        ).seconds["encoding"][0]
        numbers = itertools.count()
        logs: dict[str, list[list[float]]] = {"selma": [], "in the loop": []}

        def ours() -> None:
            logs["selma"].append(trained(model, made[0], config, folder / f"fit-{next(numbers)}"))

        def theirs() -> None:
            steps = batches(made[0], config, skill=SKILL)
            logs["in the loop"].append(list(loop(model.pipe, data, steps, config)))

        peaks = Peaks(device)
        sides = {"selma": ours, "in the loop": theirs}
        turns = in_turn(
            {name: peaks.of(name, side) for name, side in sides.items()},
            rounds=rounds,
            clock=clock(device),
        )
        if kernels:
            tell_kernels(ours, device)
        cost = arithmetic(model, made[0], config)
        encoding = in_turn(
            {"one": lambda: encode(model, min(batch, micro or batch))},
            rounds=3,
            clock=clock(device),
        ).seconds["one"]
    differs = max(
        abs(a - b) / b
        for one, other in zip(*logs.values(), strict=True)
        for a, b in zip(one, other, strict=True)
    )
    step = median(turns.seconds["selma"]) / steps
    gain = median(turns.seconds["in the loop"]) / steps - step
    share = median(encoding) / min(batch, micro or batch) * batch / step
    note = f"Encoding {pairs} pairs took {once:.1f} s"
    note += f", as much as {once / gain:.0f} steps save." if gain > 0 else "; no step saves any."
    if device == "cuda":
        note += f" {cost['step'] * batch / FLOOR / step:.0%} of the floor.{peaks.told()}"
    turns.show(f"{size}, {steps} steps of {batch} at rank {rank}, {precision}", note=note)
    Console().print(
        f"Autoencoder : step = {cost['encoder'] / cost['step']:.2f} : 1 in arithmetic, "
        f"{share:.2f} : 1 in seconds.\nLosses differ by at most {differs:.1e} of their size."
    )
    raise typer.Exit(0 if differs <= SAME[precision] else 1)


def tell_kernels(work: Callable[[], None], device: str) -> None:
    """Print what the device does most of the time while it works."""
    with torch.profiler.profile() as profiled:
        work()
    by = f"self_{device}_time_total"
    print(profiled.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=70))


def trained(model: TextToImage, data: Encoded, config: ExpertsConfig, place: Path) -> list[float]:
    """The losses of an expert that is trained in a new folder."""
    place.mkdir()
    learner = expert_learner(model, data, config, skill=SKILL, seed=0)
    fit(learner, config, place, made_by={})
    rows = (place / "loss.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


def made_up(folder: Path, count: int, px: int) -> list[Pair]:
    """Square images with the detail of photographs, as JPEGs: smooth noise of all sizes."""
    train = folder / "images" / "train"
    train.mkdir(parents=True)
    found = []
    for number in range(count):
        generate = np.random.default_rng(number)
        image = np.zeros((px, px, 3))
        for size in (4, 16, 64, 256):
            coarse = Image.fromarray(generate.integers(0, 256, (size, size, 3), np.uint8))
            fine = coarse.resize((px, px), Image.Resampling.BICUBIC)
            image += np.asarray(fine) * (0.5 if size == 4 else 0.17)
        path = train / f"{number}.jpg"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        text = f"image number {number} of a bench"
        prompt = Prompt(id=prompt_id(SKILL, text), skill=SKILL, text=text)
        found.append(Pair(prompt=prompt, image=path, seed=number))
    return found


def encoded(model: TextToImage, data: Sequence[Pair], folder: Path) -> Encoded:
    return encode_pairs(
        data,
        Workspace(folder),
        skill=SKILL,
        flip=False,
        digests=image_digests(data),
        recipe={},
        model=lambda: model,
    )


def batches(data: Encoded, config: ExpertsConfig, *, skill: str) -> Batches:
    _, channels, height, width = data.mean.shape
    return Batches(
        seed=0,
        skill=skill,
        count=len(data),
        batch_size=config.batch_size,
        latent=(channels, height, width),
        train_timesteps=1000,
        caption_dropout=config.caption_dropout,
        flip=False,
    )


def loop(
    pipe: Any,
    data: Sequence[Pair],
    steps: Batches,
    config: ExpertsConfig,
    *,
    save: Callable[[dict[str, torch.nn.Parameter]], None] = lambda factors: None,
) -> Iterator[float]:
    """Yield the loss of each step; `steps` has the random numbers, `save` gets the factors."""
    alphas_bar = pipe.scheduler.alphas_cumprod.to(pipe.unet.device)
    mixed = config.precision == "bf16"
    generated = generator(steps.seed, "experts", steps.skill, "init")
    factors = lora.attach(pipe.unet, lora_of(config), generator=generated)
    try:
        parameters = list(factors.values())
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
        size = config.micro_batch_size or config.batch_size
        for number in range(config.steps):
            total = 0.0
            for batch in steps.at(number).parts(size):
                some = [data[i] for i in batch.indices.tolist()]
                with torch.autocast(pipe.unet.device.type, torch.bfloat16, enabled=mixed):
                    loss = in_the_loop(pipe, some, batch, alphas_bar)
                share = len(some) / config.batch_size
                (loss * share).backward()
                total += loss.item() * share
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            yield total
        save(factors)
    finally:
        lora.detach(pipe.unet)


def lora_of(config: ExpertsConfig) -> LoraConfig:
    assert isinstance(config.adapter, LoraConfig)
    return config.adapter


def in_the_loop(
    pipe: Any, some: Sequence[Pair], batch: Batch, alphas_bar: torch.Tensor
) -> torch.Tensor:
    pixels = []
    for pair in some:
        with Image.open(pair.image) as image:
            whole = np.asarray(image.convert("RGB"), dtype=np.float32)
        pixels.append(torch.from_numpy(whole).permute(2, 0, 1) / 127.5 - 1)
    device, dtype = pipe.unet.device, pipe.unet.dtype
    with torch.no_grad():
        posterior = pipe.vae.encode(torch.stack(pixels).to(device, dtype)).latent_dist
        generated = batch.posterior.to(device)
        sampled = posterior.mean.float() + posterior.std.float() * generated
        text, conditions = _read(pipe, [pair.prompt.text for pair in some], dtype)
    x0 = sampled * pipe.vae.config.scaling_factor
    noise, timesteps = batch.noise.to(device), batch.timesteps.to(device)
    noisy = diffuse(x0, noise, alphas_bar[timesteps]).to(dtype)
    said = pipe.unet(noisy, timesteps, text, added_cond_kwargs=conditions, return_dict=False)[0]
    return torch.nn.functional.mse_loss(said.float(), noise.float())


def _read(
    pipe: Any, texts: list[str], dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
    """The UNet's conditioning: embeddings, and for SDXL the pooled ones and the image's size."""
    if getattr(pipe, "text_encoder_2", None) is None:
        ids = [
            pipe.tokenizer(
                text, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids[0]
            for text in texts
        ]
        return pipe.text_encoder(torch.stack(ids).to(pipe.unet.device), return_dict=False)[0], None
    text, _, pooled, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    time_ids = torch.tensor([[side, side, 0, 0, side, side]] * len(texts), dtype=dtype)
    return text, {"text_embeds": pooled, "time_ids": time_ids.to(text.device)}


def arithmetic(model: TextToImage, data: Encoded, config: ExpertsConfig) -> dict[str, int]:
    """FLOPs of one sample's training step, and of the autoencoder for its image."""
    from selma.experts.objectives.denoising import denoising_loss

    factors = lora.attach(model.denoiser, lora_of(config), generator=torch.Generator())
    batch = next(batches(data, config, skill=SKILL).at(0).parts(1))
    mixed = config.precision == "bf16"
    with FlopCounterMode(display=False) as step:
        noise_path = model.noise_path()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            losses = denoising_loss(model, data.samples(batch).to(model.device), batch, noise_path)
        losses.mean().backward()
    lora.detach(model.denoiser)
    assert factors
    with FlopCounterMode(display=False) as encoder:
        encode(model, 1)
    return {"step": step.get_total_flops(), "encoder": encoder.get_total_flops()}


@torch.no_grad()
def encode(model: TextToImage, count: int) -> None:
    """The autoencoder's part of a step, on empty images."""
    px = model.image_px
    model.pipe.vae.encode(torch.zeros(count, 3, px, px, device=model.device, dtype=model.dtype))


if __name__ == "__main__":
    typer.run(main)
