"""Rotations and their skew matrices: the mathematics of OFT (arXiv:2306.07280), in one sign.

A rotation R is block diagonal with r blocks [b, b], and R = (I + S)(I - S)⁻¹ of a skew S = -Sᵀ
(Cayley), as the paper has it. PEFT and most of the released code have (I - S)(I + S)⁻¹: their S is
ours times -1. With weights stored as [out, in], every row (neuron) is turned: W Rᵀ.

All of it wants float32 or wider: in half precision products of rotations are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from selma.errors import AdapterError

Radius = Literal["paper", "released", "peft"]

ORTHOGONAL = 1e-5
"""How far an entry of R Rᵀ may be from the identity's."""
SINGULAR = 1e-6
"""A smallest singular value below this has no direction that one could trust."""


def skew(vector: Tensor) -> Tensor:
    """Skew matrices [r, b, b] from their upper triangles, row by row, [r, b (b - 1) / 2]."""
    size = side(vector.shape[-1])
    upper = vector.new_zeros(*vector.shape[:-1], size * size)
    upper[..., _places(size, vector.device)] = vector
    upper = upper.unflatten(-1, (size, size))
    return upper - upper.mT


def triangle(skew: Tensor) -> Tensor:
    """The upper triangles [r, b (b - 1) / 2] of skew matrices [r, b, b]; `skew` undoes it."""
    return skew.flatten(-2)[..., _places(skew.shape[-1], skew.device)]


def side(entries: int) -> int:
    """b, of b (b - 1) / 2 entries. Raises AdapterError if no block has that many."""
    size = (1 + math.isqrt(1 + 8 * entries)) // 2
    if size < 2 or size * (size - 1) // 2 != entries:
        raise AdapterError(
            f"A skew matrix has b (b - 1) / 2 entries for a side b, but {entries} came."
        )
    return size


def cayley(skew: Tensor) -> Tensor:
    """R = (I + S)(I - S)⁻¹ [r, b, b]: a rotation with determinant +1, never with eigenvalue -1."""
    eye = _eye(skew)
    # One factorisation; an explicit inverse would lose digits. Both factors commute.
    return torch.linalg.solve(eye - skew, eye + skew)


def drift(skew: Tensor) -> Tensor:
    """R - I = 2 (I - S)⁻¹ S, which keeps its digits where R is near the identity."""
    # I - S has no singular value below 1: looking for one would only stop a GPU's queue, and an S
    # that is not finite is told by the loss.
    return torch.linalg.solve_ex(_eye(skew) - skew, 2 * skew)[0]


def skew_of(rotation: Tensor) -> Tensor:
    """S = (R + I)⁻¹ (R - I), the inverse of `cayley`; exactly skew.

    Raises AdapterError if a block turns some plane by 180°: there no S exists.
    """
    eye = _eye(rotation)
    solution, failed = torch.linalg.solve_ex(rotation + eye, rotation - eye)
    # Not ≤ rather than >, so that what is no number is refused, too.
    if failed.any() or not float(solution.abs().max()) <= 1 / SINGULAR:
        raise AdapterError("A rotation by 180° has no skew matrix; merge with smaller weights.")
    return (solution - solution.mT) / 2


def orthogonality_error(blocks: Tensor) -> float:
    """max |R Rᵀ - I| over all blocks; 0 for rotations."""
    return float((blocks @ blocks.mT - _eye(blocks)).abs().max())


def require_rotation(blocks: Tensor, *, of: str = "a layer") -> Tensor:
    """The blocks, if they are rotations up to `ORTHOGONAL`; else AdapterError."""
    wrong = orthogonality_error(blocks)
    if not wrong < ORTHOGONAL:
        raise AdapterError(f"R Rᵀ must be the identity, but is {wrong:.2g} from it in {of}.")
    return blocks


def turned(weight: Tensor, blocks: Tensor) -> Tensor:
    """W Rᵀ [out, in]: each row turned block by block.

    weight: [out, r b].  blocks: [r, b, b], or [1, b, b] for one block that all share.
    """
    wide(blocks)
    size = blocks.shape[-1]
    parts = weight.to(blocks.dtype).unflatten(1, (-1, size))
    return torch.einsum("orb,rcb->orc", parts, blocks.expand(parts.shape[1], -1, -1)).flatten(1)


def ball(eps: float, meaning: Radius, *, size: int, blocks: int, shared: bool = False) -> float:
    """The largest Frobenius norm of a block's S that COFT allows; what eps means is by name.

    "paper": ‖R - I‖ ≤ eps for the whole layer. Since ‖R - I‖ ≤ 2 ‖S‖, blocks of eps / (2 √r) hold
    it. "released": its code, eps b² / √r, and eps b² for a shared block; so that eps of 1e-3 hardly
    holds a wide layer. "peft": eps / √(rows stored).
    """
    if meaning == "paper":
        return eps / (2 * math.sqrt(blocks))
    stored = 1 if shared else blocks
    return eps * (size**2 if meaning == "released" else 1) / math.sqrt(stored)


def projected(vector: Tensor, radius: float) -> Tensor:
    """Each block scaled back to ‖S‖ ≤ radius where it is outside. COFT's projection.

    vector: [r, b (b - 1) / 2], whose norm is ‖S‖ / √2: each entry stands in S twice.
    """
    wide(vector)
    norm = math.sqrt(2) * vector.norm(dim=-1, keepdim=True)
    return torch.where(norm > radius, vector * (radius / norm.clamp(min=1e-30)), vector)


def log(skew: Tensor) -> Tensor:
    """A = log R [r, b, b], skew, with plane angles 2 arctan σ where S has eigenvalues ± iσ."""
    return _of_angles(skew, lambda sigma: 2 * torch.arctan(sigma), slope=2.0)


def skew_of_exp(logarithm: Tensor) -> Tensor:
    """The S of exp A: eigenvalues iθ become i tan(θ / 2). Undoes `log` for angles below 180°.

    Raises AdapterError where a plane is turned by 180° or more: another S would turn it back.
    """

    def half_tangent(theta: Tensor) -> Tensor:
        if bool((theta >= math.pi - SINGULAR).any()):
            raise AdapterError(
                "A rotation by 180° or more has no skew matrix; use smaller weights."
            )
        return torch.tan(theta / 2)

    return _of_angles(logarithm, half_tangent, slope=0.5)


def power(skew: Tensor, exponent: float) -> Tensor:
    """The S of R to that power: all plane angles times `exponent`."""
    return skew_of_exp(exponent * log(skew))


def nearest_rotation(blocks: Tensor) -> Tensor:
    """The rotation nearest to each block in Frobenius norm: U Vᵀ of M = U Σ Vᵀ, with det +1.

    Raises AdapterError where M is singular, so that there is no single nearest one.
    """
    u, s, vt = torch.linalg.svd(blocks)
    if float(s[..., -1].min()) < SINGULAR:
        raise AdapterError("The mean of these rotations is singular: none is nearest to it.")
    flip = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0).to(u)
    u = torch.cat([u[..., :-1], u[..., -1:] * flip[..., None, None]], dim=-1)
    return u @ vt


def series(skew: Tensor, terms: int = 5) -> Tensor:
    """PEFT's and OneTrainer's truncated series in place of `cayley`; no rotation.

    I + 2S + 2S² + ... + 2Sᵏ⁻² + Sᵏ⁻¹ of k terms, near (I + S)(I - S)⁻¹ for small S.
    """
    total = power_ = _eye(skew).expand_as(skew)
    terms = max(terms, 4) if terms > 2 else terms  # as theirs: 3 terms are 4
    for term in range(1, terms):
        power_ = power_ @ skew
        total = total + (1 if term == terms - 1 > 1 else 2) * power_
    return total


def wide(tensor: Tensor) -> Tensor:
    """The tensor, if it is float32 or wider; else TypeError."""
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"Rotations need float32 or float64, but {tensor.dtype} came.")
    return tensor


@lru_cache(maxsize=256)
def _places(size: int, device: torch.device) -> Tensor:
    """Where the upper triangle's entries lie in a flat matrix, row by row."""
    rows, columns = torch.triu_indices(size, size, 1, device=device)
    return rows * size + columns


def _eye(like: Tensor) -> Tensor:
    return torch.eye(wide(like).shape[-1], dtype=like.dtype, device=like.device)


def _of_angles(skew: Tensor, function: Callable[[Tensor], Tensor], *, slope: float) -> Tensor:
    """The skew matrix whose eigenvalues are ± i f(σ) where the given one's are ± iσ.

    f is odd with f'(0) = slope, so that f(S) = S g(-S²) with g(σ²) = f(σ) / σ: one decomposition of
    a real symmetric matrix, and g has no trouble where planes turn alike. float64.
    """
    s = wide(skew).double()
    squares, planes = torch.linalg.eigh(s.mT @ s)
    sigma = squares.clamp(min=0).sqrt()
    ratio = torch.where(sigma > 1e-8, function(sigma) / sigma.clamp(min=1e-30), slope)
    result = s @ (planes * ratio.unsqueeze(-2)) @ planes.mT
    return ((result - result.mT) / 2).to(skew.dtype)
