"""How experts that are rotations become one: each method a small function of one layer.

Expert t turns the layer's neurons by R_t = Cayley(S_t), block by block, and has the weight w_t.
What the weights lack of 1 is the identity's, and so is an expert that does not turn the layer. For
small rotations all methods agree, R - I = 2 Σ w_t S_t; they part as S grows. float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from selma.adapters.rotations.cayley import (
    cayley,
    generator_of,
    generator_of_exp,
    log,
    nearest_rotation,
    power,
    skew,
    triangle,
)
from selma.errors import IncompatibleExperts
from selma.merged.methods import Choices, ties, weighted_sum
from selma.merged.trimming import kept_by_chance, seed_of, trimmed

KARCHER_STEPS = 200
SETTLED = 1e-12
"""A step of the Karcher mean that turns by less ends it."""


@dataclass(frozen=True)
class TurnPart:
    """One expert's share of one layer."""

    vector: Tensor
    """[r, b (b - 1) / 2], float64: the upper triangles of S, one row for each block."""
    weight: float
    least: float = 0.0
    """Magnitude that an entry must reach to be kept; of the whole task vector, not the layer."""

    @cached_property
    def generator(self) -> Tensor:
        return skew(self.vector)

    @cached_property
    def rotation(self) -> Tensor:
        return cayley(self.generator)


@dataclass(frozen=True)
class TurningMethod:
    """One row of the table of methods for rotations."""

    name: str
    apply: Callable[[Sequence[TurnPart], Choices], Tensor]
    """Parts → the generator S [r, b, b]; or, where `orthogonal` is not so, M [r, b, b] itself."""
    source: str
    orthogonal: bool = True
    ordered: bool = False
    """Whether the experts' order matters: then they are taken as they were handed in."""
    trims: bool = False
    """Whether the density's threshold is taken over the whole task vector."""


def mean_of_skews(parts: Sequence[TurnPart]) -> Tensor:
    """S = Σ w_t S_t: averages tangents of half angles; stays in COFT's ball, which is convex."""
    return weighted_sum([part.generator for part in parts], _weights(parts))


def mean_of_logs(parts: Sequence[TurnPart]) -> Tensor:
    """R = exp(Σ w_t log R_t): averages angles."""
    return generator_of_exp(weighted_sum([log(part.generator) for part in parts], _weights(parts)))


def product(parts: Sequence[TurnPart]) -> Tensor:
    """R = R_T^w_T ... R_1^w_1: the first expert turns first, as applying them one by one does.

    With weights of 1 full strengths add up. Another order differs by the commutators.
    """
    turns = [cayley(_power(part)) for part in parts]
    return generator_of(reduce(lambda done, after: after @ done, turns))


def karcher_mean(parts: Sequence[TurnPart]) -> Tensor:
    """R with Σ w_t log(Rᵀ R_t) = 0: the mean by distances on the rotations themselves.

    The iteration R ← R exp(Σ w_t log(Rᵀ R_t)), begun at the mean of logs. It is the one mean if all
    turn by less than 90° from it. Raises IncompatibleExperts if it does not settle.
    """
    rotations, weights = _with_identity(parts)
    found = cayley(mean_of_logs(parts))
    for _ in range(KARCHER_STEPS):
        step = weighted_sum([log(generator_of(found.mT @ r)) for r in rotations], weights)
        found = found @ torch.linalg.matrix_exp(step)
        if float(step.abs().max()) < SETTLED:
            return generator_of(found)
    raise IncompatibleExperts(
        "karcher_mean does not settle: these experts turn too far apart to have one mean. Use "
        "mean_of_skews, or smaller weights."
    )


def mean_of_rotations(parts: Sequence[TurnPart]) -> Tensor:
    """M = I + Σ w_t (R_t - I): what averaging the changed weights does, W Mᵀ. No rotation: neurons
    become shorter and their angles change. For comparison."""
    rotations, weights = _with_identity(parts)
    return weighted_sum(rotations, weights)


def chordal_mean(parts: Sequence[TurnPart]) -> Tensor:
    """The rotation nearest to the mean of the rotations, in Frobenius norm."""
    return generator_of(nearest_rotation(mean_of_rotations(parts)))


def ties_of_skews(parts: Sequence[TurnPart], choices: Choices) -> Tensor:
    """TIES (arXiv:2306.01708) on the generators' entries: S stays skew, so that R is a rotation."""
    kept = [trimmed(part.vector, part.least) for part in parts]
    found = skew(ties(kept, _weights(parts), normalize=choices.normalize).double())
    if not choices.rescale:
        return found
    # A mean of those that agree: the experts' average is by shares, whatever the weights sum to.
    total = sum(abs(part.weight) for part in parts) if choices.normalize else 1.0
    return rescaled(found, [replace(part, weight=part.weight / total) for part in parts])


def dare_of_skews(parts: Sequence[TurnPart], choices: Choices) -> Tensor:
    """DARE (arXiv:2311.03099) on the generators' entries, then the mean."""
    kept = [
        kept_by_chance(
            part.vector,
            choices.density,
            seed_of(choices.seed, choices.layer, part.vector, part.vector[:0]),
        )
        for part in parts
    ]
    return skew(weighted_sum(kept, _weights(parts)))


def conflict(parts: Sequence[TurnPart]) -> float:
    """c = Σ w_t ‖S_t‖ / ‖Σ w_t S_t‖ of one layer: 1 where experts agree, more where they cancel.

    inf if they cancel out.
    """
    apart = sum(abs(part.weight) * float(part.generator.norm()) for part in parts)
    together = float(mean_of_skews(parts).norm())
    if not apart:
        return 1.0
    return apart / together if together > 1e-12 * apart else math.inf


def rescaled(generator: Tensor, parts: Sequence[TurnPart]) -> Tensor:
    """The generator times c, so that it turns as far as the experts on average; none if they cancel
    out. An idea of OrthoMerge, here for any method's result: by ‖S‖ itself."""
    apart = sum(abs(part.weight) * float(part.generator.norm()) for part in parts)
    norm = float(generator.norm())
    return generator * (apart / norm) if norm > 1e-12 * apart else generator


def _power(part: TurnPart) -> Tensor:
    return part.generator if part.weight == 1 else power(part.generator, part.weight)


def _with_identity(parts: Sequence[TurnPart]) -> tuple[list[Tensor], list[float]]:
    """The rotations and weights, with the identity for what the weights lack of 1."""
    rotations, weights = [part.rotation for part in parts], _weights(parts)
    rest = 1 - sum(weights)
    if abs(rest) < 1e-12:
        return rotations, weights
    eye = torch.eye(rotations[0].shape[-1], dtype=rotations[0].dtype)
    return [*rotations, eye.expand_as(rotations[0])], [*weights, rest]


def _weights(parts: Sequence[TurnPart]) -> list[float]:
    return [part.weight for part in parts]


def _plain(
    function: Callable[[Sequence[TurnPart]], Tensor],
) -> Callable[[Sequence[TurnPart], Choices], Tensor]:
    return lambda parts, _: function(parts)


def _scaled_back(
    function: Callable[[Sequence[TurnPart], Choices], Tensor],
) -> Callable[[Sequence[TurnPart], Choices], Tensor]:
    """The same, rescaled where the choices say so."""

    def apply(parts: Sequence[TurnPart], choices: Choices) -> Tensor:
        found = function(parts, choices)
        return rescaled(found, parts) if choices.rescale else found

    return apply


TURNING_METHODS: dict[str, TurningMethod] = {
    method.name: method
    for method in (
        TurningMethod(
            "mean_of_skews",
            _scaled_back(_plain(mean_of_skews)),
            "ours, docs/paper.md; rescaled after OrthoMerge",
        ),
        TurningMethod(
            "mean_of_logs",
            _scaled_back(_plain(mean_of_logs)),
            "the log-Euclidean mean, on rotations",
        ),
        TurningMethod("product", _plain(product), "powers in a given order", ordered=True),
        TurningMethod(
            "karcher_mean",
            _scaled_back(_plain(karcher_mean)),
            "Karcher's mean of rotations (Manton 2004's iteration)",
        ),
        TurningMethod(
            "chordal_mean",
            _scaled_back(_plain(chordal_mean)),
            "the projected arithmetic mean (Moakher 2002)",
        ),
        TurningMethod(
            "mean_of_rotations",
            _plain(mean_of_rotations),
            "the rule of SELMA's released code, on changed weights",
            orthogonal=False,
        ),
        TurningMethod(
            "ties_of_skews",
            ties_of_skews,
            "arXiv:2306.01708, on generators",
            trims=True,
        ),
        TurningMethod(
            "dare_of_skews",
            _scaled_back(dare_of_skews),
            "arXiv:2311.03099, on generators",
        ),
    )
}


def upper(generator: Tensor) -> Tensor:
    """A generator as it is stored: upper triangles, float32."""
    return triangle(generator).float()
