"""Experts that add to weights, merged to one LoRA layer by layer (`merging.Merge`).

Memory holds one layer of all experts at a time (and for the methods that work on whole deltas, that
layer's deltas); what is finished goes to disk at once, since ranks are known only when the last
layer is done and the file's header comes first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from selma.adapters import formats
from selma.adapters.files import Lineage
from selma.adapters.models import Model
from selma.adapters.names import sorted_layers
from selma.adapters.reading import AdapterFile, LayerFile
from selma.adapters.rotations.files import RotationFile
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.merged.delta_methods import Part, aligned
from selma.merged.diagnostics import Diagnostics
from selma.merged.lowrank import Factors, dense, factored, norm, singular, truncated
from selma.merged.planning import Plan
from selma.merged.settings import Cut


class DeltaMerge:
    """The merge of experts that add to weights; the merged layers lie in a file without a name."""

    file_name = ADAPTER_FILE
    layout = "diffusers"

    def __init__(
        self,
        files: Mapping[str, AdapterFile | RotationFile],
        plan: Plan,
        *,
        folder: Path,
        diagnose: bool,
    ) -> None:
        self.files = {name: f for name, f in files.items() if isinstance(f, AdapterFile)}
        self.plan = plan
        self.diagnostics = Diagnostics(plan.weights) if diagnose else None
        self._spool = _Spool(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115  (see close)
        self._merged: dict[str, LayerFile] = {}

    def close(self) -> None:
        """Let go of the merged layers."""
        self._spool.file.close()

    @staticmethod
    def require_layout(
        path: Path,
        layout: str,
        *,
        files: Mapping[str, AdapterFile | RotationFile],
        lineage: Lineage,
        model: Model | None,
    ) -> None:
        """Raise AdapterError if a LoRA cannot be written so: merging takes long enough."""
        layers = {
            key: layer
            for file in files.values()
            if isinstance(file, AdapterFile)
            for key, layer in file.layers.items()
        }
        formats.require_writable(path, layers, lineage, to=layout, model=model)

    @property
    def experts(self) -> Sequence[str]:
        """Those whose entries are trimmed."""
        return list(self.files)

    @property
    def layers(self) -> Sequence[str]:
        """Those that any expert changes, in the order of their tensors' names."""
        keys = {key for file in self.files.values() for key in file.layers}
        return sorted_layers(keys)

    def entries(self, name: str) -> Iterator[Tensor]:
        """One expert's task vector, layer by layer."""
        for key in self.files[name].layers:
            if self.plan.method.aligned:
                parts = self._parts(self.files, key, {})
                yield aligned(list(parts.values()))[1][list(parts).index(name)]
            else:
                yield self._parts({name: self.files[name]}, key, {})[name].delta

    def add(self, key: str, least: Mapping[str, float]) -> None:
        """Merge one layer. least: expert → the magnitude that its entries must reach."""
        parts = self._parts(self.files, key, least)
        a, b = merged_factors(list(parts.values()), self.plan)
        if self.diagnostics is not None:
            factors = {name: part.factors for name, part in parts.items()}
            self.diagnostics.add_layer(key, factors, (a, b))
        like = next(file.layers[key] for file in self.files.values() if key in file.layers)
        self._merged[key] = _merged_layer(like, rank=a.shape[0])
        self._spool.add(key, a, b)

    def before(self, key: str) -> dict[str, float]:
        """Expert → the norm of its delta of the layer."""
        return {name: norm(part.factors) for name, part in self._parts(self.files, key, {}).items()}

    def expected(self, key: str, least: Mapping[str, float]) -> Factors | Tensor:
        """The merged delta in float64, before any cut to a rank."""
        parts: list[Part] = list(self._parts(self.files, key, least).values())
        if not self.plan.method.aligned:  # which works in float64 itself
            parts = [
                _Exact(p.a, p.b, p.scale, p.weight, layer=p.layer, border=p.least) for p in parts
            ]
        result = self.plan.method.apply(parts, self.plan.settings)
        if isinstance(result, Tensor):
            return result.double() * self.plan.scale
        return result[0].double(), result[1].double() * self.plan.scale

    def written(self, file: AdapterFile, key: str) -> Factors:
        """The layer's delta in the merged file."""
        a, b = file.factors(key)
        return a.double(), b.double() * file.layers[key].scale

    def write(
        self,
        path: Path,
        *,
        layout: str,
        lineage: Lineage,
        notes: Mapping[str, str],
        model: Model | None,
    ) -> list[Path]:
        """Write the merged layers; the paths written.

        The adapter has scale 1: experts' own scales are in its factors.
        """
        adapter = formats.Adapter(self._merged, self._spool.read, lineage, notes)
        return formats.write(path, adapter, to=layout, model=model)

    def _parts(
        self, files: Mapping[str, AdapterFile], key: str, least: Mapping[str, float]
    ) -> dict[str, Part]:
        return {
            name: Part(
                *file.factors(key),
                scale=file.layers[key].scale,
                weight=self.plan.weights[name],
                least=least.get(name, 0.0),
                layer=key,
            )
            for name, file in files.items()
            if key in file.layers
        }


def merged_factors(parts: Sequence[Part], plan: Plan) -> Factors:
    """One layer's merged factors, after the cut to a rank and the global scale."""
    result = plan.method.apply(parts, plan.settings)
    a, b = _cut(result, [part.a.shape[0] for part in parts], plan)
    return a, b * plan.scale


def _cut(result: Factors | Tensor, ranks: Sequence[int], plan: Plan) -> Factors:
    rank, max_error = None, None
    if isinstance(plan.settings, Cut):
        rank, max_error = plan.settings.rank, plan.settings.max_error
    if rank is None and max_error is None and plan.method.default_rank is not None:
        rank = plan.method.default_rank(ranks)
    if isinstance(result, Tensor):
        if rank is None and max_error is None:
            # No product of the experts' factors needs more; a pruned delta may, and is cut.
            rank = sum(ranks)
        return factored(result, rank=rank, max_error=max_error)
    if rank is None and max_error is None:
        return result
    return truncated(singular(result), rank=rank, max_error=max_error)


def _merged_layer(like: LayerFile, *, rank: int) -> LayerFile:
    """The merged layer: of one rank, with scale 1, in float32."""
    return replace(like, rank=rank, alpha=float(rank), dtypes=(torch.float32, torch.float32))


@dataclass(frozen=True)
class _Exact(Part):
    """A part in float64, of which the entries are kept that reach the magnitude in float32: that
    of the border itself must not fall to the other side."""

    border: float = 0.0

    @cached_property
    def factors(self) -> Factors:
        return self.a.double(), self.b.double() * self.scale

    @property
    def delta(self) -> Tensor:
        rounded = dense((self.a, self.b * self.scale))
        return torch.where(rounded.abs() >= self.border, dense(self.factors), 0)


class _Spool:
    """Factors on disk until their header can be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.stored: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {}

    def add(self, key: str, a: Tensor, b: Tensor) -> None:
        self.stored[key] = (self.file.tell(), tuple(a.shape), tuple(b.shape))
        for factor in (a, b):
            self.file.write(factor.detach().float().contiguous().numpy().data)

    def read(self, key: str) -> tuple[Tensor, Tensor]:
        offset, a_shape, b_shape = self.stored[key]
        self.file.seek(offset)
        return self._next(a_shape), self._next(b_shape)

    def _next(self, shape: tuple[Any, ...]) -> Tensor:
        rows, columns = shape
        data = bytearray(self.file.read(4 * rows * columns))
        return torch.frombuffer(data, dtype=torch.float32).reshape(rows, columns)
