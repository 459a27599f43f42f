"""Training an expert, encoded before, beside a loop that encodes in every step (B3).

    .venv/bin/python bench/lora_step.py
    .venv/bin/python bench/lora_step.py --steps 3 --rounds 2         # a first look

The loop is that of diffusers' train_text_to_image_lora.py in our own words: in each step it decodes
JPEGs of 512 pixels, tokenises, and runs autoencoder and text encoder before the UNet. It is patched
in one place: gradients are clipped (there, the list of parameters is spent before it is clipped).
Both sides train equal factors on the same pairs with the same noise, timesteps and samples of the
posterior, so that their losses must agree. The networks are narrow, in the proportion of Stable
Diffusion 1: its autoencoder costs 0.61 of a step's arithmetic; the proportion here is printed. Data
loading by other processes would hide some of the decoding on a machine with idle cores.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from turns import in_turn

from selma.adapters import lora
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.experts import ExpertsConfig, LoraConfig
from selma.config.networks import BaseConfig
from selma.experts.batches import Batch, Batches
from selma.experts.encoding import Encoded, encode_pairs
from selma.experts.objective import diffuse
from selma.experts.recipes import picture_digests
from selma.experts.training import fit
from selma.randomness import generator
from selma.records.images import Pair
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import Workspace

PX = 512
SAME = 1e-5
SKILL = "bench"


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of each round.")] = 50,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    batch: Annotated[int, typer.Option(min=1)] = 2,
    pairs: Annotated[int, typer.Option(min=2)] = 16,
) -> None:
    """Prints seconds of both, what encoding cost once, and how far losses differ."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = load_text_to_image(BaseConfig(model=str(narrow(folder / "base")), device="cpu"))
        data = made_up(folder, pairs)
        config = ExpertsConfig(
            adapter=LoraConfig(rank=8),
            steps=steps,
            batch_size=batch,
            precision="fp32",
            checkpoint_every=steps,
        )
        made: list[Encoded] = []
        once = in_turn(
            {"encoding": lambda: made.append(encoded(model, data, folder / f"run-{len(made)}"))},
            rounds=1,
            warm=False,
        ).seconds["encoding"][0]
        numbers = itertools.count()
        logs: dict[str, list[list[float]]] = {"selma": [], "in the loop": []}

        def ours() -> None:
            place = folder / f"fit-{next(numbers)}"
            place.mkdir()
            fit(model, made[0], config, place, skill=SKILL, seed=0, made_by={})
            rows = (place / "loss.jsonl").read_text().splitlines()
            logs["selma"].append([json.loads(row)["loss"] for row in rows])

        def theirs() -> None:
            steps = batches(made[0], config, skill=SKILL)
            logs["in the loop"].append(list(loop(model.pipe, data, steps, config)))

        turns = in_turn({"selma": ours, "in the loop": theirs}, rounds=rounds)
        share = proportion(model, made[0], config)
    differs = max(
        abs(a - b) / b
        for one, other in zip(*logs.values(), strict=True)
        for a, b in zip(one, other, strict=True)
    )
    gain = (np.median(turns.seconds["in the loop"]) - np.median(turns.seconds["selma"])) / steps
    turns.show(
        f"{steps} steps of {batch}, autoencoder : step = {share:.2f} : 1",
        note=f"Encoding {pairs} pairs took {once:.1f} s, as much as {once / gain:.0f} steps save.",
    )
    Console().print(f"Losses differ by at most {differs:.1e} of their size.")
    raise typer.Exit(0 if differs <= SAME else 1)


def narrow(folder: Path) -> Path:
    """A pipeline of Stable Diffusion 1's shape and few channels, for pictures of 512 pixels."""
    torch.manual_seed(0)
    words = tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=8,
        ),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=words,
        unet=UNet2DConditionModel(
            sample_size=PX // 8,
            block_out_channels=(24, 48, 96, 96),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def tokenizer() -> CLIPTokenizer:
    """One token for each letter."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )


def made_up(folder: Path, count: int) -> list[Pair]:
    """Pictures with the detail of photographs, as JPEGs of 512 pixels: smooth noise of all
    sizes."""
    train = folder / "pictures" / "train"
    train.mkdir(parents=True)
    found = []
    for number in range(count):
        draw = np.random.default_rng(number)
        picture = np.zeros((PX, PX, 3))
        for size in (4, 16, 64, 256):
            coarse = Image.fromarray(draw.integers(0, 256, (size, size, 3), np.uint8))
            fine = coarse.resize((PX, PX), Image.Resampling.BICUBIC)
            picture += np.asarray(fine) * (0.5 if size == 4 else 0.17)
        path = train / f"{number}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        text = f"picture number {number} of a bench"
        prompt = Prompt(id=prompt_id(SKILL, text), skill=SKILL, text=text)
        found.append(Pair(prompt=prompt, image=path, seed=number))
    return found


def encoded(model: TextToImage, data: Sequence[Pair], folder: Path) -> Encoded:
    return encode_pairs(
        data,
        Workspace(folder),
        skill=SKILL,
        flip=False,
        digests=picture_digests(data),
        recipe={},
        model=lambda: model,
    )


def batches(data: Encoded, config: ExpertsConfig, *, skill: str) -> Batches:
    return Batches(
        seed=0,
        skill=skill,
        count=len(data),
        batch_size=config.batch_size,
        latent=tuple(data.mean.shape[1:]),
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
    """The loss of each step; in the end `save` gets the factors. `steps` has the random numbers."""
    alphas_bar = pipe.scheduler.alphas_cumprod
    drawn = generator(steps.seed, "experts", steps.skill, "init")
    factors = lora.attach(pipe.unet, config.adapter, generator=drawn)
    try:
        parameters = list(factors.values())
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
        for number in range(config.steps):
            batch = steps.at(number)
            loss = in_the_loop(pipe, [data[i] for i in batch.indices.tolist()], batch, alphas_bar)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            yield loss.item()
        save(factors)
    finally:
        lora.detach(pipe.unet)


def in_the_loop(
    pipe: Any, some: Sequence[Pair], batch: Batch, alphas_bar: torch.Tensor
) -> torch.Tensor:
    pixels, ids = [], []
    for pair in some:
        with Image.open(pair.image) as picture:
            whole = np.asarray(picture.convert("RGB"), dtype=np.float32)
        pixels.append(torch.from_numpy(whole).permute(2, 0, 1) / 127.5 - 1)
        ids.append(
            pipe.tokenizer(
                pair.prompt.text, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids[0]
        )
    with torch.no_grad():
        posterior = pipe.vae.encode(torch.stack(pixels)).latent_dist
        sampled = posterior.mean + posterior.std * batch.posterior
        text = pipe.text_encoder(torch.stack(ids), return_dict=False)[0]
    x0 = sampled * pipe.vae.config.scaling_factor
    noisy = diffuse(x0, batch.noise, alphas_bar[batch.timesteps])
    said = pipe.unet(noisy, batch.timesteps, text, return_dict=False)[0]
    return torch.nn.functional.mse_loss(said.float(), batch.noise.float())


def proportion(model: TextToImage, data: Encoded, config: ExpertsConfig) -> float:
    """The autoencoder's arithmetic for one picture, over that of its training step."""
    from selma.experts.learners import denoising

    factors = lora.attach(model.pipe.unet, config.adapter, generator=torch.Generator())
    batch = next(batches(data, config, skill=SKILL).at(0).parts(1))
    with FlopCounterMode(display=False) as step:
        alphas_bar = model.pipe.scheduler.alphas_cumprod
        denoising(model, data.samples(batch), batch, alphas_bar).mean().backward()
    lora.detach(model.pipe.unet)
    assert factors
    with FlopCounterMode(display=False) as encoder, torch.no_grad():
        model.pipe.vae.encode(torch.zeros(1, 3, PX, PX))
    return encoder.get_total_flops() / step.get_total_flops()


if __name__ == "__main__":
    typer.run(main)
