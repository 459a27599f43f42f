"""A step of Diffusion-DPO beside the plain step, on the same images: time and memory.

    .venv/bin/python bench/dpo_step.py
    .venv/bin/python bench/dpo_step.py --size sd1 --device cuda --batch 16

A pair is two images with a gradient and two without (the base's, with the adapter switched off), so
that with a backward pass of two forward passes a step should cost (2 x 3 + 2) / 3 = 2.7 plain ones
of as many samples, and hold the activations of two images for each pair. No second model is loaded.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from lora_step import SKILL, encoded, made_up
from rich.console import Console
from sizes import MIB, SIZES, Peaks, built, bytes_held, clock
from turns import in_turn

from selma.backbones.text_to_image import TextToImage
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.config.preferences import DpoObjective
from selma.experts.encoding import Encoded
from selma.experts.skills import expert_learner


def main(
    batch: Annotated[int, typer.Option(min=1, help="Pairs, or images, of a step.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Of each round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    rank: Annotated[int, typer.Option(min=1)] = 8,
    size: Annotated[str, typer.Option(help=f"{', '.join(SIZES)}; random weights.")] = "narrow",
    device: Annotated[str, typer.Option(help="cpu or cuda, in float32.")] = "cpu",
) -> None:
    """Print seconds of both, and the most bytes that a step makes beside the weights."""
    torch.set_num_threads(1)
    model = built(size, device=device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = encoded(model, made_up(folder, 4, model.image_px), folder / "run")
    plain = ExpertsConfig(adapter=LoraConfig(rank=rank), batch_size=batch, precision="fp32")
    dpo = plain.model_copy(update={"objective": DpoObjective()})
    sides = {
        "plain": lambda: taken(model, data, plain, steps),
        "dpo": lambda: taken(model, data, dpo, steps),
    }
    peaks = Peaks(device)
    turns = in_turn(
        {side: peaks.of(side, run) for side, run in sides.items()},
        rounds=rounds,
        clock=clock(device),
    )
    turns.show(f"{size}, {steps} steps of {batch} at rank {rank}, fp32", note=peaks.told().strip())
    plain_bytes, dpo_bytes = (
        bytes_held(partial(taken, model, data, config, 1)) for config in (plain, dpo)
    )
    Console().print(
        f"Beside the weights a step holds {plain_bytes / MIB:.1f} MiB (plain) and "
        f"{dpo_bytes / MIB:.1f} MiB (dpo), {dpo_bytes / plain_bytes:.2f} times as much."
    )


def taken(model: TextToImage, data: Encoded, config: ExpertsConfig, steps: int) -> None:
    """Forward and backward passes of as many steps."""
    preferred = [(0, 1), (2, 3)] if isinstance(config.objective, DpoObjective) else None
    learner: Any = expert_learner(model, data, config, skill=SKILL, seed=0, preferred=preferred)
    path = model.noise_path()
    with model.denoiser_alone(), learner.weights.attached() as parameters:
        for number in range(steps):
            losses = learner.losses(learner.batches.at(number), path, step=number)
            losses["loss"].mean().backward()
            for parameter in parameters.values():
                parameter.grad = None


if __name__ == "__main__":
    typer.run(main)
