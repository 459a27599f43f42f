"""A step of DiffusionNFT, and of DDPO, beside the plain step, and what a round costs beside them.

    .venv/bin/python bench/nft_step.py
    .venv/bin/python bench/nft_step.py --size sdxl --device cuda --batch 8

A plain step is one forward and one backward pass. A step of NFT has the base's forward pass more
(with `kl`), and from a round's second step on that of the weights that drew; one of DDPO has a
second forward pass for the ratio, here without guidance. The round itself generates images.
Rewards are made up: judging is timed by bench/judging.py.
"""

from __future__ import annotations

import itertools
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from lora_step import SKILL, encoded, made_up
from sizes import SIZES, Peaks, built, clock
from turns import in_turn

from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.experts.skills import expert_learner
from selma.experts.training import fit


class Chance:
    """Rewards that tell nothing."""

    from_zero = False
    recipe: Any = None

    def knows(self, prompt: Any) -> bool:
        return True

    def rows(self, images: Any, prompts: Any) -> list[dict[str, Any]]:
        return [{"reward": float(number % 7)} for number, _ in enumerate(images)]


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of each round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="How often all are timed.")] = 3,
    batch: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[str, typer.Option(help=f"{', '.join(SIZES)}; random weights.")] = "narrow",
    device: Annotated[str, typer.Option(help="cpu, or cuda, where bf16 is used.")] = "cpu",
) -> None:
    """Print seconds of a plain training, and of each objective with one round of as many steps."""
    torch.set_num_threads(1)
    precision = "bf16" if device == "cuda" else "fp32"
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
        model = built(size, device=device, precision=precision)
        data = made_up(folder, 4, model.image_px)
        ready = encoded(model, data, folder / "run")
        numbers = itertools.count()

        def trained(objective: dict[str, Any]) -> None:
            config = ExpertsConfig.model_validate(
                {
                    "adapter": LoraConfig(rank=8),
                    "objective": objective,
                    "steps": steps,
                    "batch_size": batch,
                    "precision": precision,
                }
            )
            path = folder / f"fit-{next(numbers)}"
            path.mkdir()
            learner = expert_learner(
                model, ready, config, skill=SKILL, seed=0, pairs=data, reward=Chance()
            )
            fit(learner, config, path, made_by={})

        peaks = Peaks(device)
        sides = {
            name: peaks.of(name, partial(trained, settings))
            for name, settings in objectives.items()
        }
        turns = in_turn(sides, rounds=rounds, clock=clock(device))
    turns.show(
        f"{size}, a round of 4 images and {steps} steps of {batch}, {precision}",
        note=peaks.told() if device == "cuda" else "",
    )


if __name__ == "__main__":
    typer.run(main)
