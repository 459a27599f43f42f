"""What `selma memory` estimates beside what a process held: networks of real size, random weights.

    .venv/bin/python bench/real_sizes.py --base sd-1.5
    .venv/bin/python bench/real_sizes.py --base sdxl

In float32, each piece of work in a process of its own: one step of training an expert on one image,
with gradient checkpointing, and one image of one denoising step with guidance, decoded. Held is the
process's largest resident memory beyond what it had before the networks were made (with --device
cuda, the most that tensors took there); the
estimate is that of `selma memory` without the context that a GPU takes. Freed memory goes back to
the system at once (MALLOC_MMAP_THRESHOLD_): else the C library keeps what was freed between other
blocks, 0.9 GiB of SD 1.5's step and more than 7 of SDXL's. SDXL takes 18 GiB.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from selma.adapters.table import ADAPTERS
from selma.backbones.memory import CONTEXT, GIB, Parts, generation_need, parts_of
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.config.networks import BaseConfig
from selma.experts.memory import training_need

CONFIG = ExpertsConfig(
    adapter=LoraConfig(rank=128),
    batch_size=1,
    precision="fp32",
    gradient_checkpointing=True,
)
Work = Literal["training", "generating"]


def main(
    base: Annotated[str, typer.Option(help="A base's short name.")] = "sd-1.5",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print estimate and measurement of both pieces of work."""
    if only is not None:
        print(*held(parts_of(BaseConfig(model=base, device="cpu")), only, device))
        return
    parts = parts_of(BaseConfig(model=base, device="cpu"))
    table = Table("work", "estimated, GiB", "held, GiB", "estimated / held", "seconds")
    for work in ("training", "generating"):
        command = [sys.executable, __file__, "--base", base, "--only", work]
        command += ["--device", device]
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
        measured, seconds = out.split()[-2:]
        need = estimate(parts, work)
        table.add_row(
            work,
            f"{need / GIB:.2f}",
            f"{int(measured) / GIB:.2f}",
            f"{need / int(measured):.2f}",
            f"{float(seconds):.0f}",
        )
    Console().print(f"{base}, float32, one image", table)


def estimate(parts: Parts, work: str) -> int:
    """Bytes that one image needs."""
    if work == "training":
        need = training_need(parts, CONFIG)
    else:
        need = generation_need(parts, 1, guided=True)
    return replace(need, images=1).total - CONTEXT


def held(shapes: Parts, work: str, device: str) -> tuple[int, float]:
    """Bytes that the process held for the work, and how long the work took."""
    family, made = shapes.family, {}
    before, started = _peak(device), time.monotonic()
    networks = [shapes.denoiser, shapes.vae, *shapes.text]
    for network in networks:
        network.to_empty(device=device)
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                torch.nn.init.normal_(tensor, std=0.02) if tensor.dim() > 1 else tensor.fill_(0.5)
    rows = shapes.conditioning(1).map(
        lambda part: torch.ones(part.shape, dtype=part.dtype, device=device)
    )
    latents = torch.randn(1, *shapes.latent, device=device)
    time_ = torch.tensor([500], device=device)
    if work == "generating":
        with torch.no_grad():
            both = rows.followed_by(rows)
            made["step"] = family.denoise(
                shapes.denoiser, latents.repeat(2, 1, 1, 1), time_.repeat(2), both
            )
            del made["step"]
            family.decoded(shapes.vae, latents)
        return _peak(device) - before, time.monotonic() - started
    kind = ADAPTERS["lora"]
    factors = kind.attach(
        shapes.denoiser,
        CONFIG.adapter,
        generator=torch.Generator().manual_seed(0),
        targets=family.targets,
    )
    optimizer = torch.optim.AdamW(factors.values(), lr=1e-4)
    shapes.denoiser.enable_gradient_checkpointing()
    predicted = family.denoise(shapes.denoiser, latents, time_, rows)
    predicted.float().square().mean().backward()
    optimizer.step()
    return _peak(device) - before, time.monotonic() - started


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    typer.run(main)
