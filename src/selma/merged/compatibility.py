"""May these experts be merged by this method, and if not, why?"""

from __future__ import annotations

from collections.abc import Mapping

from selma.adapters.reading import AdapterFile
from selma.errors import IncompatibleExperts
from selma.merged.methods import Method


def require_compatible(
    experts: Mapping[str, AdapterFile], method: Method, *, known_base: bool = True
) -> None:
    """Nothing, if the experts (name → adapter) fit; else IncompatibleExperts with the reason.

    With `known_base` an expert that does not name its base fits only others that do not either;
    files from elsewhere never name one, and there only two different names are a mistake. An
    expert need not change all layers that another changes.
    """
    if not experts:
        raise IncompatibleExperts("Merging needs at least one expert, but none came.")
    names = sorted(experts)
    for place, other in enumerate(names):
        for first in names[:place]:
            _same_base(first, experts[first], other, experts[other], known=known_base)
            _same_shapes(first, experts[first], other, experts[other])
            if method.equal_ranks:
                _same_ranks(method.name, first, experts[first], other, experts[other])


def _same_base(first: str, a: AdapterFile, other: str, b: AdapterFile, *, known: bool) -> None:
    bases = a.lineage.base, b.lineage.base
    if bases[0] != bases[1] and (known or None not in bases):
        raise IncompatibleExperts(
            f"Experts must come from one base model, but {first!r} was made for "
            f"{_short(bases[0])} and {other!r} for {_short(bases[1])}. Retrain one."
        )


def _same_shapes(first: str, a: AdapterFile, other: str, b: AdapterFile) -> None:
    for key in a.layers.keys() & b.layers.keys():
        one, two = a.layers[key], b.layers[key]
        if (one.shape, one.kernel) != (two.shape, two.kernel):
            raise IncompatibleExperts(
                f"Experts must fit the same layers, but {key} is {_size(one.shape, one.kernel)} in "
                f"{first!r} and {_size(two.shape, two.kernel)} in {other!r}. They belong to "
                "different models."
            )


def _same_ranks(method: str, first: str, a: AdapterFile, other: str, b: AdapterFile) -> None:
    for key in sorted(a.layers.keys() & b.layers.keys()):
        ranks = a.layers[key].rank, b.layers[key].rank
        if ranks[0] != ranks[1]:
            raise IncompatibleExperts(
                f"{method} needs equal ranks, but {key} has {ranks[0]} in {first!r} and "
                f"{ranks[1]} in {other!r}. Retrain one of them, or set merged.method to "
                "mean_of_deltas."
            )


def _size(shape: tuple[int, int], kernel: tuple[int, int] | None) -> str:
    return f"{list(shape)}" + (f" with kernel {list(kernel)}" if kernel else "")


def _short(fingerprint: str | None) -> str:
    return f"base {fingerprint[:12]}" if fingerprint else "a base that it does not name"
