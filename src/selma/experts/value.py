"""A value network: what reward to expect of an image of which only noisy latents are there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from selma.adapters.files import given, write_safetensors
from selma.randomness import generator

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 256


class Value(nn.Module):
    """V(x_t, text, step): two hidden layers, each scaled by a learnt vector of the step (DPOK)."""

    def __init__(self, inputs: int, steps: int, width: int = WIDTH) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, width), nn.Linear(width, width)])
        self.of_step = nn.ParameterList([nn.Parameter(torch.ones(steps, width)) for _ in range(2)])
        self.last = nn.Linear(width, 1)

    def forward(self, latents: Tensor, text: Tensor, step: Tensor) -> Tensor:
        """[b].  latents: [b, c, h, w].  text: [b, width].  step: [b] from 0."""
        x = torch.cat([latents.flatten(1), text], dim=1)
        for layer, scales in zip(self.layers, self.of_step, strict=True):
            x = torch.relu(layer(x) * scales[step])
        values: Tensor = self.last(x).squeeze(-1)
        return values


class ValueTraining:
    """The network and its AdamW, which go from file to file."""

    def __init__(self, inputs: int, steps: int, *, learning_rate: float, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, "experts", "value").initial_seed())
            self.network = Value(inputs, steps)
        self.adamw = torch.optim.AdamW(self.network.parameters(), lr=learning_rate)

    def step(self, batches: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> float:
        """One step by the mean squared error over minibatches of latents, text, step and reward;
        the error before it."""
        total = 0.0
        for latents, text, step, rewards in batches:
            error = (self.network(latents, text, step) - rewards).square().mean() / len(batches)
            error.backward()
            total += float(error.detach())
        self.adamw.step()
        self.adamw.zero_grad()
        return total

    def save(self, path: Path) -> None:
        """Weights and moments."""
        names = dict(self.network.named_parameters())
        moments = {
            f"{kind}/{name}": tensor
            for name, parameter in names.items()
            for kind, tensor in self.adamw.state[parameter].items()
        }
        weights = {f"weight/{name}": p.detach() for name, p in names.items()}
        write_safetensors(path, given(weights | moments), metadata={"format": "pt"})

    def load(self, path: Path) -> None:
        """What `save` wrote."""
        tensors = safetensors.torch.load_file(path)
        for name, parameter in self.network.named_parameters():
            parameter.data.copy_(tensors[f"weight/{name}"])
            self.adamw.state[parameter] = {
                kind: tensors[f"{kind}/{name}"] for kind in ("step", "exp_avg", "exp_avg_sq")
            }
