"""What a denoiser's cross-attention makes of other text features than those that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from selma.applications.sur.losses import relative_gaps
from selma.errors import ConfigError


def cross_attentions(denoiser: nn.Module) -> list[nn.Module]:
    """The layers by which a denoiser reads its text.

    Raises ConfigError if it has none: transformers of the joint kind read text and image at once.
    """
    layers = [m for m in denoiser.modules() if getattr(m, "is_cross_attention", False)]
    if not layers:
        raise ConfigError(
            f"sur.losses.alignment.at: attention needs a denoiser with cross-attention, which "
            f"{type(denoiser).__name__} has not. Set it to text."
        )
    return layers


@contextmanager
def attended(layers: Sequence[nn.Module], text: Tensor) -> Iterator[list[Tensor]]:
    """While the block runs, each layer is asked a second time, with the queries that it has and
    with `text`, [b, tokens, width], in place of the text that it reads.

    The list gets, layer by layer, how far the second output is from the first, [b], with a gradient
    for `text`.
    """
    gaps: list[Tensor] = []
    asking = False

    def ask(
        layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> None:
        nonlocal asking
        if asking:
            return
        asking = True
        try:
            with torch.enable_grad():
                hidden = given[0] if given else named["hidden_states"]
                others = {**named, "encoder_hidden_states": text.to(output.dtype)}
                others.pop("hidden_states", None)
                gaps.append(relative_gaps(output.detach(), layer(hidden.detach(), **others)))
        finally:
            asking = False

    with ExitStack() as hooks:
        for layer in layers:
            handle = layer.register_forward_hook(ask, with_kwargs=True)
            hooks.callback(handle.remove)
        yield gaps
