"""Experts that rotate, merged to one adapter that rotates, layer by layer (`merging.Merge`).

LoRA experts may be among them. The two have no algebra in common, so that the rotations are merged
first (a LoRA expert is the identity there), and the mean of the LoRA deltas is added to the rotated
weights: W Rᵀ + Σ w_t B_t A_t. That is exact for deltas trained on rotated weights, and near it for
those trained on the base itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from selma.adapters.files import Lineage
from selma.adapters.models import Model
from selma.adapters.names import sorted_layers
from selma.adapters.reading import AdapterFile
from selma.adapters.rotations import foreign
from selma.adapters.rotations.cayley import drift, skew, triangle
from selma.adapters.rotations.files import RotationFile, Turn
from selma.backbones.text_to_image import ROTATION_FILE
from selma.errors import AdapterError, IncompatibleExperts
from selma.merged.diagnostics import RotationDiagnostics
from selma.merged.lowrank import norm, stacked
from selma.merged.planning import Plan
from selma.merged.rotation_methods import RotationPart, rescaled
from selma.merged.settings import Rescaled
from selma.merged.verifying import flat


class RotationMerge:
    """The merge of experts of which one at least rotates; the merged layers are in memory."""

    file_name = ROTATION_FILE
    layout = "selma"

    def __init__(
        self,
        files: Mapping[str, AdapterFile | RotationFile],
        plan: Plan,
        *,
        folder: Path,
        diagnose: bool,
    ) -> None:
        self.plan = plan
        self.rotating = {name: f for name, f in files.items() if isinstance(f, RotationFile)}
        self.adding = {name: f for name, f in files.items() if isinstance(f, AdapterFile)}
        weights = {name: plan.weights[name] for name in self.rotating}
        self.diagnostics = RotationDiagnostics(weights) if diagnose else None
        self._merged: dict[str, Turn] = {}

    def close(self) -> None:
        """Let go of the merged layers."""
        self._merged.clear()

    @staticmethod
    def require_layout(path: Path, layout: str, **_: object) -> None:
        """Raise AdapterError if rotations cannot be written so: merging takes long enough."""
        foreign.require_layout(path, to=layout)

    @property
    def experts(self) -> Sequence[str]:
        """Those whose entries are trimmed."""
        return list(self.rotating)

    @property
    def layers(self) -> Sequence[str]:
        """Those that any expert changes, in the order of their tensors' names."""
        files: list[AdapterFile | RotationFile] = [*self.rotating.values(), *self.adding.values()]
        return sorted_layers({key for file in files for key in file.layers})

    def entries(self, name: str) -> Iterator[Tensor]:
        """One expert's skew matrices as vectors of their upper triangles, layer by layer."""
        file = self.rotating[name]
        for key in file.layers:
            if (vector := file.turn(key).skew_entries) is not None:
                yield vector

    def add(self, key: str, least: Mapping[str, float]) -> None:
        """Merge one layer. least: expert → the magnitude that its entries must reach."""
        turns = {name: f.turn(key) for name, f in self.rotating.items() if key in f.layers}
        merged = Turn(
            log_magnitudes=self._magnitudes(turns, key), low_rank=self._low_rank(turns, key)
        )
        parts = self._parts(turns, key, least)
        if parts:
            merged = self._rotated(merged, key, parts)
        for name, file in self.adding.items():
            if key in file.layers:
                merged.require_fit(file.layers[key].shape, of=f"{name}, {key}")
        self._merged[key] = merged.scaled(self.plan.scale)

    def before(self, key: str) -> dict[str, float]:
        """Expert → the norm of its R - I, scales and delta of the layer."""
        turning = {
            name: float(_change(file.turn(key)).norm())
            for name, file in self.rotating.items()
            if key in file.layers
        }
        adding = {
            name: file.layers[key].scale * norm(file.factors(key))
            for name, file in self.adding.items()
            if key in file.layers
        }
        return turning | adding

    def expected(self, key: str, least: Mapping[str, float]) -> Tensor:
        """The merged R - I, scales and delta in float64, as one vector."""
        turns = {name: f.turn(key) for name, f in self.rotating.items() if key in f.layers}
        scale, parts = self.plan.scale, self._parts(turns, key, least)
        rotated = None
        if parts:
            blocks = merged_blocks(list(parts.values()), self.plan).double()
            if self.plan.method.orthogonal:
                rotated = drift(scale * blocks)
            else:
                rotated = scale * (blocks - torch.eye(blocks.shape[-1], dtype=torch.float64))
        logs, added = self._magnitudes(turns, key), self._low_rank(turns, key)
        return flat(
            rotated,
            None if logs is None else (scale * logs.double()).expm1(),
            None if added is None else scale * added[1].double() @ added[0].double(),
        )

    def written(self, file: RotationFile, key: str) -> Tensor:
        """The layer's R - I, scales and delta in the merged file, as one vector."""
        return _change(file.turn(key))

    def write(
        self,
        path: Path,
        *,
        layout: str,
        lineage: Lineage,
        notes: Mapping[str, str],
        model: Model | None,
    ) -> list[Path]:
        """Write the merged layers; the paths written."""
        layers = tuple(self._merged)
        give = self._merged.__getitem__
        file = RotationFile(path, "selma", layers, give, lineage, notes=notes)
        return foreign.write_as(path, file, to=layout, model=model)

    def _parts(
        self, turns: Mapping[str, Turn], key: str, least: Mapping[str, float]
    ) -> dict[str, RotationPart]:
        """The experts that rotate the layer; blocks that are shared stand once for each."""
        vectors = {
            n: t.skew_entries.double() for n, t in turns.items() if t.skew_entries is not None
        }
        rows = max((len(vector) for vector in vectors.values()), default=0)
        return {
            name: RotationPart(
                vector.expand(rows, -1),
                self.plan.weights[name],
                least=least.get(name, 0.0),
                layer=key,
            )
            for name, vector in vectors.items()
        }

    def _rotated(self, merged: Turn, key: str, parts: Mapping[str, RotationPart]) -> Turn:
        """The merged layer with its rotation."""
        orthogonal = self.plan.method.orthogonal
        blocks = merged_blocks(list(parts.values()), self.plan)
        origin = torch.zeros(()) if orthogonal else torch.eye(blocks.shape[-1])
        scaled = origin + self.plan.scale * (blocks - origin)
        if self.diagnostics is not None:
            self.diagnostics.add_rotations(key, parts, scaled, orthogonal=orthogonal)
        if orthogonal:
            return replace(merged, skew_entries=triangle(blocks).float())
        return replace(merged, mixture=blocks.float())

    def _magnitudes(self, turns: Mapping[str, Turn], key: str) -> Tensor | None:
        """Σ w_t log D_t: the geometric mean of the scales, which stays positive."""
        each = {name: turn.log_magnitudes for name, turn in turns.items()}
        logs = {name: values for name, values in each.items() if values is not None}
        if len({tuple(values.shape) for values in logs.values()}) > 1:
            raise IncompatibleExperts(f"{key} has other numbers of neurons in some experts.")
        weighted = zip(self._shares(logs), logs.values(), strict=True)
        return sum((w * values for w, values in weighted), torch.zeros(())) if logs else None

    def _shares(self, experts: Iterable[str]) -> list[float]:
        return _shares([self.plan.weights[name] for name in experts], self.plan)

    def _low_rank(self, turns: Mapping[str, Turn], key: str) -> tuple[Tensor, Tensor] | None:
        """Σ w_t delta_t of what LoRA experts, and those merged with them before, add."""
        factors = {name: turn.low_rank for name, turn in turns.items() if turn.low_rank is not None}
        for name, file in self.adding.items():
            if key in file.layers:
                if file.layers[key].kernel is not None:
                    raise AdapterError(f"{key} of {name!r} is a convolution: no rotation fits.")
                a, b = file.factors(key)
                factors[name] = (a, file.layers[key].scale * b)
        if not factors:
            return None
        try:
            return stacked(list(factors.values()), self._shares(factors))
        except RuntimeError as error:
            raise IncompatibleExperts(f"{key} has other widths in some experts.") from error


def _change(turn: Turn) -> Tensor:
    rotated = None
    if turn.skew_entries is not None:
        rotated = drift(skew(turn.skew_entries.double()))
    elif turn.mixture is not None:
        rotated = turn.mixture.double() - torch.eye(turn.mixture.shape[-1])
    logs, added = turn.log_magnitudes, turn.low_rank
    return flat(
        rotated,
        None if logs is None else logs.double().expm1(),
        None if added is None else added[1].double() @ added[0].double(),
    )


def merged_blocks(parts: Sequence[RotationPart], plan: Plan) -> Tensor:
    """One layer's merged S, or M of a method that is not orthogonal: [r, b, b], rescaled if asked.

    The global scale is not in it.
    """
    blocks: Tensor = plan.method.apply(parts, plan.settings)
    if not (isinstance(plan.settings, Rescaled) and plan.settings.rescale):
        return blocks
    # The experts' average is by shares, whatever the weights of a mean of those that agree sum to.
    shares = _shares([part.weight for part in parts], plan)
    shared = [replace(part, weight=w) for part, w in zip(parts, shares, strict=True)]
    return rescaled(blocks, shared)


def _shares(weights: Sequence[float], plan: Plan) -> list[float]:
    """The weights; of a method that divides by those of the experts that take part, as TIES does,
    divided so as well."""
    total = sum(map(abs, weights)) if plan.divides else 1.0
    return [weight / total for weight in weights] if total else list(weights)
