"""Five experts in one batch over one frozen base, beside one after another (B7).

    .venv/bin/python bench/experts_together.py
    .venv/bin/python bench/experts_together.py --batch 1 --rounds 2   # a first look

What several small experts could share is the pass through the base: their batches are laid side by
side, and each row meets its own expert's factors in one batched product. selma trains experts one
after another, or on several devices: this says what that costs, by the batch of one expert.
Gradients of both sides must agree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import torch
import typer
from diffusers import UNet2DConditionModel
from oft_step import MODELS
from rich.console import Console
from torch import Tensor, nn
from turns import in_turn

from selma.adapters import lora
from selma.config.adapters import LoraConfig

SAME = 1e-5
"""How far gradients may differ, as a share of the largest one of their factor."""


def main(
    experts: Annotated[int, typer.Option(min=2)] = 5,
    batch: Annotated[list[int] | None, typer.Option(help="Of one expert.")] = None,
    rank: Annotated[int, typer.Option(min=1)] = 8,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print seconds of a step of all experts, by the batch of one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = UNet2DConditionModel(**MODELS["small"]).requires_grad_(False)
    config, worst = LoraConfig(rank=rank), 0.0
    unet = copy.deepcopy(base)
    names = list(lora.attach(unet, config, generator=torch.Generator()))
    factors = [generated(unet, names, number) for number in range(experts)]
    for size in batch or [1, 4, 16]:
        given = [inputs(base, size) for _ in range(experts)]
        alone = [solo(unet, names, some, each) for some, each in zip(factors, given, strict=True)]
        beside = joint(base, factors, given)
        worst = max(worst, difference(alone, beside))

        def one_by_one(given: list[tuple[Tensor, ...]] = given) -> None:
            for some, each in zip(factors, given, strict=True):
                solo(unet, names, some, each)

        in_turn(
            {"one after another": one_by_one, "together": partial(joint, base, factors, given)},
            rounds=rounds,
        ).show(f"{experts} experts of rank {rank}, batch {size} each")
    Console().print(f"Gradients differ by at most {worst:.1e} of their factor's largest.")
    raise typer.Exit(0 if worst <= SAME else 1)


Factors = dict[str, Tensor]


def generated(unet: UNet2DConditionModel, names: list[str], number: int) -> Factors:
    generate = torch.Generator().manual_seed(number)
    shapes = dict(parameters(unet))
    return {name: torch.randn(shapes[name].shape, generator=generate) * 0.1 for name in names}


def parameters(unet: UNet2DConditionModel) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in unet.named_parameters():
        if parameter.requires_grad:
            yield name.replace(f".{lora.ADAPTER}.", "."), parameter


def inputs(unet: UNet2DConditionModel, batch: int) -> tuple[Tensor, ...]:
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    image = torch.randn(batch, 4, side, side)
    return image, torch.randint(0, 1000, (batch,)), torch.randn(batch, 77, width)


def solo(
    unet: UNet2DConditionModel, names: list[str], some: Factors, given: tuple[Tensor, ...]
) -> Factors:
    """One expert's gradients, by the adapter that selma trains."""
    own = dict(parameters(unet))
    for name in names:
        own[name].data.copy_(some[name])
    loss = unet(*given, return_dict=False)[0].square().mean()
    each = torch.autograd.grad(loss, [own[name] for name in names])
    return dict(zip(names, each, strict=True))


def joint(
    unet: UNet2DConditionModel, factors: list[Factors], given: list[tuple[Tensor, ...]]
) -> list[Factors]:
    """All experts' gradients from one pass."""
    stacked = {
        name: torch.stack([some[name] for some in factors]).requires_grad_() for name in factors[0]
    }
    side_by_side = [torch.cat(column) for column in zip(*given, strict=True)]
    with beside(unet, stacked):
        out = unet(*side_by_side, return_dict=False)[0]
        # The sum of each expert's mean: no expert's gradient sees another's.
        loss = out.square().unflatten(0, (len(factors), -1)).flatten(1).mean(1).sum()
        each = torch.autograd.grad(loss, list(stacked.values()))
    named = dict(zip(stacked, each, strict=True))
    return [{name: rows[n] for name, rows in named.items()} for n in range(len(factors))]


@contextmanager
def beside(unet: UNet2DConditionModel, stacked: dict[str, Tensor]) -> Iterator[None]:
    """While the block runs, each projection adds every expert's delta to that expert's rows."""
    modules = dict(unet.named_modules())
    hooks = []
    for name in stacked:
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            a, b = stacked[name], stacked[f"{layer}.lora_B.weight"]
            hooks.append(modules[layer].register_forward_hook(partial(_add, a, b)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add(a: Tensor, b: Tensor, layer: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    rows = given[0].reshape(len(a), -1, given[0].shape[-1])
    return out + (rows @ a.mT @ b.mT).reshape(out.shape)


def difference(alone: list[Factors], together: list[Factors]) -> float:
    return max(
        float((one[name] - other[name]).abs().max() / one[name].abs().max())
        for one, other in zip(alone, together, strict=True)
        for name in one
    )


if __name__ == "__main__":
    typer.run(main)
