"""Generating images in batches, beside the released loop that does one after the other (B5).

    .venv/bin/python bench/generating.py --prompts 16 --steps 10      # narrow networks, on a CPU
    .venv/bin/python bench/generating.py --size sdxl --device cuda --batch 16 --rounds 2

The released program calls the pipeline with one prompt at a time and saves the image. (Its noise
comes from the global generator, without a seed; here each prompt has its own, or nothing could be
compared.) Both sides have the same random weights, precision and steps, and leave PNGs. Batches of
two sizes must give the same images, too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from sizes import FLOOR, SIZES, Peaks, built, clock
from torch.utils.flop_counter import FlopCounterMode
from turns import in_turn

from selma.backbones.text_to_image import TextToImage

SAME_DB = 40.0
GUIDANCE = 7.5


def main(
    prompts: Annotated[int, typer.Option(min=2)] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 50,
    batch: Annotated[int, typer.Option(min=2, help="Of ours; a CPU's is fixed.")] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    size: Annotated[str, typer.Option(help=f"{', '.join(SIZES)}; random weights.")] = "narrow",
    device: Annotated[str, typer.Option(help="cpu, or cuda, where fp16 is used.")] = "cpu",
) -> None:
    """Print seconds of both; fail if images differ by more than 40 dB of PSNR."""
    torch.set_num_threads(1)
    model = built(size, device=device, precision="fp16" if device == "cuda" else "fp32")
    texts = [f"image number {number} of a bench" for number in range(prompts)]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def ours(place: str = "selma", rows: int = batch) -> None:
            generated = model.generate(
                texts, seeds=range(prompts), steps=steps, guidance=GUIDANCE, batch_size=rows
            )
            (root / place).mkdir(exist_ok=True)
            for number, image in enumerate(generated):
                image.save(root / place / f"{number}.png")

        def theirs() -> None:
            (root / "one by one").mkdir(exist_ok=True)
            for number, text in enumerate(texts):
                one(model, text, number, steps).save(root / "one by one" / f"{number}.png")

        peaks = Peaks(device)
        turns = in_turn(
            {"selma": peaks.of("selma", ours), "one by one": peaks.of("one by one", theirs)},
            rounds=rounds,
            clock=clock(device),
        )
        ours("another batch", batch // 2)
        noise = [psnr(root / "selma", root / other) for other in ("one by one", "another batch")]
    seconds = median(turns.seconds["selma"]) / prompts
    note = f"{seconds:.3f} s an image."
    if device == "cuda":
        note += f" {arithmetic(model, steps) / FLOOR / seconds:.0%} of the floor.{peaks.told()}"
    turns.show(f"{size}, {prompts} prompts of {steps} steps, {model.dtype}", note=note)
    Console().print(
        f"Images: PSNR {noise[0]:.0f} dB at worst against one by one, {noise[1]:.0f} dB against "
        "batches of half the size."
    )
    raise typer.Exit(0 if min(noise) >= SAME_DB else 1)


def one(model: TextToImage, text: str, seed: int, steps: int) -> Image.Image:
    """Generate one prompt as a script does, with a seed."""
    seeded = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn((1, *model.latent_shape), generator=seeded)  # fp16 would draw other numbers
    generated: Image.Image = model.pipe(
        text,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        latents=noise.to(model.device, model.dtype),
        generator=seeded,
    ).images[0]
    return generated


def psnr(folder: Path, other: Path) -> float:
    """PSNR in dB of the images that differ most; 99 if all are equal."""
    worst = 99.0
    for path in sorted(folder.iterdir()):
        a, b = (np.asarray(Image.open(p), dtype=float) for p in (path, other / path.name))
        worst = min(worst, decibels(a, b))
    return worst


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR of images in 0..255; 99 if they are equal."""
    error = float(np.square(one - other).mean())
    return 10 * float(np.log10(255**2 / error)) if error else 99.0


def arithmetic(model: TextToImage, steps: int) -> int:
    """FLOPs of one image: its steps, each with and without the prompt, and its decoding."""
    with FlopCounterMode(display=False) as once:
        one(model, "a bench", 0, 1)
    with FlopCounterMode(display=False) as twice:
        one(model, "a bench", 0, 2)
    step = twice.get_total_flops() - once.get_total_flops()
    return once.get_total_flops() + (steps - 1) * step


if __name__ == "__main__":
    typer.run(main)
