"""Low-rank algebra of one layer, in float64: products of factors, and their best short forms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selma.adapters.reading import product_norm

Factors = tuple[Tensor, Tensor]
"""A [r, in] and B [out, r]; the change of the layer is B A."""

Singular = tuple[Tensor, Tensor, Tensor]
"""U [out, k], s [k] falling, Vᵀ [k, in] of a change."""


def stacked(experts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """B A = Σ w_t B_t A_t exactly, with the experts' ranks side by side."""
    a = torch.cat([a for a, _ in experts], dim=0)
    b = torch.cat([w * b for (_, b), w in zip(experts, weights, strict=True)], dim=1)
    return a, b


def singular(factors: Factors) -> Singular:
    """The singular value decomposition of B A, k ≤ r, without forming B A.

    With B = Q_b R_b and Aᵀ = Q_a R_a only the small R_b R_aᵀ has to be decomposed.
    """
    a, b = (factor.double() for factor in factors)
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.mT)
    u, s, vt = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
    return q_b @ u, s, vt @ q_a.mT


def norm(factors: Factors) -> float:
    """‖B A‖ in float64, of factors of any precision."""
    return product_norm(*(factor.double() for factor in factors))


def smallest_rank(s: Tensor, max_error: float) -> int:
    """The smallest rank (at least 1) whose relative error in Frobenius' norm is ≤ max_error."""
    lost = s.square().flip(0).cumsum(0).flip(0)  # lost[r] is what rank r leaves out
    allowed = max_error**2 * lost[0]
    return max(1, int((lost > allowed).sum()))


def truncated(
    decomposed: Singular, *, rank: int | None = None, max_error: float | None = None
) -> Factors:
    """The nearest change of that rank, or the shortest within that error (Eckart and Young).

    √s goes to each side, so that A and B have equal norms. float32.
    """
    u, s, vt = decomposed
    keep = smallest_rank(s, max_error) if max_error is not None else min(rank or len(s), len(s))
    root = s[:keep].sqrt()
    return (root[:, None] * vt[:keep]).float(), (u[:, :keep] * root).float()


def dense(factors: Factors) -> Tensor:
    """B A [out, in]."""
    a, b = factors
    return b @ a


def factored(delta: Tensor, *, rank: int | None, max_error: float | None) -> Factors:
    """A dense change [out, in] as its best factors of that rank or within that error."""
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)
    return truncated((u, s, vt), rank=rank, max_error=max_error)


def products(stack: Factors, ranks: Sequence[int]) -> Tensor:
    """⟨B_s A_s, B_t A_t⟩ for all pairs of changes that lie side by side in a stack, float64."""
    a, b = (factor.double() for factor in stack)
    both = (b.mT @ b) * (a @ a.mT)
    rows = torch.stack([part.sum(0) for part in both.split(list(ranks), dim=0)])
    return torch.stack([part.sum(1) for part in rows.split(list(ranks), dim=1)], dim=1)
