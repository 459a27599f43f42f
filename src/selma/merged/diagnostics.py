"""What a merge did, told in the space of the weights' changes, whatever the factors are.

The measure is the exact mean Σ w_t delta_t / Σ w_t. A method may well depart from it on purpose;
the table shows by how much, and who overrules whom.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selma.adapters.applying import read_any
from selma.adapters.files import DIAGNOSTICS_KEY, as_json
from selma.adapters.reading import AdapterFile
from selma.adapters.rotations.files import RotationFile
from selma.errors import AdapterError
from selma.merged.lowrank import Factors, products, stacked

FIGURES = ("relative_error", "cosine", "conflict_mass", "conflict")
"""What a file's header says of each layer; "conflict" only of rotations."""

_ENTRIES_AT_ONCE = 1 << 18


class Judge:
    """Takes one layer after the other; `found` is the whole judgement, in plain numbers."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
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

    def look(self, layer: str, experts: Mapping[str, Factors], merged: Factors) -> None:
        """Adds one layer: its experts' factors, scale in B, and what they became."""
        present = [*experts.values(), merged]
        ranks = [a.shape[0] for a, _ in present]
        found = products(stacked(present, [1.0] * len(present)), ranks)
        counts = self._conflicts(experts)
        self.add(layer, list(experts), found, counts, {"rank": merged[0].shape[0]})

    def add(
        self,
        layer: str,
        experts: Sequence[str],
        found: Tensor,
        counts: Tensor,
        more: Mapping[str, Any],
    ) -> None:
        """Adds one layer by the inner products of its experts' changes and, last, the merged one;
        `counts` as `counted` has them, and further facts."""
        places = [self.experts.index(name) for name in experts] + [len(self.experts)]
        whole = torch.zeros_like(self.products)
        whole[torch.tensor(places)[:, None], torch.tensor(places)] = found
        self.products += whole
        self.counts += counts
        self.layers[layer] = {
            **more,
            **self._against_mean(whole),
            **_conflict(counts.sum(dim=0)),
        }

    @property
    def found(self) -> dict[str, Any]:
        """ "all", "experts" (each with norm, conflicts and cosine to the result), "cosines" (of all
        pairs of experts) and "layers"."""
        norms = self.products.diagonal().clamp(min=0).sqrt()
        cosines = self.products / (norms[:, None] * norms).clamp(min=1e-300)
        count = len(self.experts)
        return {
            "all": self._against_mean(self.products) | _conflict(self.counts.sum(dim=0)),
            "experts": {
                name: {
                    "norm": _round(norms[place]),
                    "cosine_to_merged": _round(cosines[place, count]),
                    **_conflict(self.counts[place]),
                }
                for place, name in enumerate(self.experts)
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

    def _conflicts(self, experts: Mapping[str, Factors]) -> Tensor:
        return sum((self.counted(some) for some in _rows(experts)), torch.zeros_like(self.counts))

    def counted(self, deltas: Mapping[str, Tensor]) -> Tensor:
        """[expert, (entries, mass), (against the elected sign, in all)] of some entries."""
        counts = torch.zeros_like(self.counts)
        elected = sum((self.share[n] * d for n, d in deltas.items()), torch.zeros(())).sign()
        for name, delta in deltas.items():
            ours = delta * math.copysign(1, self.share[name])
            against, mass = ours.sign() * elected < 0, delta.abs()
            counts[self.experts.index(name)] += torch.tensor(
                [
                    [int(against.sum()), int((delta != 0).sum())],
                    [float(mass[against].double().sum()), float(mass.double().sum())],
                ],
                dtype=torch.float64,
            )
        return counts


def _rows(experts: Mapping[str, Factors]) -> Iterator[dict[str, Tensor]]:
    """The experts' deltas, a few rows at a time: whole ones would be far larger than the files."""
    a, b = next(iter(experts.values()))
    out, width = b.shape[0], a.shape[1]
    step = max(1, _ENTRIES_AT_ONCE // width)
    for start in range(0, out, step):
        yield {name: b[start : start + step] @ a for name, (a, b) in experts.items()}


def header(found: Mapping[str, Any]) -> str:
    """The judgement as an entry of a file's header, of each layer its FIGURES.

    {"all", "experts", "cosines", "figures": their names, "layers": names by their parts}, as in
    {"unet.": {"mid_block.": {"to_q": [...]}}}: SDXL has two thousand layers with long names.
    """
    told = [figure for figure in FIGURES if all(figure in of for of in found["layers"].values())]
    tree: dict[str, Any] = {}
    for name, layer in found["layers"].items():
        *above, last = name.split(".")
        place = tree
        for part in above:
            place = place.setdefault(f"{part}.", {})
        place[last] = [_short(layer[figure]) for figure in told]
    whole = {key: value for key, value in found.items() if key != "layers"}
    return as_json({**whole, "figures": told, "layers": tree})


def read_diagnostics(place: Path) -> dict[str, Any] | None:
    """What a merged adapter's own header says, as `Judge.found` has it; None of other adapters.

    place: a file or folder of any format; of a PEFT folder for one component, the layers are those
    of all. Raises AdapterError.
    """
    return diagnostics_of(read_any(place))


def diagnostics_of(file: AdapterFile | RotationFile) -> dict[str, Any] | None:
    """The same of an adapter that is read already."""
    if DIAGNOSTICS_KEY not in file.notes:
        return None
    try:
        found = json.loads(file.notes[DIAGNOSTICS_KEY])
        told = found.pop("figures")
        layers = {
            name: dict(zip(told, figures, strict=True))
            for name, figures in _leaves(found["layers"])
        }
        if isinstance(file, AdapterFile):
            for name in layers.keys() & file.layers.keys():
                layers[name]["rank"] = file.layers[name].rank
        return {**{key: found[key] for key in ("all", "experts", "cosines")}, "layers": layers}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(
            f"{file.path}: the header's {DIAGNOSTICS_KEY} must be as this selma writes it, "
            f"but is none ({type(error).__name__}). Merge anew."
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


def _ratio(part: float, whole: float) -> float:
    return _round(part / whole) if whole else 0.0


def _round(value: float | Tensor) -> float:
    """Six decimals of what is near 1, six digits of what is not: sums of float32 know no more."""
    value = float(value)
    return round(value, 6) if abs(value) < 10 else float(f"{value:.6g}")
