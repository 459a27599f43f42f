"""Maps of a UNet's attention to the text, recorded while a pass runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn


def cross_attentions(denoiser: nn.Module) -> list[Any]:
    """The layers that attend to the text."""
    return [layer for name, layer in denoiser.named_modules() if name.endswith("attn2")]


@dataclass
class Maps:
    """Softmax probabilities of every head of the layers with this many image tokens."""

    positions: int
    heads: list[Tensor] = field(default_factory=list)
    """Of each layer [b * heads, positions, tokens], float32."""

    def mean(self) -> Tensor:
        """[positions, tokens]: each head of each layer counts once."""
        return torch.cat(self.heads).mean(0)


@contextmanager
def processors_within(denoiser: nn.Module, around: Callable[[Any], Any]) -> Iterator[None]:
    """While the block runs, each cross-attention's processor is what `around` makes of it."""
    layers = cross_attentions(denoiser)
    processors = [layer.processor for layer in layers]
    try:
        for layer, processor in zip(layers, processors, strict=True):
            layer.processor = around(processor)
        yield
    finally:
        for layer, processor in zip(layers, processors, strict=True):
            layer.processor = processor


@contextmanager
def recorded(denoiser: nn.Module, *, side: int) -> Iterator[Maps]:
    """While the block runs, maps of side x side are recorded; the pass itself is the same."""
    maps = Maps(side * side)
    with processors_within(denoiser, lambda processor: _Recording(processor, maps)):
        yield maps


class _Recording:
    """An attention processor that leaves the work to another and keeps probabilities."""

    def __init__(self, processor: Any, maps: Maps) -> None:
        self.processor, self.maps = processor, maps

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        if encoder_hidden_states is not None and hidden_states.shape[1] == self.maps.positions:
            q, k = attn.to_q(hidden_states).float(), attn.to_k(encoder_hidden_states).float()
            q, k = (rearrange(x, "b n (h d) -> (b h) n d", h=attn.heads) for x in (q, k))
            self.maps.heads.append((attn.scale * q @ k.mT).softmax(-1))
        return self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, **more)
