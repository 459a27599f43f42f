"""How experts that are rotations become one: each method a small function of one layer.

Expert t rotates the layer's neurons by R_t = Cayley(S_t), block by block, and has the weight w_t.
What the weights lack of 1 is the identity's, and so is an expert that does not rotate the layer. A
method returns the skew matrices S [r, b, b] of the result, or M [r, b, b] itself if its row is not
orthogonal. For small rotations all agree, R - I = 2 Σ w_t S_t; they part as S grows. float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from selma.adapters.rotations.cayley import (
    cayley,
    log,
    nearest_rotation,
    power,
    skew,
    skew_of,
    skew_of_exp,
)
from selma.errors import IncompatibleExperts
from selma.merged.delta_methods import ties, weighted_sum
from selma.merged.trimming import kept_by_chance, seed_of, trimmed

KARCHER_STEPS = 200
CONVERGED = 1e-12
"""A step of the Karcher mean that rotates by less ends it."""


@dataclass(frozen=True)
class RotationPart:
    """One expert's share of one layer."""

    vector: Tensor
    """[r, b (b - 1) / 2], float64: the upper triangles of S, one row for each block."""
    weight: float
    least: float = 0.0
    """Magnitude that an entry must reach to be kept; of the whole task vector, not the layer."""
    layer: str = ""

    @cached_property
    def skew(self) -> Tensor:
        """S [r, b, b]."""
        return skew(self.vector)

    @cached_property
    def rotation(self) -> Tensor:
        return cayley(self.skew)


def mean_of_skews(parts: Sequence[RotationPart]) -> Tensor:
    """S = Σ w_t S_t: averages tangents of half angles; stays in COFT's ball, which is convex."""
    return weighted_sum([part.skew for part in parts], _weights(parts))


def mean_of_logs(parts: Sequence[RotationPart]) -> Tensor:
    """R = exp(Σ w_t log R_t): averages angles."""
    return skew_of_exp(weighted_sum([log(part.skew) for part in parts], _weights(parts)))


def product(parts: Sequence[RotationPart]) -> Tensor:
    """R = R_T^w_T ... R_1^w_1: the first expert rotates first, as applying them one by one does.

    With weights of 1 full strengths add up. Another order differs by the commutators.
    """
    rotations = [cayley(_power(part)) for part in parts]
    return skew_of(reduce(lambda before, after: after @ before, rotations))


def karcher_mean(parts: Sequence[RotationPart]) -> Tensor:
    """R with Σ w_t log(Rᵀ R_t) = 0: the mean by distances on the rotations themselves.

    The iteration R ← R exp(Σ w_t log(Rᵀ R_t)), begun at the mean of logs. It is the one mean if all
    are rotated by less than 90° from it. Raises IncompatibleExperts unless it converges.
    """
    rotations, weights = _with_identity(parts)
    mean = cayley(mean_of_logs(parts))
    for _ in range(KARCHER_STEPS):
        step = weighted_sum([log(skew_of(mean.mT @ r)) for r in rotations], weights)
        mean = mean @ torch.linalg.matrix_exp(step)
        if float(step.abs().max()) < CONVERGED:
            return skew_of(mean)
    raise IncompatibleExperts(
        "karcher_mean does not converge: these experts rotate too far apart to have one mean. Use "
        "mean_of_skews, or smaller weights."
    )


def mean_of_rotations(parts: Sequence[RotationPart]) -> Tensor:
    """M = I + Σ w_t (R_t - I): what averaging the rotated weights does, W Mᵀ. No rotation: neurons
    become shorter and their angles change. For comparison."""
    rotations, weights = _with_identity(parts)
    return weighted_sum(rotations, weights)


def chordal_mean(parts: Sequence[RotationPart]) -> Tensor:
    """The rotation nearest to the mean of the rotations, in Frobenius norm."""
    return skew_of(nearest_rotation(mean_of_rotations(parts)))


def ties_of_skews(parts: Sequence[RotationPart], *, normalize: bool) -> Tensor:
    """TIES (arXiv:2306.01708) on the entries of S, which stays skew, so that R is a rotation."""
    largest = [trimmed(part.vector, part.least) for part in parts]
    return skew(ties(largest, _weights(parts), normalize=normalize).double())


def dare_of_skews(parts: Sequence[RotationPart], *, density: float, seed: int) -> Tensor:
    """DARE (arXiv:2311.03099) on the entries of S, then the mean."""
    by_chance = [
        kept_by_chance(
            part.vector, density, seed_of(seed, part.layer, part.vector, part.vector[:0])
        )
        for part in parts
    ]
    return skew(weighted_sum(by_chance, _weights(parts)))


def conflict(parts: Sequence[RotationPart]) -> float:
    """c = Σ w_t ‖S_t‖ / ‖Σ w_t S_t‖ of one layer: 1 where experts agree, more where they cancel.

    inf if they cancel out.
    """
    apart = sum(abs(part.weight) * float(part.skew.norm()) for part in parts)
    together = float(mean_of_skews(parts).norm())
    if not apart:
        return 1.0
    return apart / together if together > 1e-12 * apart else math.inf


def rescaled(merged: Tensor, parts: Sequence[RotationPart]) -> Tensor:
    """S times c, so that it rotates as far as the experts on average; as it is if they cancel out.

    An idea of OrthoMerge, here for any method's result: by ‖S‖ itself.
    """
    apart = sum(abs(part.weight) * float(part.skew.norm()) for part in parts)
    norm = float(merged.norm())
    return merged * (apart / norm) if norm > 1e-12 * apart else merged


def _power(part: RotationPart) -> Tensor:
    return part.skew if part.weight == 1 else power(part.skew, part.weight)


def _with_identity(parts: Sequence[RotationPart]) -> tuple[list[Tensor], list[float]]:
    """The rotations and weights, with the identity for what the weights lack of 1."""
    rotations, weights = [part.rotation for part in parts], _weights(parts)
    rest = 1 - sum(weights)
    if abs(rest) < 1e-12:
        return rotations, weights
    eye = torch.eye(rotations[0].shape[-1], dtype=rotations[0].dtype)
    return [*rotations, eye.expand_as(rotations[0])], [*weights, rest]


def _weights(parts: Sequence[RotationPart]) -> list[float]:
    return [part.weight for part in parts]
