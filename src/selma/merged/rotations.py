"""Experts that turn → one adapter that turns, layer by layer, with a judgement of what was done.

LoRA experts may be among them. The two have no algebra in common, so that the rotations are merged
first (a LoRA expert is the identity there), and the mean of the LoRA changes is added to the turned
weights: W Rᵀ + Σ w_t B_t A_t. That is exact for changes trained on turned weights, and near it for
those trained on the base itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from selma.adapters import names
from selma.adapters.files import DIAGNOSTICS_KEY, Lineage
from selma.adapters.reading import AdapterFile
from selma.adapters.rotations.cayley import drift, orthogonality_error, side
from selma.adapters.rotations.files import RotationFile, Turn, sorted_layers
from selma.config.merged import MergedConfig
from selma.errors import AdapterError, IncompatibleExperts
from selma.merged.diagnostics import Judge, header
from selma.merged.lowrank import stacked
from selma.merged.methods import Choices
from selma.merged.rotation_methods import (
    TURNING_METHODS,
    TurningMethod,
    TurnPart,
    conflict,
    upper,
)
from selma.merged.trimming import threshold

AnyFile = AdapterFile | RotationFile


def combine_rotations(
    files: Mapping[str, AnyFile],
    weights: Mapping[str, float],
    config: MergedConfig,
    *,
    made_by: Mapping[str, Any],
) -> tuple[RotationFile, dict[str, Any]]:
    """The merged adapter, in memory, and the judgement. Raises IncompatibleExperts."""
    method, choices = TURNING_METHODS[config.method], Choices(**config.settings)
    merge = _Merge(files, weights, method, choices, scale=config.scale)
    require_alike(merge.turning)
    require_unet_alone(files)
    turns, diagnostics = {}, _TurnJudge({name: weights[name] for name in merge.turning})
    for key in merge.layers:
        turns[key] = merge.layer(key, diagnostics)
    base = {file.lineage.base for file in files.values()} - {None}
    lineage = Lineage(base=base.pop() if len(base) == 1 else None, made_by=made_by)
    some = next(iter(files.values()))
    found = diagnostics.found
    notes = {DIAGNOSTICS_KEY: header(found)}
    give = turns.__getitem__
    return RotationFile(some.path, "selma", tuple(turns), give, lineage, notes=notes), found


def require_alike(files: Mapping[str, RotationFile]) -> None:
    """Nothing, if the experts' blocks are of one size in each layer; else IncompatibleExperts.

    A block that a whole layer shares goes with as many as the others have there.
    """
    sizes: dict[str, tuple[str, int, int]] = {}
    for name, file in files.items():
        for key in file.layers:
            turn = file.turn(key)
            if turn.mixture is not None:
                raise IncompatibleExperts(
                    f"Rotations are merged, but {key} of {name!r} is none: mean_of_rotations left "
                    "it. Merge what it was made of."
                )
            if turn.generator is None:
                continue
            rows, size = turn.generator.shape[0], side(turn.generator.shape[-1])
            other, rows_there, size_there = sizes.setdefault(key, (name, rows, size))
            if size != size_there or (rows != rows_there and 1 not in (rows, rows_there)):
                raise IncompatibleExperts(
                    f"Rotations need blocks of one size, but {key} has {rows_there} of side "
                    f"{size_there} in {other!r} and {rows} of side {size} in {name!r}. Retrain one."
                )
            if rows_there == 1:
                sizes[key] = (name, rows, size)


def require_unet_alone(files: Mapping[str, AnyFile]) -> None:
    """Nothing, if all experts change the UNet and nothing else; else IncompatibleExperts."""
    for name, file in files.items():
        for key in file.layers:
            if names.split(key)[0] != names.UNET:
                raise IncompatibleExperts(
                    f"What rotations are merged with may change the UNet alone, but {name!r} "
                    f"changes {key}. Train it without the text encoder, or merge it with LoRA "
                    "experts."
                )


@dataclass(frozen=True)
class _Merge:
    files: Mapping[str, AnyFile]
    weights: Mapping[str, float]
    method: TurningMethod
    choices: Choices
    scale: float = 1.0
    """Of the whole result: a strength."""

    @property
    def turning(self) -> dict[str, RotationFile]:
        return {name: f for name, f in self.files.items() if isinstance(f, RotationFile)}

    @property
    def layers(self) -> tuple[str, ...]:
        return sorted_layers({key for file in self.files.values() for key in file.layers})

    def layer(self, key: str, diagnostics: _TurnJudge) -> Turn:
        turns = {name: file.turn(key) for name, file in self.turning.items() if key in file.layers}
        found = self._turn(turns, key, diagnostics)
        for name, file in self.files.items():
            if isinstance(file, AdapterFile) and key in file.layers:
                found.require_fit(file.layers[key].shape, of=f"{name}, {key}")
        return found.scaled(self.scale)

    def _turn(self, turns: Mapping[str, Turn], key: str, diagnostics: _TurnJudge) -> Turn:
        found = Turn(
            log_magnitudes=self._magnitudes(turns, key), low_rank=self._low_rank(turns, key)
        )
        parts = self.parts(turns)
        if not parts:
            return found
        blocks = self.method.apply(list(parts.values()), replace(self.choices, layer=key))
        if self.method.orthogonal:
            found, rest = replace(found, generator=upper(blocks)), torch.zeros(())
        else:
            found, rest = replace(found, mixture=blocks.float()), torch.eye(blocks.shape[-1])
        whole = rest + self.scale * (blocks - rest)
        diagnostics.look_at(key, parts, whole, orthogonal=self.method.orthogonal)
        return found

    def parts(self, turns: Mapping[str, Turn]) -> dict[str, TurnPart]:
        """The experts that turn the layer; blocks that are shared stand once for each."""
        vectors = {n: t.generator.double() for n, t in turns.items() if t.generator is not None}
        rows = max((len(vector) for vector in vectors.values()), default=0)
        return {
            name: TurnPart(vector.expand(rows, -1), self.weights[name], self._least.get(name, 0.0))
            for name, vector in vectors.items()
        }

    @cached_property
    def _least(self) -> Mapping[str, float]:
        return _thresholds(self) if self.method.trims and self.choices.density < 1 else {}

    def _magnitudes(self, turns: Mapping[str, Turn], key: str) -> Tensor | None:
        """Σ w_t log D_t: the geometric mean of the scales, which stays positive."""
        each = {name: turn.log_magnitudes for name, turn in turns.items()}
        found = {name: one for name, one in each.items() if one is not None}
        if len({tuple(one.shape) for one in found.values()}) > 1:
            raise IncompatibleExperts(f"{key} has other numbers of neurons in some experts.")
        weighted = zip(self._shares(found), found.values(), strict=True)
        return sum((w * one for w, one in weighted), torch.zeros(())) if found else None

    def _shares(self, experts: Iterable[str]) -> list[float]:
        """Their weights; of a method that divides by those of the experts that take part, as TIES
        does, divided so as well."""
        weights = [self.weights[name] for name in experts]
        mean = self.method.trims and self.choices.normalize
        total = sum(map(abs, weights)) if mean else 1.0
        return [weight / total for weight in weights] if total else weights

    def _low_rank(self, turns: Mapping[str, Turn], key: str) -> tuple[Tensor, Tensor] | None:
        found = {name: turn.low_rank for name, turn in turns.items() if turn.low_rank is not None}
        for name, file in self.files.items():
            if isinstance(file, AdapterFile) and key in file.layers:
                if file.layers[key].kernel is not None:
                    raise AdapterError(f"{key} of {name!r} is a convolution: no rotation fits.")
                a, b = file.factors(key)
                found[name] = (a, file.layers[key].scale * b)
        if not found:
            return None
        try:
            return stacked(list(found.values()), self._shares(found))
        except RuntimeError as error:
            raise IncompatibleExperts(f"{key} has other widths in some experts.") from error


def _thresholds(merge: _Merge) -> dict[str, float]:
    """Expert → the magnitude that its share `density` of entries reaches, over all its layers."""

    def vectors(file: RotationFile) -> Iterator[Tensor]:
        for key in file.layers:
            if (generator := file.turn(key).generator) is not None:
                yield generator

    return {
        name: threshold(partial(vectors, file), merge.choices.density)
        for name, file in merge.turning.items()
    }


class _TurnJudge(Judge):
    """Judges in the space of R - I, block by block: for neurons of all directions alike that is the
    space of the weights' changes. Conflicts are those of the generators' entries."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.apart = self.together = self.worst = 0.0

    def look_at(
        self, layer: str, parts: Mapping[str, TurnPart], merged: Tensor, *, orthogonal: bool
    ) -> None:
        """Adds one layer. merged: S, or M where the method leaves no rotation."""
        eye = torch.eye(merged.shape[-1], dtype=merged.dtype)
        change = drift(merged) if orthogonal else merged - eye
        changes = [*(drift(part.generator) for part in parts.values()), change]
        flat = torch.stack([one.flatten() for one in changes])
        wrong = orthogonality_error(change + eye)
        self._note(list(parts.values()), wrong)
        self.add(
            layer,
            list(parts),
            flat @ flat.mT,
            self.counted({name: part.vector for name, part in parts.items()}),
            {
                "blocks": merged.shape[0],
                "conflict": _finite(conflict(list(parts.values()))),
                "orthogonality": float(f"{wrong:.3g}"),
            },
        )

    @property
    def found(self) -> dict[str, Any]:
        whole = super().found
        c = math.sqrt(self.apart / self.together) if self.together > 1e-24 * self.apart else None
        more = {
            "conflict": 1.0 if not self.apart else c and round(c, 4),
            "orthogonality": float(f"{self.worst:.3g}"),
        }
        return {**whole, "all": whole["all"] | more}

    def _note(self, parts: Sequence[TurnPart], wrong: float) -> None:
        norms = [abs(part.weight) * float(part.generator.norm()) for part in parts]
        mean = sum((part.weight * part.generator for part in parts), torch.zeros(()))
        self.apart += sum(norms) ** 2
        self.together += float(mean.norm()) ** 2
        self.worst = max(self.worst, wrong)


def _finite(value: float) -> float | None:
    """None of an infinite one, which JSON does not know."""
    return round(value, 4) if math.isfinite(value) else None
