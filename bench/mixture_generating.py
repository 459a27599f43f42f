"""Generating with a mixture of experts, beside five adapters stacked at run time and the merge.

    .venv/bin/python bench/mixture_generating.py
    .venv/bin/python bench/mixture_generating.py --steps 3 --rounds 2     # a first look

Gates are of zeros, so that all three are one model, and latents can be compared. A mixture runs two
products and a gate in each layer, however many experts there are; stacked adapters run two each.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from merged_generating import SAME, latents, made_up
from rich.console import Console
from turns import in_turn

from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage
from selma.adapters.mixtures.files import of_experts, save
from selma.adapters.table import read_any
from selma.backbones.text_to_image import load_text_to_image
from selma.config.merged import MergedConfig
from selma.config.networks import BaseConfig
from selma.merged.merging import merge_files


def main(
    base: Annotated[str, typer.Option(help="toybox, or a folder.")] = "toybox",
    experts: Annotated[int, typer.Option(min=2)] = 5,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    images: Annotated[int, typer.Option(min=1, help="In one batch.")] = 1,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Print seconds of all three and how far latents differ."""
    torch.set_num_threads(1)
    settings = BaseConfig.model_validate({"model": base, "device": device})
    ours, merged, stacked = (load_text_to_image(settings) for _ in range(3))
    unet = ours.denoiser.config
    shape = (images, unet.in_channels, unet.sample_size, unet.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(ours.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [made_up(ours, folder, number, rank) for number in range(experts)]
        names = [f"expert{number}" for number in range(experts)]
        for file, adapter in zip(files, names, strict=True):
            stacked.pipe.load_lora_weights(folder, weight_name=file.name, adapter_name=adapter)
        stacked.pipe.set_adapters(names, [1 / experts] * experts)
        mixture = of_experts({n: read_any(f) for n, f in zip(names, files, strict=True)}, "token")
        gates = {
            f"{key}.gate": torch.zeros(experts, wide) for key, (_, wide) in mixture.layers.items()
        }
        save(folder / "mixture.safetensors", mixture, gates, lineage=Lineage())
        merge_files(files, MergedConfig(), folder / "merged.safetensors")
        results: dict[str, torch.Tensor] = {}
        sides = {"mixture": ours, "stacked adapters": stacked, "merged": merged}

        def generate(side: str) -> None:
            results[side] = latents(sides[side], noise, steps)

        with (
            applied(ours, chosen([folder / "mixture.safetensors"])),
            applied(merged, chosen([folder / "merged.safetensors"])),
        ):
            turns = in_turn({name: partial(generate, name) for name in sides}, rounds=rounds)
    turns.show(f"{steps} steps, {images} at once, {experts} experts of rank {rank}")
    largest = results["merged"].abs().max()
    differs = max(float((r - results["merged"]).abs().max() / largest) for r in results.values())
    Console().print(f"Latents differ by at most {differs:.1e} of the largest.")
    raise typer.Exit(0 if differs <= SAME else 1)


if __name__ == "__main__":
    typer.run(main)
