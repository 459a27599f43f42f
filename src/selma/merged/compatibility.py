"""May these experts be merged by this method, and if not, why?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from selma.adapters import names
from selma.adapters.layers import squeezed, titles
from selma.adapters.reading import AdapterFile
from selma.adapters.rotations.cayley import side
from selma.adapters.rotations.files import RotationFile
from selma.backbones.families import denoiser_components
from selma.errors import IncompatibleExperts
from selma.merged.methods import METHODS, Method

AnyFile = AdapterFile | RotationFile


def require_compatible(
    experts: Mapping[str, AnyFile], method: Method, *, known_base: bool = True
) -> None:
    """Raise IncompatibleExperts with the reason unless the experts (name → adapter) fit.

    With `known_base` an expert that does not name its base fits only others that do not either;
    files from elsewhere never name one, and there only two different names are a mistake. An
    expert need not change all layers that another changes.
    """
    if not experts:
        raise IncompatibleExperts("Merging needs at least one expert, but none came.")
    _require_readable(experts)
    _method_accepts(experts, method)
    _one_family(experts)
    for first, other in combinations(sorted(experts), 2):
        a, b = experts[first], experts[other]
        _same_base(first, a, other, b, known=known_base)
        if isinstance(a, AdapterFile) and isinstance(b, AdapterFile):
            _same_shapes(first, a, other, b)
            if method.accepts == "factors":
                _same_ranks(method.name, first, a, other, b)
    if method.rotates:
        _same_blocks({n: file for n, file in experts.items() if isinstance(file, RotationFile)})
        _denoiser_alone(experts)


def _require_readable(experts: Mapping[str, AnyFile]) -> None:
    """Refuse what the merge's drivers cannot read: they would pass over it unseen."""
    for name, file in experts.items():
        needed = RotationFile if file.merge_space == "rotations" else AdapterFile
        if not isinstance(file, needed):
            raise IncompatibleExperts(
                f"{name!r} is of the kind {file.kind}, which is merged in {file.merge_space}, so "
                f"that its row must read it as {needed.__name__}, but it reads it as "
                f"{type(file).__name__}. Mend the row, or leave its settings without merge_space."
            )


def _method_accepts(experts: Mapping[str, AnyFile], method: Method) -> None:
    rotating = sorted(name for name, file in experts.items() if file.merge_space == "rotations")
    fitting = ", ".join(row.name for row in METHODS.values() if row.rotates == bool(rotating))
    if rotating and not method.rotates:
        raise IncompatibleExperts(
            f"{rotating[0]!r} is a rotation, which {method.name} cannot merge. Set merged.method "
            f"to one of {fitting}."
        )
    if method.rotates and not rotating:
        raise IncompatibleExperts(
            f"{method.name} merges rotations, but these experts add to weights. Set merged.method "
            f"to one of {fitting}."
        )


def _one_family(experts: Mapping[str, AnyFile]) -> None:
    """Refuse experts whose layers no known model has all of. A base that only its fingerprint names
    is held against the others' by that (`_same_base`)."""
    known = {name: file.models for name, file in experts.items() if file.models}
    for first, other in combinations(sorted(known), 2):
        if not {m.model for m in known[first]} & {m.model for m in known[other]}:
            raise IncompatibleExperts(
                f"Experts must be for one model, but {first!r} changes layers of "
                f"{titles(known[first], joint=' or ')} and {other!r} of "
                f"{titles(known[other], joint=' or ')}. Merge those of one family; if another "
                "model has the layers of all, name it with --base."
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
        mine, theirs = a.layers[key], b.layers[key]
        if squeezed(mine.weight_shape) != squeezed(theirs.weight_shape):
            raise IncompatibleExperts(
                f"Experts must fit the same layers, but {key} is "
                f"{_size(mine.shape, mine.kernel)} in {first!r} and "
                f"{_size(theirs.shape, theirs.kernel)} in {other!r}. They belong to different "
                "models."
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


def _same_blocks(files: Mapping[str, RotationFile]) -> None:
    """A block that a whole layer shares goes with as many as the others have there."""
    sizes: dict[str, tuple[str, int, int]] = {}
    for name, file in files.items():
        for key in file.layers:
            blocks = _blocks_of(name, file, key)
            if blocks is None:
                continue
            rows, size = blocks
            other, rows_there, size_there = sizes.setdefault(key, (name, rows, size))
            if size != size_there or (rows != rows_there and 1 not in (rows, rows_there)):
                raise IncompatibleExperts(
                    f"Rotations need blocks of one size, but {key} has {rows_there} of side "
                    f"{size_there} in {other!r} and {rows} of side {size} in {name!r}. Retrain one."
                )
            if rows_there == 1:
                sizes[key] = (name, rows, size)


def _blocks_of(name: str, file: RotationFile, key: str) -> tuple[int, int] | None:
    """How many blocks are stored for a layer, and their side; None where it is not rotated."""
    turn = file.turn(key)
    if turn.mixture is not None:
        raise IncompatibleExperts(
            f"Rotations are merged, but {key} of {name!r} is none: mean_of_rotations left "
            "it. Merge what it was made of."
        )
    if turn.skew_entries is None:
        return None
    return turn.skew_entries.shape[0], side(turn.skew_entries.shape[-1])


def _denoiser_alone(files: Mapping[str, AnyFile]) -> None:
    denoisers = denoiser_components()
    for name, file in files.items():
        for key in file.layers:
            if names.split(key)[0] not in denoisers:
                raise IncompatibleExperts(
                    f"What rotations are merged with may change the denoiser alone, but {name!r} "
                    f"changes {key}. Train it without the text encoder, or merge it with LoRA "
                    "experts."
                )


def _size(shape: tuple[int, int], kernel: tuple[int, int] | None) -> str:
    return f"{list(shape)}" + (f" with kernel {list(kernel)}" if kernel else "")


def _short(fingerprint: str | None) -> str:
    return f"base {fingerprint[:12]}" if fingerprint else "a base that it does not name"
