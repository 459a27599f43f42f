"""How experts that add to weights become one: each method a small function of one layer.

Expert t adds delta_t = s_t B_t A_t, with A_t [r_t, in] and B_t [out, r_t], and has the weight w_t.
An expert that does not change the layer is left out of the call: its delta is 0. A method returns
factors (A, B), or the whole delta [out, in], which is factored afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from selma.merged.lowrank import Factors, dense, stacked
from selma.merged.trimming import kept_by_chance, seed_of, trimmed


@dataclass(frozen=True)
class Part:
    """One expert's share of one layer."""

    a: Tensor
    b: Tensor
    scale: float
    weight: float
    least: float = 0.0
    """Magnitude that an entry must reach to be kept; of the whole task vector, not the layer."""
    layer: str = ""

    @cached_property
    def factors(self) -> Factors:
        """(A, s B)."""
        return self.a, self.b * self.scale

    @property
    def delta(self) -> Tensor:
        return dense(self.factors)


def weighted_deltas(parts: Sequence[Part]) -> Factors:
    """B A = Σ w_t s_t B_t A_t, exactly: the experts' ranks side by side.

    The same function as all experts at once with weights w_t, in one file. Its rank is the sum.
    """
    return stacked([part.factors for part in parts], weights_of(parts))


def weighted_factors(parts: Sequence[Part]) -> Factors:
    """A = Σ w_t A_t and B = Σ w_t s_t B_t, each by itself: B A also has the cross terms B_s A_t.

    A weaker and another change than the mean of the deltas: an expert's own term has the weight
    w_t², and it depends on how each expert happens to split its delta into factors.
    """
    weights = weights_of(parts)
    a = weighted_sum([part.factors[0] for part in parts], weights)
    b = weighted_sum([part.factors[1] for part in parts], weights)
    return a, b


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_t x_t."""
    return sum((w * x for x, w in zip(tensors, weights, strict=True)), start=torch.zeros(()))


def elected_sign(deltas: Sequence[Tensor]) -> Tensor:
    """+1 or -1 for each entry: the sign with the larger total mass. TIES, step 2.

    A sum of exactly zero counts as +, as in PEFT; the paper's code takes the commonest sign of the
    whole model there.
    """
    return torch.where(sum(deltas, start=torch.zeros(())) >= 0, 1.0, -1.0)


def ties(deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool = True) -> Tensor:
    """The mean of those entries that agree with the elected sign. TIES, arXiv:2306.01708.

    The deltas are trimmed already; zeros take no part. Weights multiply the deltas before the
    election, as in mergekit; without `normalize` the agreeing entries are summed instead.
    """
    weighted = [w * d for d, w in zip(deltas, weights, strict=True)]
    sign = elected_sign(weighted)
    agree = [d.sign() == sign for d in weighted]
    total = sum((d * mask for d, mask in zip(weighted, agree, strict=True)), torch.zeros(()))
    if not normalize:
        return total
    divisor = weighted_sum([mask.float() for mask in agree], [abs(w) for w in weights])
    return total / torch.where(divisor > 0, divisor, 1)


def ties_of_deltas(parts: Sequence[Part], *, normalize: bool) -> Tensor:
    """TIES on whole deltas: the largest of each, then those that agree."""
    return ties(_trimmed(parts), weights_of(parts), normalize=normalize)


def magnitude_prune(parts: Sequence[Part]) -> Tensor:
    """The weighted sum of the largest entries of each delta: TIES' first step alone."""
    return weighted_sum(_trimmed(parts), weights_of(parts))


def dare(parts: Sequence[Part], *, density: float, seed: int) -> Tensor:
    """The weighted sum of entries kept by chance. DARE, arXiv:2311.03099."""
    return weighted_sum(_by_chance(parts, density, seed), weights_of(parts))


def dare_ties(parts: Sequence[Part], *, density: float, seed: int, normalize: bool) -> Tensor:
    """TIES on entries kept by chance, rather than on the largest."""
    return ties(_by_chance(parts, density, seed), weights_of(parts), normalize=normalize)


def ties_of_factors(parts: Sequence[Part], *, density: float) -> Factors:
    """TIES on A and on B apart, as PEFT's add_weighted_adapter("ties") has it.

    Each tensor is trimmed by itself, signs are elected without weights, √(w s) goes on either side
    (its sign on A's), and the sum is divided by how many agree: weights are 1, not 1/T.
    """
    a = [_largest(part.a, density) for part in parts]
    b = [_largest(part.b, density) for part in parts]
    products = [part.weight * part.scale for part in parts]
    roots = [math.sqrt(abs(w)) for w in products]
    signed = [math.copysign(root, w) for root, w in zip(roots, products, strict=True)]
    return _disjoint_mean(a, signed), _disjoint_mean(b, roots)


def aligned(parts: Sequence[Part]) -> tuple[Tensor, list[Tensor]]:
    """U [out, k] and for each expert its Σ V_tᵀ [k, in] in that one basis.

    From the singular value decomposition of the deltas side by side, [delta_1 ... delta_T] =
    U Σ [V_1ᵀ ... V_Tᵀ], so that U Σ V_tᵀ is delta_t itself. KnOTS, arXiv:2410.19735; its code,
    too, merges Σ V_tᵀ rather than V_tᵀ. The deltas are never formed.
    """
    q_b, r_b = torch.linalg.qr(torch.cat([b for _, b in _doubled(parts)], dim=1))
    sides = [torch.linalg.qr(a.mT) for a, _ in _doubled(parts)]
    # The A_t lie in blocks of their own: their triangles are what is left of them.
    core = r_b @ torch.block_diag(*(r_a.mT for _, r_a in sides))
    u, s, vt = torch.linalg.svd(core, full_matrices=False)
    shares = vt.split([q_a.shape[1] for q_a, _ in sides], dim=1)
    in_basis = [s[:, None] * v @ q_a.mT for v, (q_a, _) in zip(shares, sides, strict=True)]
    return (q_b @ u).float(), [share.float() for share in in_basis]


def knots(
    parts: Sequence[Part], *, consensus: Literal["ties", "mean"] = "ties", normalize: bool = True
) -> Factors:
    """B = U and A = the merge of the experts' Σ V_tᵀ, by TIES or as their mean. KnOTS."""
    basis, shares = aligned(parts)
    weights = weights_of(parts)
    if consensus == "mean":
        return weighted_sum(shares, weights) / sum(weights), basis
    largest = [trimmed(share, part.least) for share, part in zip(shares, parts, strict=True)]
    return ties(largest, weights, normalize=normalize), basis


def weights_of(parts: Sequence[Part]) -> list[float]:
    """The experts' weights, in their order."""
    return [part.weight for part in parts]


def _trimmed(parts: Sequence[Part]) -> list[Tensor]:
    return [trimmed(part.delta, part.least) for part in parts]


def _by_chance(parts: Sequence[Part], density: float, seed: int) -> list[Tensor]:
    return [
        kept_by_chance(part.delta, density, seed_of(seed, part.layer, part.a, part.b))
        for part in parts
    ]


def _doubled(parts: Sequence[Part]) -> list[Factors]:
    return [(part.factors[0].double(), part.factors[1].double()) for part in parts]


def _largest(values: Tensor, density: float) -> Tensor:
    """int(density x count) entries of largest magnitude, as PEFT counts them."""
    if density >= 1:
        return values
    largest = torch.topk(values.abs().reshape(-1), k=int(density * values.numel())).indices
    mask = torch.zeros_like(values).reshape(-1)
    mask[largest] = 1
    return values * mask.reshape(values.shape)


def _disjoint_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    each = torch.stack(list(tensors))
    agree = each.sign() == torch.where(each.sum(dim=0) >= 0, 1, -1)
    factor = torch.tensor(weights, dtype=each.dtype).reshape(-1, *(1,) * (each.dim() - 1))
    return (each * factor * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1.0)
