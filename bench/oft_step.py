"""One OFT training step: ours beside PEFT's, with the same gradients (B13).

    .venv/bin/python bench/oft_step.py                       # a small UNet on one CPU thread
    .venv/bin/python bench/oft_step.py --model sd15 --device cuda --batch 8

Both train the same projections of the same random UNet on the same batch, forward, backward and
AdamW's step. They take turns, and the median counts. PEFT's own default, the truncated series, is
shown for its time alone: its matrices are no rotations. The second table has single projections at
Stable Diffusion 1.5's widths, where nothing else hides what turning costs.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import peft
import torch
import typer
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from selma.adapters.rotations import oft
from selma.adapters.rotations.files import SKEW_ENTRIES
from selma.backbones.families import stable_diffusion
from selma.config.adapters import OftConfig

MODELS: dict[str, dict[str, Any]] = {
    "small": {
        "sample_size": 16,
        "block_out_channels": (64, 128),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 128,
        "attention_head_dim": 4,
    },
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
}
SAME = {"cpu": 1e-5, "cuda": 1e-4}
"""How far gradients may differ, as a share of the largest one of their layer."""


@dataclass
class Side:
    """One way to train, ready for steps."""

    name: str
    unet: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    seconds: list[float]


def main(
    model: Annotated[str, typer.Option(help="small, or sd15 in its full size.")] = "small",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1)] = 4,
    blocks: Annotated[int, typer.Option(min=1)] = 4,
    rounds: Annotated[int, typer.Option(min=5)] = 7,
) -> None:
    """Print seconds, memory and how far the gradients differ."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.device(device):
        base = UNet2DConditionModel(**MODELS[model]).requires_grad_(False)
    sides = [ours(copy.deepcopy(base), blocks), pefts(copy.deepcopy(base), blocks, series=False)]
    sides.append(pefts(copy.deepcopy(base), blocks, series=True))
    start_alike(sides)
    given = inputs(base, batch, device)
    differs = difference(sides[0], sides[1], given)
    held = {side.name: kept_bytes(side, given) for side in sides}
    for number in range(rounds + 1):  # the first warms up
        for side in sides:
            seconds = timed(side, given, device)
            side.seconds += [seconds] if number else []
    table = Table(title=f"{model}, batch {batch}, r = {blocks}, {device}, {rounds} rounds")
    for column in ("step", "seconds", "spread", "against PEFT", "kept for backward, MB", "peak MB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    reference = statistics.median(sides[1].seconds)
    for side in sides:
        median = statistics.median(side.seconds)
        table.add_row(
            side.name,
            f"{median:.4f}",
            f"{(max(side.seconds) - min(side.seconds)) / median:.0%}",
            f"{reference / median:.2f}x",
            f"{held[side.name] / 1e6:.1f}",
            f"{peak(side, given) / 1e6:.0f}" if device == "cuda" else "",
        )
    console = Console()
    console.print(table)
    console.print(f"Gradients differ by at most {differs:.1e} of their layer's largest.")
    console.print(single_layers(blocks, rounds, device))
    if differs > SAME[device]:
        raise typer.Exit(1)


WIDTHS = ((320, 4096), (640, 1024), (1280, 256), (768, 77))
"""Input width and rows of one image, of SD 1.5's projections; 768 is the text's."""


def single_layers(blocks: int, rounds: int, device: str) -> Table:
    """Forward and backward pass of one rotated layer, by width."""
    table = Table(title=f"one projection, one image, r = {blocks}: milliseconds")
    for column in (
        "width",
        "rows",
        "selma",
        "PEFT, exact",
        "ratio",
        "kept, MB",
        "kept by PEFT, MB",
    ):
        table.add_column(column, justify="right")
    for width, rows in WIDTHS:
        x = torch.randn(rows, width, device=device, requires_grad=True)
        layers = [nn.Sequential(nn.Linear(width, width, device=device)) for _ in range(2)]
        layers[1].load_state_dict(layers[0].state_dict())
        sides = [_lone(layers[0], blocks, peft_too=False), _lone(layers[1], blocks, peft_too=True)]
        start_alike(sides)
        spent: list[list[float]] = [[], []]
        for number in range(rounds + 1):
            for side, seconds in zip(sides, spent, strict=True):
                seconds += [_timed_layer(side, x, device)] if number else []
        ours_, theirs = (statistics.median(seconds) for seconds in spent)
        held = [_kept_by(side, partial(_layer_loss, side, x)) for side in sides]
        table.add_row(
            str(width),
            str(rows),
            f"{1000 * ours_:.2f}",
            f"{1000 * theirs:.2f}",
            f"{theirs / ours_:.2f}x",
            *(f"{one / 1e6:.2f}" for one in held),
        )
    return table


def _lone(layer: nn.Sequential, blocks: int, *, peft_too: bool) -> Side:
    layer.requires_grad_(False)
    if not peft_too:
        linear = layer[0]
        assert isinstance(linear, nn.Linear)
        size = linear.in_features // blocks
        vector = nn.Parameter(
            torch.zeros(blocks, size * (size - 1) // 2, device=linear.weight.device)
        )
        linear.forward = oft._Turned(linear, vector)  # type: ignore[assignment,method-assign]
        return _side("selma", layer, {"0": vector})
    config = peft.OFTConfig(
        r=blocks, oft_block_size=0, target_modules=["0"], use_cayley_neumann=False
    )
    wrapped = peft.get_peft_model(layer, config)
    (vector,) = (p for p in wrapped.parameters() if p.requires_grad)
    return _side("PEFT, exact", wrapped, {"0": vector})


def _layer_loss(side: Side, x: Tensor) -> Tensor:
    loss: Tensor = side.unet(x).square().mean()
    return loss


def _timed_layer(side: Side, x: Tensor, device: str) -> float:
    def work() -> None:
        _layer_loss(side, x).backward()
        side.optimizer.zero_grad()

    return _clocked(work, device)


def ours(unet: UNet2DConditionModel, blocks: int) -> Side:
    factors = oft.attach(unet, OftConfig(blocks=blocks), generator=torch.Generator())
    return _side("selma", unet, {n.removesuffix(f".{SKEW_ENTRIES}"): p for n, p in factors.items()})


def pefts(unet: UNet2DConditionModel, blocks: int, *, series: bool) -> Side:
    config = peft.OFTConfig(
        r=blocks,
        oft_block_size=0,
        target_modules=list(stable_diffusion.ATTENTION),
        use_cayley_neumann=series,
    )
    wrapped = peft.get_peft_model(unet, config)
    found = {
        name.removeprefix("base_model.model.").split(".oft_R.")[0]: parameter
        for name, parameter in wrapped.named_parameters()
        if parameter.requires_grad
    }
    return _side("PEFT, series" if series else "PEFT, exact", wrapped, found)


def _side(name: str, unet: nn.Module, parameters: dict[str, nn.Parameter]) -> Side:
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-5)
    return Side(name, unet.train(), parameters, optimizer, [])


def start_alike(sides: list[Side]) -> None:
    """Give all sides the same rotations, not the identity; PEFT's exact S has the other sign."""
    for name, parameter in sides[0].parameters.items():
        vector = 0.02 * torch.randn_like(parameter)
        for side, sign in zip(sides, (1, -1, 1), strict=False):
            side.parameters[name].data.copy_(sign * vector)


def inputs(unet: UNet2DConditionModel, batch: int, device: str) -> tuple[Tensor, ...]:
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    return (
        torch.randn(batch, 4, side, side, device=device),
        torch.randint(0, 1000, (batch,), device=device),
        torch.randn(batch, 77, width, device=device),
        torch.randn(batch, 4, side, side, device=device),
    )


def loss_of(side: Side, given: tuple[Tensor, ...]) -> Tensor:
    *inside, target = given
    loss: Tensor = (side.unet(*inside, return_dict=False)[0] - target).square().mean()
    return loss


def difference(one: Side, other: Side, given: tuple[Tensor, ...]) -> float:
    """The largest difference of gradients, as a share of the largest of its layer."""
    with torch.backends.cudnn.flags(allow_tf32=False):  # its convolutions keep three digits
        for side in (one, other):
            loss_of(side, given).backward()
    worst = 0.0
    for name, parameter in one.parameters.items():
        theirs = other.parameters[name].grad
        assert parameter.grad is not None and theirs is not None
        wrong = (parameter.grad + theirs).abs().max() / theirs.abs().max()
        worst = max(worst, float(wrong))
    for side in (one, other):
        side.optimizer.zero_grad()
    return worst


def timed(side: Side, given: tuple[Tensor, ...], device: str) -> float:
    def work() -> None:
        loss_of(side, given).backward()
        side.optimizer.step()
        side.optimizer.zero_grad()

    return _clocked(work, device)


def _clocked(work: Callable[[], None], device: str) -> float:
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    gc.disable()
    wait()
    # Time of this process alone, where it is the machine that is shared.
    clock = time.perf_counter if device == "cuda" else time.process_time
    started = clock()
    work()
    wait()
    spent = clock() - started
    gc.enable()
    return spent


def peak(side: Side, given: tuple[Tensor, ...]) -> int:
    """The most GPU memory that one step adds to what was allocated before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    timed(side, given, "cuda")
    return int(torch.cuda.max_memory_allocated() - before)


def kept_bytes(side: Side, given: tuple[Tensor, ...]) -> int:
    """Bytes kept for the backward pass, each storage once, without weights."""
    return _kept_by(side, lambda: loss_of(side, given))


def _kept_by(side: Side, loss: Callable[[], Tensor]) -> int:
    weights = {p.untyped_storage().data_ptr() for p in side.unet.parameters()}
    with _kept(weights) as storages:
        loss().backward()
    side.optimizer.zero_grad()
    return sum(storages.values())


@contextmanager
def _kept(weights: set[int]) -> Iterator[dict[int, int]]:
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address may be given away again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


if __name__ == "__main__":
    typer.run(main)
