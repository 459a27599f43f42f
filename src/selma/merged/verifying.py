"""A merged file held against what the merge was to be, layer by layer, in float64.

What is expected is computed again from the experts' files, by the same method and before any cut to
a rank; what was written is read as any other program's file is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selma.adapters.layers import Layers
from selma.adapters.table import read_any
from selma.errors import MergeWithoutEffect
from selma.merged.lowrank import Factors, dense, norm, stacked
from selma.plurals import counted

if TYPE_CHECKING:
    from selma.merged.merging import Merge

Change = Factors | Tensor
"""What is done to a layer: A and B of what is added to it, or all numbers of the change."""

NOTHING = 1e-6
"""A change of this share of the experts' largest is rounding."""


def verified(
    merge: Merge, path: Path, least: Mapping[str, float], *, base: Layers | None
) -> dict[str, dict[str, Any]]:
    """Layer → "before" (expert → norm of its change), "expected" and "written" (norms of the merged
    change) and "relative_error" of what was written; None where nothing was expected.

    least: expert → the magnitude that its entries must reach. Raises MergeWithoutEffect if a layer
    that an expert changes does nothing in the file at `path`.
    """
    file = read_any(path, base=base)
    rows = {key: _row(merge, file, key, least) for key in merge.layers}
    idle = [
        key
        for key, row in rows.items()
        if max(row["before"].values()) > 0
        and row["written"] <= NOTHING * max(row["before"].values())
    ]
    if idle:
        largest = max(rows[idle[0]]["before"].values())
        raise MergeWithoutEffect(
            f"Each layer that an expert changes must do something in the merge, but "
            f"{counted(len(idle), 'layer does', 'layers do')} nothing, as {idle[0]}, where an "
            f"expert's change has the norm {largest:.4g}. Weights that cancel and entries that are "
            "all trimmed away do that: choose others, or merge without --verify."
        )
    return rows


def _row(merge: Merge, file: Any, key: str, least: Mapping[str, float]) -> dict[str, Any]:
    expected = merge.expected(key, least)
    size = _norm(expected)
    present = key in file.layers
    written = merge.written(file, key) if present else None
    distance = size if written is None else _norm(_difference(expected, written))
    return {
        "before": merge.before(key),
        "expected": size,
        "written": 0.0 if written is None else _norm(written),
        "relative_error": distance / size if size else None,
    }


def _norm(change: Change) -> float:
    return float(change.norm()) if isinstance(change, Tensor) else norm(change)


def _difference(expected: Change, written: Change) -> Change:
    if isinstance(expected, tuple) and isinstance(written, tuple):
        return stacked([expected, written], [1.0, -1.0])
    return _whole(expected) - _whole(written)


def _whole(change: Change) -> Tensor:
    return change if isinstance(change, Tensor) else dense(change)


def total_error(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """Of all layers together: ‖written - expected‖ / ‖expected‖."""
    size = math.sqrt(sum(row["expected"] ** 2 for row in rows.values()))
    wrong = math.sqrt(
        sum((row["expected"] * (row["relative_error"] or 0)) ** 2 for row in rows.values())
    )
    return wrong / size if size else 0.0


def flat(*parts: Tensor | None) -> Tensor:
    """All numbers of a change as one vector, float64."""
    return torch.cat([part.double().flatten() for part in parts if part is not None])
