"""May these experts be merged by this method, and if not, why?"""

from __future__ import annotations

from collections.abc import Mapping

from selma.adapters.files import AdapterFile
from selma.errors import IncompatibleExperts
from selma.merged.methods import Method


def require_compatible(experts: Mapping[str, AdapterFile], method: Method) -> None:
    """Nothing, if the experts (skill → adapter) fit; else IncompatibleExperts with the reason."""
    if not experts:
        raise IncompatibleExperts("Merging needs at least one expert, but none came.")
    skills = sorted(experts)
    first = skills[0]
    for other in skills[1:]:
        _same_base(first, experts[first], other, experts[other])
        _same_layers(first, experts[first], other, experts[other])
        if method.equal_ranks and experts[first].rank != experts[other].rank:
            raise IncompatibleExperts(
                f"{method.name} needs equal ranks, but {first!r} has {experts[first].rank} and "
                f"{other!r} has {experts[other].rank}. Retrain one of them, or set merged.method "
                "to mean_of_deltas."
            )


def _same_base(first: str, a: AdapterFile, other: str, b: AdapterFile) -> None:
    if a.lineage.base != b.lineage.base:
        raise IncompatibleExperts(
            f"Experts must come from one base model, but {first!r} was made for "
            f"{_short(a.lineage.base)} and {other!r} for {_short(b.lineage.base)}. Retrain one."
        )


def _same_layers(first: str, a: AdapterFile, other: str, b: AdapterFile) -> None:
    different = sorted(set(a.shapes) ^ set(b.shapes))
    if different:
        which = first if different[0] in a.shapes else other
        raise IncompatibleExperts(
            f"Experts must change the same layers, but {len(different)} are in only one of "
            f"{first!r} and {other!r}, such as {different[0]} in {which!r}. Retrain one with the "
            "other's targets."
        )
    for module, shape in a.shapes.items():
        if b.shapes[module] != shape:
            raise IncompatibleExperts(
                f"Experts must fit the same layers, but {module} is {shape} in {first!r} and "
                f"{b.shapes[module]} in {other!r}. They belong to different models."
            )


def _short(fingerprint: str | None) -> str:
    return f"base {fingerprint[:12]}" if fingerprint else "a base that it does not name"
