"""What `base.compile` and `base.channels_last` gain, in drawing and in training (B20).

    .venv/bin/python bench/faster.py                                   # narrow networks, on a CPU
    .venv/bin/python bench/faster.py --size sd1 --device cuda --batch 16 --steps 10

The base as it is and made faster in three ways (or those of --way) take turns, each with equal
weights; what compiling costs once is told apart. Fails if images differ by more than 40 dB of PSNR
or losses by more than they may in that precision.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from generating import GUIDANCE, SAME_DB, decibels
from lora_step import SAME, encoded, made_up, trained
from rich.console import Console
from sizes import SIZES, built, clock
from turns import in_turn

from selma.backbones.hub import find_device
from selma.backbones.speed import make_faster
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.config.networks import BaseConfig

BEFORE = "as it is"
WAYS: dict[str, dict[str, bool]] = {
    BEFORE: {},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "both": {"compile": True, "channels_last": True},
}


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of an image, and of training.")] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=2)] = 8,
    rank: Annotated[int, typer.Option(min=1)] = 8,
    size: Annotated[str, typer.Option(help=f"{', '.join(SIZES)}; random weights.")] = "narrow",
    device: Annotated[str, typer.Option(help="cpu, or cuda, where bf16 is used.")] = "cpu",
    way: Annotated[list[str] | None, typer.Option(help=f"Some of {', '.join(WAYS)}.")] = None,
) -> None:
    """Print seconds of each way; fail if results differ."""
    ways = [name for name in WAYS if not way or name in (BEFORE, *way)]
    torch.set_num_threads(1)
    precision: Literal["fp32", "bf16"] = "bf16" if device == "cuda" else "fp32"
    find_device(device, setting="device")  # as a run does, before the first matrix product
    models = {}
    for name in ways:
        models[name] = built(size, device=device, precision=precision)
        make_faster(models[name].pipe, BaseConfig.model_validate(WAYS[name]), "unet")
    images: dict[str, Any] = {}
    losses: dict[str, list[float]] = {}
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = made_up(folder, batch, models[BEFORE].image_px)
        data = encoded(models[BEFORE], pairs, folder / "run")
        config = ExpertsConfig(
            adapter=LoraConfig(rank=rank),
            steps=steps,
            batch_size=batch,
            precision=precision,
            checkpoint_every=steps,
        )

        def draw(way: str) -> None:
            texts = [f"image number {number} of a bench" for number in range(batch)]
            made = models[way].generate(
                texts, seeds=range(batch), steps=steps, guidance=GUIDANCE, batch_size=batch
            )
            images[way] = np.stack([np.asarray(image) for image in made]).astype(np.float64)

        def train(way: str) -> None:
            place = folder / f"fit-{next(numbers)}"
            losses[way] = trained(models[way], data, config, place)

        for what, do in {"images": draw, "steps of training": train}.items():
            sides = {way: (lambda do=do, way=way: do(way)) for way in ways}
            once = in_turn(sides, rounds=1, warm=False, clock=clock(device)).seconds
            turns = in_turn(sides, rounds=rounds, clock=clock(device))
            first = ", ".join(f"{way} {seconds[0]:.1f} s" for way, seconds in once.items())
            title = f"{size}, {batch} {what}, {steps} steps, {precision}, {device}"
            turns.show(title, note=f"The first time: {first}.")
    apart = [decibels(images[BEFORE], images[way]) for way in ways]
    usual = losses[BEFORE]
    differs = max(abs(a - b) / b for of in losses.values() for a, b in zip(of, usual, strict=True))
    Console().print(
        f"Images are {min(apart):.0f} dB or more alike; losses differ by at most {differs:.1e}."
    )
    raise typer.Exit(0 if min(apart) >= SAME_DB and differs <= SAME[precision] else 1)


if __name__ == "__main__":
    typer.run(main)
