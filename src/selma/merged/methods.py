"""How experts become one: each method a small function of one layer's factors.

A method sees the factors of all experts in one layer, A_t [r_t, in] and B_t [out, r_t] with the
expert's scale already in B_t, so that expert t changes the layer by B_t A_t; and their weights w_t.
It returns A and B of the merged adapter, whose scale is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""A [r, in] and B [out, r], float32."""


@dataclass(frozen=True)
class Method:
    """One row of the table of methods."""

    name: str
    function: Callable[[Sequence[Factors], Sequence[float]], Factors]
    rank: Callable[[Sequence[int]], int]
    """The merged rank, from the experts' ranks."""
    equal_ranks: bool
    source: str


def mean_of_deltas(experts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """B A = Σ w_t B_t A_t, exactly: the experts' ranks side by side.

    The same function as all experts at once with weights w_t, in one file. Its rank is the sum.
    """
    a = torch.cat([a for a, _ in experts], dim=0)
    b = torch.cat([w * b for (_, b), w in zip(experts, weights, strict=True)], dim=1)
    return a, b


def mean_of_factors(experts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """A = Σ w_t A_t and B = Σ w_t B_t, each by itself: B A also has the cross terms B_s A_t.

    A weaker and another change than the mean of the deltas: an expert's own term has the weight
    w_t², and it depends on how each expert happens to split its delta into factors.
    """
    a = sum((w * a for (a, _), w in zip(experts, weights, strict=True)), start=torch.zeros(()))
    b = sum((w * b for (_, b), w in zip(experts, weights, strict=True)), start=torch.zeros(()))
    return a, b


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "mean_of_deltas",
            mean_of_deltas,
            rank=sum,
            equal_ranks=False,
            source="arXiv:2403.06952, its released code (set_adapters), with weights of sum 1",
        ),
        Method(
            "mean_of_factors",
            mean_of_factors,
            rank=max,
            equal_ranks=True,
            source="arXiv:2403.06952, section 3.4 as written: A and B are averaged",
        ),
    )
}
