"""Mixtures as files: the experts' factors side by side, and the gates. No other program reads them.

Tensors of a layer, behind its name: `experts_A` [R, in], `experts_B` [out, R] with scales in it,
`ranks` [k], `gate` [k, in], and `mean_gate` [k] once it was measured. The names are not those of a
LoRA's factors: a program that took them for one would add all experts at full strength.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from selma.adapters.files import (
    DTYPES,
    OUR_KEY,
    Lineage,
    as_json,
    lineage_json,
    notes_of,
    write_safetensors,
)
from selma.adapters.folders import SAFETENSORS, has_suffix
from selma.adapters.headers import (
    Kept,
    header_json,
    lineage_of,
    opened,
    tensor_names,
)
from selma.adapters.layers import Layers
from selma.adapters.mixtures.mixing import GATE, MixedTensors, Mixture
from selma.adapters.names import sorted_layers
from selma.adapters.reading import AdapterFile
from selma.config.adapters import Gate
from selma.errors import AdapterError
from selma.texts import quoted

FILE = "mixture.safetensors"
MIXTURE_KEY = "selma_mixture"
A, B, RANKS, MEAN = "experts_A", "experts_B", "ranks", "mean_gate"
NEEDED = (A, B, RANKS, GATE)


@dataclass(frozen=True)
class MixtureFile:
    """A mixture on disk, its header read."""

    kind: ClassVar[str] = "mixture"
    format: ClassVar[str] = "selma"
    merge_space: ClassVar[None] = None

    path: Path
    layers: Mapping[str, tuple[int, int]]
    """Sorted by our names; (output width, input width)."""
    ranks: Mapping[str, int]
    """Layer → R, the sum of its experts' ranks."""
    lineage: Lineage
    experts: tuple[str, ...]
    gate: Gate
    measured: bool
    """Whether the gates' means are in it."""
    notes: Mapping[str, str]
    """Further entries of the header (`files.notes_of`)."""
    _kept: Kept = field(default_factory=Kept, repr=False, compare=False)

    @property
    def mixture(self) -> Mixture:
        return Mixture(self.experts, self.gate, self.layers, self.give)

    def give(self, key: str) -> MixedTensors:
        """One layer's tensors. Raises AdapterError unless they fit together and are finite."""
        with self._kept.opened(self.path) as file:
            a, b, ranks, gate = (file.get_tensor(f"{key}.{role}") for role in NEEDED)
        if (ranks < 0).any() or int(ranks.sum()) != a.shape[0]:
            raise AdapterError(
                f"{self.path}: the ranks of {key} must sum to {a.shape[0]}, but are "
                f"{ranks.tolist()}."
            )
        if not all(torch.isfinite(tensor).all() for tensor in (a, b, gate)):
            raise AdapterError(f"{self.path}: the tensors of {key} must be finite, but are not.")
        return MixedTensors(a.float(), b.float(), ranks, gate.float())

    def mean_gate(self, key: str) -> Tensor:
        """[k]: the gate's mean shares, where they were measured."""
        with self._kept.opened(self.path) as file:
            mean: Tensor = file.get_tensor(f"{key}.{MEAN}").float()
            return mean

    def averaged(self, key: str) -> tuple[Tensor, Tensor]:
        """A and B of one layer with the gate at its mean: Σ_i ḡ_i s_i B_i A_i."""
        tensors = self.give(key)
        return tensors.a, tensors.b * self.mean_gate(key).repeat_interleave(tensors.ranks)


def of_experts(experts: Mapping[str, AdapterFile], gate: Gate) -> Mixture:
    """The mixture of these experts with gates of zeros: their exact mean.

    Raises AdapterError if one changes a convolution, which has no tokens to choose by.
    """
    layers: dict[str, tuple[int, int]] = {}
    for name, file in experts.items():
        for key, layer in file.layers.items():
            if layer.kernel is not None:
                raise AdapterError(
                    f"A mixture's gates read a linear layer's input, but {name!r} changes the "
                    f"convolution {key}. Train experts whose targets are linear layers."
                )
            layers[key] = layer.shape

    def give(key: str) -> MixedTensors:
        out, width = layers[key]
        factors = [
            _scaled(file, key)
            if key in file.layers
            else (torch.zeros(0, width), torch.zeros(out, 0))
            for file in experts.values()
        ]
        return MixedTensors(
            torch.cat([a for a, _ in factors]),
            torch.cat([b for _, b in factors], dim=1),
            torch.tensor([a.shape[0] for a, _ in factors]),
            torch.zeros(len(factors), width),
        )

    in_order = {key: layers[key] for key in sorted_layers(layers)}
    return Mixture(tuple(experts), gate, in_order, give)


def save(
    path: Path,
    mixture: Mixture,
    gates: Mapping[str, Tensor],
    *,
    lineage: Lineage,
    means: Mapping[str, Tensor] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write the mixture with these gates ("<layer>.gate" → W_g); equal ones give equal bytes.

    means: layer → the mean shares that were measured.  notes: further entries of the header.
    """
    tensors: dict[str, Any] = {}
    dtypes: dict[str, torch.dtype] = {}
    count = len(mixture.experts)
    for key, (out, width) in mixture.layers.items():
        given = mixture.give(key)
        rows, ranks = given.a.shape[0], given.ranks
        tensors[f"{key}.{A}"] = (rows, width), lambda key=key: mixture.give(key).a
        tensors[f"{key}.{B}"] = (out, rows), lambda key=key: mixture.give(key).b
        tensors[f"{key}.{GATE}"] = (count, width), lambda key=key: gates[f"{key}.{GATE}"]
        if means is not None:
            tensors[f"{key}.{MEAN}"] = (count,), lambda key=key: means[key]
        tensors[f"{key}.{RANKS}"] = (count,), lambda ranks=ranks: ranks
        dtypes[f"{key}.{RANKS}"] = torch.int64
    metadata = {
        "format": "pt",
        OUR_KEY: lineage_json(lineage),
        MIXTURE_KEY: as_json({"experts": mixture.experts, "gate": mixture.gate, "version": 1}),
        **(notes or {}),
    }
    write_safetensors(path, tensors, metadata=metadata, dtypes=dtypes)


def is_mixture(path: Path) -> bool:
    """Whether a file says in its header that it is a mixture."""
    if not has_suffix(path, SAFETENSORS) or not path.is_file():
        return False
    with opened(path) as file:
        return MIXTURE_KEY in (file.metadata() or {})


def read(source: Path, *, base: Layers | None = None) -> MixtureFile:
    """The mixture in a file or in a folder of ours, its header checked. Raises AdapterError."""
    path = source / FILE if source.is_dir() else source
    with opened(path) as file:
        metadata = file.metadata() or {}
        shapes = {
            name: _shape(path, name, file.get_slice(name)) for name in tensor_names(file, path)
        }
    about = header_json(metadata, MIXTURE_KEY, path)
    experts, gate = about.get("experts"), about.get("gate")
    if (
        not isinstance(experts, list)
        or gate not in ("token", "pooled")
        or about.get("version") != 1
    ):
        raise AdapterError(
            f"{path} must be a mixture of version 1, but its header says {quoted(about)}."
        )
    keys = sorted_layers({name.rpartition(".")[0] for name in shapes})
    if not keys:
        raise AdapterError(f"{path} must change at least one layer, but is empty.")
    layers = {key: _checked(path, key, shapes, len(experts)) for key in keys}
    return MixtureFile(
        path=path,
        layers=layers,
        ranks={key: shapes[f"{key}.{A}"][0] for key in keys},
        lineage=lineage_of(metadata, path),
        experts=tuple(map(str, experts)),
        gate=gate,
        measured=all(f"{key}.{MEAN}" in shapes for key in keys),
        notes=notes_of(metadata),
    )


def require_fit(file: MixtureFile, base: Layers, who: object) -> None:
    """Raise AdapterError unless the base has each of the mixture's layers in its shape."""
    for key, shape in file.layers.items():
        if base.shapes.get(key) != shape:
            came = list(base.shapes[key]) if key in base.shapes else "nothing of this name"
            raise AdapterError(
                f"{who}: the mixture of {key} is for a weight of {list(shape)}, but {base.model} "
                f"has {came}. It was made for another model."
            )


def _scaled(file: AdapterFile, key: str) -> tuple[Tensor, Tensor]:
    a, b = file.factors(key)
    return a, b * file.layers[key].scale


def _shape(path: Path, name: str, part: Any) -> tuple[int, ...]:
    kind, wanted = part.get_dtype(), ("I64",) if name.endswith(f".{RANKS}") else tuple(DTYPES)
    if kind not in wanted:
        raise AdapterError(f"{path}: {name} must be {' or '.join(wanted)}, but is {kind}.")
    return tuple(part.get_shape())


def _checked(
    path: Path, key: str, shapes: Mapping[str, tuple[int, ...]], count: int
) -> tuple[int, int]:
    """(out, in) of a layer. Raises AdapterError unless its tensors' shapes fit together."""
    present = {role: shapes[f"{key}.{role}"] for role in NEEDED if f"{key}.{role}" in shapes}
    a, b = present.get(A, ()), present.get(B, ())
    if len(a) == len(b) == 2:
        wanted = {A: a, B: (b[0], a[0]), RANKS: (count,), GATE: (count, a[1])}
        if present == wanted and shapes.get(f"{key}.{MEAN}", (count,)) == (count,):
            return b[0], a[1]
    raise AdapterError(
        f"{path}: {key} must have {', '.join(NEEDED)} of {count} experts in shapes that fit "
        f"together, but has {present}."
    )
