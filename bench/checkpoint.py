"""A training checkpoint's size and time, beside accelerate's save_state in the scripts (B10).

    .venv/bin/python bench/checkpoint.py                    # a small UNet
    .venv/bin/python bench/checkpoint.py --model sd15       # 2 GB of memory, and 5 of disk

diffusers' script for LoRA saves the state of all that was prepared, which is the whole frozen UNet
with the adapter in it, then the adapter once more by itself. selma writes the adapter and the
optimizer's moments, with a digest of each file, and flushes them to the disk. The clock is the
wall's here.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from oft_step import MODELS
from peft.utils import get_peft_model_state_dict
from rich.console import Console
from turns import in_turn

from selma.adapters import lora
from selma.adapters.files import Lineage
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.experts import checkpoints
from selma.experts.optimizing import Optimization

FILE = "pytorch_lora_weights.safetensors"


def main(
    model: Annotated[str, typer.Option(help="small, or sd15 in its full size.")] = "small",
    rank: Annotated[int, typer.Option(min=1)] = 128,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print seconds and bytes of both; fail if what was written is not restored exactly."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    half = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)  # as the script holds the frozen part
    unet = UNet2DConditionModel(**MODELS[model]).requires_grad_(False)
    torch.set_default_dtype(half)
    config = LoraConfig(rank=rank)
    factors = lora.attach(unet, config, generator=torch.Generator().manual_seed(0))
    optimization = new_optimization(factors)
    for factor in factors.values():
        factor.grad = torch.randn_like(factor)
    optimization.step(1.0)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(unet, optimization.adamw)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def ours() -> None:
            shutil.rmtree(root / "ours", ignore_errors=True)
            (root / "ours").mkdir()
            checkpoints.write(
                root / "ours",
                step=1,
                factors=factors,
                optimization=optimization,
                file=FILE,
                save=lambda path: lora.save(path, factors, config, lineage=Lineage()),
            )

        def theirs() -> None:
            shutil.rmtree(root / "theirs", ignore_errors=True)
            accelerator.save_state(str(root / "theirs"))
            layers = get_peft_model_state_dict(
                accelerator.unwrap_model(prepared[0]), adapter_name=lora.ADAPTER
            )
            StableDiffusionPipeline.save_lora_weights(
                root / "theirs", unet_lora_layers=convert_state_dict_to_diffusers(layers)
            )

        turns = in_turn(
            {"selma": ours, "save_state": theirs}, rounds=rounds, clock=time.perf_counter
        )
        sizes = {side: written(root / side) for side in ("ours", "theirs")}
        same = comes_back(root / "ours", factors, optimization)
    turns.show(
        f"{model}, rank {rank}, wall clock",
        note=f"{sizes['ours'] / 1e6:.1f} MB and {sizes['theirs'] / 1e6:.1f} MB: "
        f"{sizes['theirs'] / sizes['ours']:.2f} times as many bytes.",
    )
    Console().print("What was written comes back " + ("bit for bit." if same else "CHANGED."))
    raise typer.Exit(0 if same else 1)


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def new_optimization(factors: dict[str, torch.nn.Parameter]) -> Optimization:
    config = ExpertsConfig(precision="fp32")
    return Optimization(list(factors.values()), config, device=torch.device("cpu"))


def comes_back(
    root: Path, factors: dict[str, torch.nn.Parameter], optimization: Optimization
) -> bool:
    from safetensors.torch import load_file

    found = checkpoints.newest(root)
    assert found is not None
    blank = {name: torch.nn.Parameter(torch.zeros_like(f)) for name, f in factors.items()}
    other = new_optimization(blank)
    weights = {n.removeprefix("unet."): t for n, t in load_file(found.path / FILE).items()}
    checkpoints.restore(found, weights, factors=blank, optimization=other)
    return all(
        torch.equal(factor, blank[name])
        and all(
            torch.equal(
                optimization.adamw.state[factor][kind], other.adamw.state[blank[name]][kind]
            )
            for kind in checkpoints.MOMENTS
        )
        for name, factor in factors.items()
    )


if __name__ == "__main__":
    typer.run(main)
