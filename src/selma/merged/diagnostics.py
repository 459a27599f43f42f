"""What a merge did, in the space of weight deltas, whatever the factors are.

The measure is the exact mean Σ w_t delta_t / Σ w_t. A method may well depart from it on purpose;
the diagnostics say by how much, and which experts' signs are in conflict with the others'.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

import torch
from torch import Tensor
from typing_extensions import TypedDict

from selma.adapters.files import DIAGNOSTICS_KEY, as_json
from selma.adapters.mixtures.files import MixtureFile
from selma.adapters.reading import AdapterFile
from selma.adapters.rotations.cayley import drift, orthogonality_error
from selma.adapters.rotations.files import RotationFile
from selma.adapters.table import read_any
from selma.errors import AdapterError
from selma.merged.lowrank import Factors, products, stacked
from selma.merged.rotation_methods import RotationPart, conflict
from selma.record_files import require_shape
from selma.records.rows import Number

FIGURES = ("relative_error", "cosine", "conflict_mass", "conflict")
"""What a file's header says of each layer; "conflict" only of rotations."""

_ENTRIES_AT_ONCE = 1 << 18


class Against(TypedDict):
    relative_error: Number
    cosine: Number
    conflict: NotRequired[Number | None]


class AllAgainst(Against):
    norm_ratio: Number
    orthogonality: NotRequired[Number]


class LayerAgainst(Against):
    conflict_mass: Number


class MergedExpert(TypedDict):
    weight: NotRequired[Number]
    norm: Number
    cosine_to_merged: Number
    conflict_entries: Number
    conflict_mass: Number


class DiagnosticsHeader(TypedDict):
    """What is shown of a merge by its adapter's own header."""

    all: AllAgainst
    experts: dict[str, MergedExpert]
    cosines: dict[str, dict[str, Number]]
    layers: dict[str, LayerAgainst]


class Diagnostics:
    """Takes one layer after the other; `summary` is what the merge did, in plain numbers."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
        self.weights = dict(weights)
        self.experts = list(weights)
        # Weights that sum to nothing have no mean; then all count the same.
        even = 1 / len(weights)
        self.share = {
            name: weight / total if abs(total) > 1e-9 else even for name, weight in weights.items()
        }
        self.layers: dict[str, dict[str, Any]] = {}
        size = len(self.experts) + 1
        self.products = torch.zeros(size, size, dtype=torch.float64)
        self.counts = torch.zeros(len(self.experts), 2, 2, dtype=torch.float64)

    def add_layer(self, layer: str, experts: Mapping[str, Factors], merged: Factors) -> None:
        """Add one layer: its experts' factors, scale in B, and what they became."""
        factors = [*experts.values(), merged]
        gram = products(stacked(factors, [1.0] * len(factors)), [a.shape[0] for a, _ in factors])
        counts = torch.zeros_like(self.counts)
        for deltas in _rows(experts):
            counts = counts + self.sign_conflicts(deltas)
        self.add(layer, list(experts), gram, counts, {"rank": merged[0].shape[0]})

    def add(
        self,
        layer: str,
        experts: Sequence[str],
        gram: Tensor,
        counts: Tensor,
        more: Mapping[str, Any],
    ) -> None:
        """Add one layer by the inner products of its experts' deltas and, last, the merged one.

        counts: as `sign_conflicts` has them.  more: further facts of the layer.
        """
        rows = [self.experts.index(name) for name in experts] + [len(self.experts)]
        products_of_all = torch.zeros_like(self.products)
        products_of_all[torch.tensor(rows)[:, None], torch.tensor(rows)] = gram
        self.products += products_of_all
        self.counts += counts
        self.layers[layer] = {
            **more,
            **self._against_mean(products_of_all),
            **_conflict(counts.sum(dim=0)),
        }

    def sign_conflicts(self, deltas: Mapping[str, Tensor]) -> Tensor:
        """[expert, (entries, mass), (against the elected sign, in all)] of some entries."""
        counts = torch.zeros_like(self.counts)
        elected = sum((self.share[n] * d for n, d in deltas.items()), torch.zeros(())).sign()
        for name, delta in deltas.items():
            sign = math.copysign(1, self.share[name])
            against = delta * elected < 0 if sign > 0 else delta * elected > 0
            mass = delta.abs()
            counts[self.experts.index(name)] += torch.tensor(
                [
                    [int(against.count_nonzero()), int(delta.count_nonzero())],
                    [
                        float((mass * against).sum(dtype=torch.float64)),
                        float(mass.sum(dtype=torch.float64)),
                    ],
                ],
                dtype=torch.float64,
            )
        return counts

    @property
    def summary(self) -> dict[str, Any]:
        """ "all", "experts" (each with weight, norm, conflicts and cosine to the result), "cosines"
        (of all pairs of experts) and "layers"."""
        norms = self.products.diagonal().clamp(min=0).sqrt()
        cosines = self.products / (norms[:, None] * norms).clamp(min=1e-300)
        count = len(self.experts)
        return {
            "all": self._against_mean(self.products) | _conflict(self.counts.sum(dim=0)),
            "experts": {
                name: {
                    "weight": self.weights[name],
                    "norm": _round(norms[row]),
                    "cosine_to_merged": _round(cosines[row, count]),
                    **_conflict(self.counts[row]),
                }
                for row, name in enumerate(self.experts)
            },
            "cosines": {
                name: {
                    other: _round(cosines[row, column]) for column, other in enumerate(self.experts)
                }
                for row, name in enumerate(self.experts)
            },
            "layers": self.layers,
        }

    def _against_mean(self, gram: Tensor) -> dict[str, float]:
        share = torch.tensor([self.share[name] for name in self.experts], dtype=torch.float64)
        mean = float(share @ gram[:-1, :-1] @ share)
        both, merged = float(share @ gram[:-1, -1]), float(gram[-1, -1])
        norm, reference = math.sqrt(max(merged, 0)), math.sqrt(max(mean, 0))
        wrong = math.sqrt(max(merged - 2 * both + mean, 0))
        return {
            "relative_error": _ratio(wrong, reference),
            "cosine": _round(both / (norm * reference)) if norm * reference else 0.0,
            "norm": _round(norm),
            "norm_ratio": _ratio(norm, reference),
        }


class RotationDiagnostics(Diagnostics):
    """In the space of R - I, block by block: for neurons of all directions alike that is the space
    of the weights' deltas. Sign conflicts are those of the skew matrices' entries."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.apart = self.together = self.worst = 0.0

    def add_rotations(
        self, layer: str, parts: Mapping[str, RotationPart], merged: Tensor, *, orthogonal: bool
    ) -> None:
        """Add one layer. merged: S, or M where the method leaves no rotation."""
        eye = torch.eye(merged.shape[-1], dtype=merged.dtype)
        delta = drift(merged) if orthogonal else merged - eye
        deltas = [*(drift(part.skew) for part in parts.values()), delta]
        flat = torch.stack([blocks.flatten() for blocks in deltas])
        wrong = orthogonality_error(delta + eye)
        self._note(list(parts.values()), wrong)
        self.add(
            layer,
            list(parts),
            flat @ flat.mT,
            self.sign_conflicts({name: part.vector for name, part in parts.items()}),
            {
                "blocks": merged.shape[0],
                "conflict": _finite(conflict(list(parts.values()))),
                "orthogonality": float(f"{wrong:.3g}"),
            },
        )

    @property
    def summary(self) -> dict[str, Any]:
        plain = super().summary
        c = math.sqrt(self.apart / self.together) if self.together > 1e-24 * self.apart else None
        more = {
            "conflict": 1.0 if not self.apart else c and round(c, 4),
            "orthogonality": float(f"{self.worst:.3g}"),
        }
        return {**plain, "all": plain["all"] | more}

    def _note(self, parts: Sequence[RotationPart], wrong: float) -> None:
        norms = [abs(part.weight) * float(part.skew.norm()) for part in parts]
        mean = sum((part.weight * part.skew for part in parts), torch.zeros(()))
        self.apart += sum(norms) ** 2
        self.together += float(mean.norm()) ** 2
        self.worst = max(self.worst, wrong)


def _rows(experts: Mapping[str, Factors]) -> Iterator[dict[str, Tensor]]:
    """The experts' deltas, a few rows at a time: whole ones would be far larger than the files."""
    a, b = next(iter(experts.values()))
    out, width = b.shape[0], a.shape[1]
    step = max(1, _ENTRIES_AT_ONCE // width)
    for start in range(0, out, step):
        yield {name: b[start : start + step] @ a for name, (a, b) in experts.items()}


def header(diagnostics: Mapping[str, Any]) -> str:
    """The diagnostics as an entry of a file's header, of each layer its FIGURES.

    {"all", "experts", "cosines", "figures": their names, "layers": names by their parts}, as in
    {"unet.": {"mid_block.": {"to_q": [...]}}}: SDXL has two thousand layers with long names.
    """
    layers = diagnostics["layers"]
    figures = [name for name in FIGURES if all(name in layer for layer in layers.values())]
    tree: dict[str, Any] = {}
    for name, layer in layers.items():
        *above, last = name.split(".")
        branch = tree
        for part in above:
            branch = branch.setdefault(f"{part}.", {})
        branch[last] = [_short(layer[figure]) for figure in figures]
    rest = {key: value for key, value in diagnostics.items() if key != "layers"}
    return as_json({**rest, "figures": figures, "layers": tree})


def read_diagnostics(path: Path) -> dict[str, Any] | None:
    """What a merged adapter's own header says, as `Diagnostics.summary`; None of other adapters.

    path: a file or folder of any format; of a PEFT folder for one component, the layers are those
    of all. Raises AdapterError.
    """
    return diagnostics_of(read_any(path))


def diagnostics_of(file: AdapterFile | RotationFile | MixtureFile) -> dict[str, Any] | None:
    """The same of an adapter that is read already."""
    notes: Mapping[str, str] = getattr(file, "notes", {})
    if DIAGNOSTICS_KEY not in notes:
        return None
    try:
        entry = json.loads(notes[DIAGNOSTICS_KEY])
        figures = entry.pop("figures")
        layers = {
            name: dict(zip(figures, values, strict=True))
            for name, values in _leaves(entry["layers"])
        }
        for name in layers.keys() & set(file.layers):
            if isinstance(file, AdapterFile):
                layers[name]["rank"] = file.layers[name].rank
            elif isinstance(file, MixtureFile):
                layers[name]["rank"] = file.ranks[name]
        read = {**{key: entry[key] for key in ("all", "experts", "cosines")}, "layers": layers}
        cosines = require_shape(read, DiagnosticsHeader)["cosines"]
        if any(cosines.keys() != row.keys() for row in cosines.values()):
            raise ValueError
        if ("conflict" in read["all"]) != ("orthogonality" in read["all"]):
            raise ValueError
        return read
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(
            f"{file.path}: the header's {DIAGNOSTICS_KEY} must be as this selma writes it, "
            "but is none. Merge anew."
        ) from error


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, list[Any]]]:
    for part, inside in sorted(tree.items()):
        if isinstance(inside, Mapping):
            yield from _leaves(inside, above + part)
        else:
            yield above + part, inside


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _conflict(counts: Tensor) -> dict[str, float]:
    (against, entries), (mass_against, mass) = counts.tolist()
    return {
        "conflict_entries": _ratio(against, entries),
        "conflict_mass": _ratio(mass_against, mass),
    }


def _ratio(part: float, total: float) -> float:
    return _round(part / total) if total else 0.0


def _finite(value: float) -> float | None:
    """The value to four decimals; None of an infinite one, which JSON does not know."""
    return round(value, 4) if math.isfinite(value) else None


def _round(value: float | Tensor) -> float:
    """Six decimals of what is near 1, six digits of what is not: sums of float32 know no more."""
    value = float(value)
    return round(value, 6) if abs(value) < 10 else float(f"{value:.6g}")
