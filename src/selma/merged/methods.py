"""How experts become one: each method a small function of one layer.

Expert t changes the layer by delta_t = s_t B_t A_t, with A_t [r_t, in] and B_t [out, r_t], and has
the weight w_t. An expert that does not change the layer is left out of the call: its delta is 0. A
method returns factors (A, B), or the whole delta [out, in], which is factored afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from selma.merged.lowrank import Factors, dense, singular, stacked, truncated
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

    @cached_property
    def factors(self) -> Factors:
        """(A, s B)."""
        return self.a, self.b * self.scale

    @property
    def delta(self) -> Tensor:
        return dense(self.factors)


@dataclass(frozen=True)
class Choices:
    """What a method may be told beside the weights; each method has its own defaults."""

    layer: str = ""
    density: float = 1.0
    normalize: bool = True
    consensus: Literal["ties", "mean"] = "ties"
    seed: int = 0
    rank: int | None = None
    max_error: float | None = None
    rescale: bool = False


@dataclass(frozen=True)
class Method:
    """One row of the table of methods."""

    name: str
    apply: Callable[[Sequence[Part], Choices], Factors | Tensor]
    source: str
    equal_ranks: bool = False
    trims: Literal["delta", "aligned"] | None = None
    """What the density's threshold is taken over, of the whole task vector."""


def mean_of_deltas(experts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """B A = Σ w_t B_t A_t, exactly: the experts' ranks side by side.

    The same function as all experts at once with weights w_t, in one file. Its rank is the sum.
    """
    return stacked(experts, weights)


def mean_of_factors(experts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """A = Σ w_t A_t and B = Σ w_t B_t, each by itself: B A also has the cross terms B_s A_t.

    A weaker and another change than the mean of the deltas: an expert's own term has the weight
    w_t², and it depends on how each expert happens to split its delta into factors.
    """
    a = sum((w * a for (a, _), w in zip(experts, weights, strict=True)), start=torch.zeros(()))
    b = sum((w * b for (_, b), w in zip(experts, weights, strict=True)), start=torch.zeros(()))
    return a, b


def svd_of_mean(
    experts: Sequence[Factors],
    weights: Sequence[float],
    *,
    rank: int | None = None,
    max_error: float | None = None,
) -> Factors:
    """The nearest change to Σ w_t B_t A_t of that rank, or the shortest within that error.

    Without either the rank is the largest among the experts, as PEFT has it.
    """
    if max_error is None:
        rank = rank or max(a.shape[0] for a, _ in experts)
    return truncated(singular(stacked(experts, weights)), rank=rank, max_error=max_error)


def weighted_sum(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_t delta_t."""
    return sum((w * d for d, w in zip(deltas, weights, strict=True)), start=torch.zeros(()))


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


def _largest(values: Tensor, density: float) -> Tensor:
    """int(density x count) entries of largest magnitude, as PEFT counts them."""
    if density >= 1:
        return values
    kept = torch.topk(values.abs().reshape(-1), k=int(density * values.numel())).indices
    mask = torch.zeros_like(values).reshape(-1)
    mask[kept] = 1
    return values * mask.reshape(values.shape)


def _disjoint_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    each = torch.stack(list(tensors))
    agree = each.sign() == torch.where(each.sum(dim=0) >= 0, 1, -1)
    factor = torch.tensor(weights, dtype=each.dtype).reshape(-1, *(1,) * (each.dim() - 1))
    return (each * factor * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1.0)


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
    return (q_b @ u).float(), [one.float() for one in in_basis]


def _doubled(parts: Sequence[Part]) -> list[Factors]:
    return [(part.factors[0].double(), part.factors[1].double()) for part in parts]


def knots(
    parts: Sequence[Part], *, consensus: Literal["ties", "mean"], normalize: bool = True
) -> Factors:
    """B = U and A = the merge of the experts' Σ V_tᵀ, by TIES or as their mean. KnOTS."""
    basis, shares = aligned(parts)
    weights = [part.weight for part in parts]
    if consensus == "mean":
        return weighted_sum(shares, weights) / sum(weights), basis
    kept = [trimmed(one, part.least) for one, part in zip(shares, parts, strict=True)]
    return ties(kept, weights, normalize=normalize), basis


def _by_factors(
    function: Callable[[Sequence[Factors], Sequence[float]], Factors],
) -> Callable[[Sequence[Part], Choices], Factors]:
    return lambda parts, _: function([one.factors for one in parts], [one.weight for one in parts])


def _svd(parts: Sequence[Part], choices: Choices) -> Factors:
    return svd_of_mean(
        [one.factors for one in parts],
        [one.weight for one in parts],
        rank=choices.rank,
        max_error=choices.max_error,
    )


def _trimmed(parts: Sequence[Part]) -> list[Tensor]:
    return [trimmed(one.delta, one.least) for one in parts]


def _by_chance(parts: Sequence[Part], choices: Choices) -> list[Tensor]:
    return [
        kept_by_chance(
            one.delta, choices.density, seed_of(choices.seed, choices.layer, one.a, one.b)
        )
        for one in parts
    ]


def _weights(parts: Sequence[Part]) -> list[float]:
    return [one.weight for one in parts]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "mean_of_deltas",
            _by_factors(mean_of_deltas),
            "arXiv:2403.06952, its released code (set_adapters), with weights of sum 1",
        ),
        Method(
            "mean_of_factors",
            _by_factors(mean_of_factors),
            "arXiv:2403.06952, section 3.4 as written: A and B are averaged",
            equal_ranks=True,
        ),
        Method(
            "sum_of_deltas",
            _by_factors(stacked),
            "task arithmetic, arXiv:2212.04089",
        ),
        Method("svd", _svd, "the mean of the deltas, cut by Eckart and Young's theorem"),
        Method(
            "ties",
            lambda parts, c: ties(_trimmed(parts), _weights(parts), normalize=c.normalize),
            "arXiv:2306.01708, on deltas",
            trims="delta",
        ),
        Method(
            "ties_of_factors",
            lambda parts, c: ties_of_factors(parts, density=c.density),
            "PEFT's add_weighted_adapter, combination_type='ties'",
            equal_ranks=True,
        ),
        Method(
            "dare",
            lambda parts, c: weighted_sum(_by_chance(parts, c), _weights(parts)),
            "arXiv:2311.03099, then the mean",
        ),
        Method(
            "dare_ties",
            lambda parts, c: ties(_by_chance(parts, c), _weights(parts), normalize=c.normalize),
            "arXiv:2311.03099 in place of TIES' trimming",
        ),
        Method(
            "magnitude_prune",
            lambda parts, _: weighted_sum(_trimmed(parts), _weights(parts)),
            "TIES' trimming (arXiv:2306.01708) alone, then the mean",
            trims="delta",
        ),
        Method(
            "knots",
            lambda parts, c: knots(parts, consensus=c.consensus, normalize=c.normalize),
            "arXiv:2410.19735",
            trims="aligned",
        ),
    )
}
