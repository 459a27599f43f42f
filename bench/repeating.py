"""What it costs a GPU to leave equal bits each time it trains (`experts.deterministic`, B19).

    .venv/bin/python bench/repeating.py --size sd1 --device cuda --batch 16 --rank 128
    .venv/bin/python bench/repeating.py                          # on a CPU there is no difference

Both sides train equal factors on the same pairs; each is run more than once, and the bytes of its
last checkpoint are compared. Fails if those of the deterministic side differ.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from lora_step import encoded, made_up, trained
from rich.console import Console
from sizes import SIZES, built, clock
from turns import in_turn

from selma.backbones.hub import find_device
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of each round.")] = 5,
    rounds: Annotated[int, typer.Option(min=2)] = 2,
    batch: Annotated[int, typer.Option(min=1)] = 2,
    rank: Annotated[int, typer.Option(min=1)] = 8,
    size: Annotated[str, typer.Option(help=f"{', '.join(SIZES)}; random weights.")] = "narrow",
    device: Annotated[str, typer.Option(help="cpu, or cuda, where bf16 is used.")] = "cpu",
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
) -> None:
    """Print seconds of both sides, and whether each left equal bits."""
    torch.set_num_threads(1)
    kind: Literal["fp32", "bf16"] = "fp32" if (precision or device) in ("fp32", "cpu") else "bf16"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        find_device(device, setting="device")  # as a run does, before the first matrix product
        model = built(size, device=device, precision=kind)
        data = encoded(model, made_up(folder, max(batch, 2), model.image_px), folder / "run")
        numbers = itertools.count()
        left: dict[bool, set[str]] = {True: set(), False: set()}

        def train(deterministic: bool) -> None:
            config = ExpertsConfig(
                adapter=LoraConfig(rank=rank),
                steps=steps,
                batch_size=batch,
                precision=kind,
                deterministic=deterministic,
                checkpoint_every=steps,
            )
            place = folder / f"fit-{next(numbers)}"
            trained(model, data, config, place)
            digest = hashlib.sha256()
            for path in sorted(place.rglob("*.safetensors")):
                digest.update(path.read_bytes())
            left[deterministic].add(digest.hexdigest())

        turns = in_turn(
            {"deterministic": lambda: train(True), "free": lambda: train(False)},
            rounds=rounds,
            clock=clock(device),
        )
    turns.show(f"{size}, {steps} steps of {batch} at rank {rank}, {kind}, {device}", note="")
    for deterministic, digests in left.items():
        said = "equal bits each time" if len(digests) == 1 else f"{len(digests)} results"
        Console().print(f"deterministic: {deterministic}: {said}")
    raise typer.Exit(0 if len(left[True]) == 1 else 1)


if __name__ == "__main__":
    typer.run(main)
