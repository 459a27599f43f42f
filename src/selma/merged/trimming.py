"""Which entries of a task vector are kept: the largest (TIES), or some drawn by chance (DARE)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Pieces = Callable[[], Iterable[Tensor]]
"""Gives the pieces of a vector anew at each call: it is too large to be held."""

_HALF = 16  # bits of a float32 that one pass looks at


def threshold(pieces: Pieces, density: float) -> float:
    """The magnitude that the share `density` of all entries reaches; inf if that is none.

    Exact, in two passes that hold no more than one piece: magnitudes are ordered as their bits
    are, so that the first pass counts upper halves and the second, where the border lies, lower
    ones.
    """
    if density >= 1:
        return 0.0
    upper = torch.zeros(1 << _HALF, dtype=torch.int64)
    for piece in pieces():
        upper += torch.bincount(_bits(piece) >> _HALF, minlength=len(upper))
    wanted = int(density * int(upper.sum()))
    if not wanted:
        return torch.inf
    high, above = _reached(upper, wanted)
    lower = torch.zeros(1 << _HALF, dtype=torch.int64)
    for piece in pieces():
        bits = _bits(piece)
        halves = bits[bits >> _HALF == high] & (1 << _HALF) - 1
        lower += torch.bincount(halves, minlength=len(lower))
    low, _ = _reached(lower, wanted - above)
    return float(torch.tensor(high << _HALF | low, dtype=torch.int32).view(torch.float32))


def _bits(values: Tensor) -> Tensor:
    return values.detach().abs().contiguous().view(torch.int32).reshape(-1)


def _reached(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The highest place from which upwards at least `wanted` are counted; and how many above."""
    from_above = counts.flip(0).cumsum(0)
    passed = int((from_above < wanted).sum())
    index = len(counts) - 1 - passed
    return index, int(from_above[passed] - counts[index])


def trimmed(values: Tensor, least: float) -> Tensor:
    """The entries of at least that magnitude; zero elsewhere. TIES, arXiv:2306.01708, step 1."""
    return torch.where(values.abs() >= least, values, 0)


def kept_by_chance(values: Tensor, density: float, seed: int) -> Tensor:
    """Each entry stays with probability `density` and is then divided by it; else zero.

    The expectation is the values themselves. DARE, arXiv:2311.03099, with its p = 1 - density.
    """
    if density >= 1:
        return values
    generator = torch.Generator().manual_seed(seed)
    stays = torch.rand(values.shape, generator=generator) < density
    return values * stays / density


def seed_of(seed: int, layer: str, a: Tensor, b: Tensor) -> int:
    """A seed for one expert's layer, from what it holds: neither its name, nor its place among the
    experts, nor its file's format, nor any other layer changes it."""
    digest = hashlib.sha256(f"{seed}\n{layer}\n".encode())
    for factor in (a, b):
        digest.update(factor.float().contiguous().numpy().data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1  # torch takes 63 bits
