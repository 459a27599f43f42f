"""A layer with a mixture: y = W x + Σ_i g_i(x) s_i B_i A_i x, where g(x) = softmax(W_g x).

The experts' s_i B_i A_i are frozen and the gates W_g alone are trained. SELMA's MoE-LoRA
(arXiv:2403.06952, table 4), which says no more than that the gates are linear and normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from selma.adapters import names
from selma.config.adapters import Gate
from selma.errors import AdapterError

GATE = "gate"
CHILD = "mixture"
"""Name, below a layer, of what is mixed into it."""

Watch = Callable[[str, Tensor], None]
"""Called with a layer and its gates' shares, [..., k], at each pass."""


def gate_shares(x: Tensor, weight: Tensor, *, gate: Gate) -> Tensor:
    """Each expert's share at each token, [..., k] in float32; they sum to 1.

    x: [b, ..., d].  weight: W_g, [k, d].  A pooled gate reads the mean over a sample's tokens, so
    that all of them get the same: [b, 1, k].
    """
    if gate == "pooled" and x.ndim > 2:
        x = x.mean(dim=tuple(range(1, x.ndim - 1)), keepdim=True)
    return torch.nn.functional.linear(x, weight.to(x.dtype)).float().softmax(dim=-1)


def mixed_change(x: Tensor, shares: Tensor, a: Tensor, b: Tensor, ranks: Tensor) -> Tensor:
    """Σ_i g_i B_i A_i x, [..., out], in two products, however many experts there are.

    a: [R, d], the experts' A one below the other.  b: [out, R], their s B side by side.  ranks: [k]
    rows of each, which sum to R.
    """
    inner = torch.nn.functional.linear(x, a)
    # Its length is told, so that a GPU need not be waited for.
    each = shares.repeat_interleave(ranks, dim=-1, output_size=a.shape[0])
    return torch.nn.functional.linear(inner * each.to(inner.dtype), b)


@dataclass(frozen=True)
class MixedTensors:
    """A mixture's tensors of one layer, float32."""

    a: Tensor
    """[R, in]."""
    b: Tensor
    """[out, R]; scales are in it."""
    ranks: Tensor
    """[k], whole numbers; 0 of an expert that does not change the layer."""
    gate: Tensor
    """W_g, [k, in]."""

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """A and s B of each expert."""
        ranks = self.ranks.tolist()
        return list(zip(self.a.split(ranks), self.b.split(ranks, dim=1), strict=True))


@dataclass(frozen=True)
class Mixture:
    """Experts and their gates: layers by our names, each read when asked for."""

    experts: tuple[str, ...]
    """Their names, in the order of the gates' rows."""
    gate: Gate
    layers: Mapping[str, tuple[int, int]]
    """Sorted; (output width, input width)."""
    give: Callable[[str], MixedTensors]


class MixedLayer(nn.Module):
    """What is mixed into one layer."""

    a: Tensor
    b: Tensor
    ranks: Tensor

    def __init__(self, tensors: MixedTensors, gate: Gate, *, like: Tensor) -> None:
        super().__init__()
        self.kind = gate
        self.gate = nn.Parameter(tensors.gate.float().to(like.device, copy=True))
        self.watch: Callable[[Tensor], None] | None = None
        for name, factor in (("a", tensors.a), ("b", tensors.b)):
            self.register_buffer(name, factor.to(like.device, like.dtype))
        self.register_buffer("ranks", tensors.ranks.to(like.device))

    def forward(self, x: Tensor) -> Tensor:
        shares = gate_shares(x, self.gate, gate=self.kind)
        if self.watch is not None:
            self.watch(shares.detach())
        return mixed_change(x, shares, self.a, self.b, self.ranks)


@contextmanager
def mixed(
    pipe: Any, mixture: Mixture, *, strength: float = 1.0, watch: Watch | None = None
) -> Iterator[dict[str, nn.Parameter]]:
    """While the block runs, the pipeline's layers add what the mixture says; then they are what
    they were. Yields the gates by name ("<layer>.gate"), sorted, in float32.

    Raises AdapterError if a layer is missing, or not linear.
    """
    parameters, undo = {}, []
    try:
        for key in mixture.layers:
            module = _linear(pipe, key)
            layer = MixedLayer(mixture.give(key), mixture.gate, like=module.weight)
            layer.watch = None if watch is None else partial(watch, key)
            # As a part of the layer it is wherever the layer is moved.
            module.add_module(CHILD, layer)
            undo.append((module, module.register_forward_hook(_adding(layer, strength))))
            parameters[f"{key}.{GATE}"] = layer.gate
        yield dict(sorted(parameters.items()))
    finally:
        for module, hook in undo:
            hook.remove()
            delattr(module, CHILD)


def _adding(layer: MixedLayer, strength: float) -> Callable[[Any, tuple[Tensor, ...], Tensor], Any]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (strength * layer(inputs[0])).to(output.dtype)

    return add


def _linear(pipe: Any, key: str) -> nn.Linear:
    component, path = names.split(key)
    try:
        module = getattr(pipe, component).get_submodule(path)
    except AttributeError as error:
        raise AdapterError(f"The mixture changes {key}, which this model has not.") from error
    if not isinstance(module, nn.Linear):
        raise AdapterError(
            f"A mixture's gates read a linear layer's input, but {key} is a "
            f"{type(module).__name__}. Train experts whose targets are linear layers."
        )
    if hasattr(module, CHILD):
        raise AdapterError("Only one mixture can be applied at a time; take off the first.")
    return module
