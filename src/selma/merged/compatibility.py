"""May these experts be merged by this method, and if not, why?"""

from __future__ import annotations

from collections.abc import Mapping

from selma.adapters.reading import AdapterFile
from selma.adapters.rotations.files import RotationFile
from selma.errors import IncompatibleExperts
from selma.merged.methods import METHODS, Method
from selma.merged.rotation_methods import TURNING_METHODS, TurningMethod

AnyFile = AdapterFile | RotationFile


def require_compatible(
    experts: Mapping[str, AnyFile], method: Method | TurningMethod, *, known_base: bool = True
) -> None:
    """Nothing, if the experts (name → adapter) fit; else IncompatibleExperts with the reason.

    With `known_base` an expert that does not name its base fits only others that do not either;
    files from elsewhere never name one, and there only two different names are a mistake. An
    expert need not change all layers that another changes.
    """
    if not experts:
        raise IncompatibleExperts("Merging needs at least one expert, but none came.")
    _method_of_the_kind(experts, method)
    names = sorted(experts)
    for place, other in enumerate(names):
        for first in names[:place]:
            a, b = experts[first], experts[other]
            _same_base(first, a, other, b, known=known_base)
            if isinstance(a, AdapterFile) and isinstance(b, AdapterFile):
                _same_shapes(first, a, other, b)
                if isinstance(method, Method) and method.equal_ranks:
                    _same_ranks(method.name, first, a, other, b)


def _method_of_the_kind(experts: Mapping[str, AnyFile], method: Method | TurningMethod) -> None:
    turning = sorted(name for name, file in experts.items() if isinstance(file, RotationFile))
    if turning and isinstance(method, Method):
        raise IncompatibleExperts(
            f"{turning[0]!r} is a rotation, which {method.name} cannot merge. Set merged.method to "
            f"one of {', '.join(TURNING_METHODS)}."
        )
    if not turning and isinstance(method, TurningMethod):
        raise IncompatibleExperts(
            f"{method.name} merges rotations, but these experts add to weights. Set merged.method "
            f"to one of {', '.join(METHODS)}."
        )


def _same_base(first: str, a: AnyFile, other: str, b: AnyFile, *, known: bool) -> None:
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
