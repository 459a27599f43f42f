"""A step of DiffusionNFT, and of DDPO, beside the plain step: time and memory; and a round's.

    .venv/bin/python bench/nft_step.py
    .venv/bin/python bench/nft_step.py --size sdxl --device cuda --batch 8

A plain step is one forward and one backward pass, or three forward passes. A step of NFT has the
base's forward pass more (with `kl`), and from a round's second step on that of the weights that
drew: (3 + 2) / 3 = 1.67 plain ones at most. One of DDPO has a second forward pass for the ratio,
here without guidance: 1.33. The round itself generates images, once for all its steps, and looks at
them; rewards are made up here, since judging is timed by bench/judging.py.
"""

from __future__ import annotations

import shutil
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

from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.experts.rounds import RoundFiles
from selma.experts.skills import expert_learner


class Chance:
    """Rewards that tell nothing."""

    from_zero = False
    recipe: Any = None

    def knows(self, prompt: Any) -> bool:
        return True

    def rows(self, images: Any, prompts: Any) -> list[dict[str, Any]]:
        return [{"reward": float(number % 7)} for number, _ in enumerate(images)]


def main(
    steps: Annotated[int, typer.Option(min=2, help="Of a round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="How often all are timed.")] = 3,
    batch: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[str, typer.Option(help=f"{', '.join(SIZES)}; random weights.")] = "narrow",
    device: Annotated[str, typer.Option(help="cpu or cuda, in float32.")] = "cpu",
) -> None:
    """Print seconds of as many steps by each objective, the most bytes that a step makes beside the
    weights, and seconds of a round's images."""
    torch.set_num_threads(1)
    round_of = {
        "reward": "toybox",
        "prompts_per_round": 2,
        "images_per_prompt": 2,
        "updates_per_round": steps,
        "sampling_steps": 10,
        "guidance": 1.0,
        "images_kept": 0,
    }
    objectives: dict[str, dict[str, Any]] = {
        "plain": {"kind": "denoising"},
        "nft": {"kind": "nft", **round_of},
        "nft without kl": {"kind": "nft", "kl": 0.0, **round_of},
        "ddpo": {"kind": "ddpo", **round_of},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = built(size, device=device)
        data = made_up(folder, 4, model.image_px)
        ready = encoded(model, data, folder / "run")

        def learnt(side: str, *, count: int) -> None:
            """The first steps of the side's round, whose images are made unless they are there."""
            config = ExpertsConfig.model_validate(
                {
                    "adapter": LoraConfig(rank=8),
                    "objective": objectives[side],
                    "steps": steps,
                    "batch_size": batch,
                    "precision": "fp32",
                }
            )
            learner: Any = expert_learner(
                model, ready, config, skill=SKILL, seed=0, pairs=data, reward=Chance()
            )
            path, noise_path = folder / side, model.noise_path()
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            with model.denoiser_alone(), learner.weights.attached() as parameters:
                if side != "plain":
                    learner.begin_round(RoundFiles(path, 1), parameters, lambda note: None)
                for step in range(count):
                    # The last ones of a round: the first of all has no weights that drew.
                    at = steps - count + step
                    losses = learner.losses(learner.batches.at(at), noise_path, step=at + 1)
                    losses["loss"].mean().backward()
                    for parameter in parameters.values():
                        parameter.grad = None

        def images(side: str) -> None:
            shutil.rmtree(folder / side, ignore_errors=True)
            learnt(side, count=0)

        peaks = Peaks(device)
        drawing = in_turn(
            {side: partial(images, side) for side in ("nft", "ddpo")},
            rounds=rounds,
            clock=clock(device),
        )
        for side in objectives:
            images(side)
        stepping = in_turn(
            {side: peaks.of(side, partial(learnt, side, count=steps)) for side in objectives},
            rounds=rounds,
            clock=clock(device),
        )
        held = {side: bytes_held(partial(learnt, side, count=1)) for side in objectives}
    stepping.show(f"{size}, {steps} steps of {batch}, fp32", note=peaks.told().strip())
    drawing.show(f"{size}, a round's 4 images of 10 steps")
    Console().print(
        "Beside the weights a step holds "
        + ", ".join(
            f"{held[side] / MIB:.1f} MiB ({side}, {held[side] / held['plain']:.2f} times plain)"
            for side in objectives
        )
        + "."
    )


if __name__ == "__main__":
    typer.run(main)
