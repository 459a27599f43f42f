"""Generating with the merged adapter fused, beside five adapters stacked at run time (B6).

    .venv/bin/python bench/merged_generating.py
    .venv/bin/python bench/merged_generating.py --steps 3 --rounds 2     # a first look

The released program loads each expert as an adapter of its own and sets all of them with a weight;
every projection then runs its own product and ten more. (Its weight is one over the length of a
string; here it is one over the number of experts, which is what was meant.) Both sides denoise the
same latents in float32 from the same noise.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from turns import in_turn

from selma.adapters import lora
from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.adapters import LoraConfig
from selma.config.merged import MergedConfig
from selma.config.networks import BaseConfig
from selma.merged.merging import merge_files

SAME = 1e-3


def main(
    base: Annotated[str, typer.Option(help="toybox, or a folder.")] = "toybox",
    experts: Annotated[int, typer.Option(min=2)] = 5,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    images: Annotated[int, typer.Option(min=1, help="In one batch.")] = 1,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print seconds of both and how far latents differ."""
    torch.set_num_threads(1)
    settings = BaseConfig(model=base, device="cpu")
    fused, stacked = load_text_to_image(settings), load_text_to_image(settings)
    unet = fused.denoiser.config
    shape = (images, unet.in_channels, unet.sample_size, unet.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [made_up(fused, folder, number, rank) for number in range(experts)]
        names = [f"expert{number}" for number in range(experts)]
        for place, adapter in zip(files, names, strict=True):
            stacked.pipe.load_lora_weights(folder, weight_name=place.name, adapter_name=adapter)
        stacked.pipe.set_adapters(names, [1 / experts] * experts)
        out = folder / "merged.safetensors"
        found: dict[str, torch.Tensor] = {}

        def whole() -> None:
            """From the experts' files on: merging, fusing, generating."""
            merge_files(files, MergedConfig(method="mean_of_deltas"), out)
            with applied(fused, chosen([out])):
                found["selma"] = latents(fused, noise, steps)

        def apart() -> None:
            found["stacked"] = latents(stacked, noise, steps)

        whole()
        apart()
        differs = (found["selma"] - found["stacked"]).abs().max() / found["stacked"].abs().max()
        with applied(fused, chosen([out])):
            generation = in_turn(
                {"selma": lambda: latents(fused, noise, steps), "stacked adapters": apart},
                rounds=rounds,
            )
        applying = in_turn({"merging and fusing": lambda: once_more(fused, files, out)}, rounds=3)
    once = applying.seconds["merging and fusing"]
    generation.show(
        f"{steps} steps, {images} at once, {experts} experts of rank {rank}",
        note=f"Merging, fusing and unloading: {min(once):.2f} s, once for a whole benchmark.",
    )
    Console().print(f"Latents differ by at most {float(differs):.1e} of the largest.")
    raise typer.Exit(0 if differs <= SAME else 1)


def once_more(model: TextToImage, files: list[Path], out: Path) -> None:
    merge_files(files, MergedConfig(method="mean_of_deltas"), out)
    with applied(model, chosen([out])):
        pass


def made_up(model: TextToImage, folder: Path, number: int, rank: int) -> Path:
    """An expert as large as a trained one: B is random, too."""
    config, generate = LoraConfig(rank=rank), torch.Generator().manual_seed(number)
    factors = lora.attach(model.denoiser, config, generator=generate)
    for name, factor in factors.items():
        if ".lora_B." in name:
            factor.data.normal_(std=0.02, generator=generate)
    place = folder / f"expert-{number}.safetensors"
    lora.save(place, factors, config, lineage=Lineage())
    lora.detach(model.denoiser)
    return place


@torch.no_grad()
def latents(model: TextToImage, noise: torch.Tensor, steps: int) -> torch.Tensor:
    made: torch.Tensor = model.pipe(
        prompt=["a red dog left of a blue tree"] * len(noise),
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=7.5,
        output_type="latent",
    ).images
    return made


if __name__ == "__main__":
    typer.run(main)
