"""Inner states of a causal language model: one vector for each text.

Taken by a hook behind a block. `output_hidden_states` would not do: its last entry is already
behind the final norm, so that one layer would mean something else than all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selma.errors import ModelError

_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")


@dataclass(frozen=True)
class Reading:
    """Which state stands for a text."""

    layer: int | None = None
    """Block, from 0; None is the last."""
    pooling: Literal["last", "mean", "first"] = "last"
    """Which token, or the mean over all."""
    final_norm: bool = False
    """Pass it through the model's last norm."""


def read_states(
    model: Any, tokenizer: Any, texts: Sequence[str], reading: Reading, *, rows: int
) -> Tensor:
    """One vector for each text, [n, width] in float32 on the CPU. Raises ModelError.

    On a CPU each text passes alone, so that none alters another's last digits; elsewhere `rows`
    share a pass, padded on the right, where causal attention does not look.
    """
    blocks, norm = _blocks(model)
    last = len(blocks) - 1
    layer = last if reading.layer is None else reading.layer
    if layer > last:
        raise ModelError(f"sur.llm.layer must be 0 to {last} for this model, but is {layer}.")
    if reading.final_norm and norm is None:
        raise ModelError("sur.llm.final_norm needs a model with a last norm, but none was found.")
    together = 1 if model.device.type == "cpu" else rows
    vectors: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(texts), together):
            inputs = _read(model, tokenizer, texts[start : start + together])
            states = _behind(blocks[layer], model, inputs)
            if reading.final_norm and norm is not None:
                states = norm(states)
            vectors += _pooled(states.float(), inputs["attention_mask"], reading.pooling).cpu()
    states_by_text = torch.stack(vectors) if vectors else torch.zeros(0, 0)
    if not torch.isfinite(states_by_text).all():
        raise ModelError("The language model gave states that are not finite.")
    return states_by_text.clone()  # out of inference mode: these are trained against


def _read(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    longest = getattr(model.config, "max_position_embeddings", None)
    cut = {"truncation": True, "max_length": longest} if longest else {}
    # An empty text still has a state: that of a lone beginning, or of the ending where the model
    # has no token for a beginning.
    start = tokenizer.bos_token or tokenizer.eos_token
    given = [text if text.strip() else start for text in texts]
    return tokenizer(given, return_tensors="pt", padding=True, padding_side="right", **cut).to(
        model.device
    )


def _behind(block: nn.Module, model: Any, inputs: Any) -> Tensor:
    """[b, tokens, width], what the block gave."""
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(catch)
    try:
        model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        )
    finally:
        handle.remove()
    return caught[0]


def _pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[b, width]; padding on the right does not count."""
    if pooling == "first":
        return states[:, 0]
    lengths = mask.sum(dim=1)
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), lengths - 1]
    return (states * mask.unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1)


def _blocks(model: Any) -> tuple[nn.ModuleList, nn.Module | None]:
    """The model's blocks, whatever its architecture calls them, and the norm behind them."""
    count = model.config.get_text_config().num_hidden_layers
    for owner in model.modules():  # from the outside in: the blocks before what is inside them
        for part in owner.children():
            if isinstance(part, nn.ModuleList) and len(part) == count:
                norms = (getattr(owner, name, None) for name in _NORMS)
                return part, next((norm for norm in norms if isinstance(norm, nn.Module)), None)
    raise ModelError(
        f"sur.llm.backend needs a model made of {count} blocks in a list, but "
        f"{type(model).__name__} has none. Choose another language model."
    )
