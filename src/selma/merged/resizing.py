"""A LoRA of less rank: each layer's best by its singular values, and the error of what is left."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.errors import AdapterError, ConfigError
from selma.paths import AnyPath, as_path

if TYPE_CHECKING:
    from torch import Tensor

    from selma.adapters.reading import AdapterFile, LayerFile


def resize(
    source: AnyPath,
    out: AnyPath,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    to: str | None = None,
    base: AnyPath | None = None,
) -> tuple[list[Path], dict[str, Any]]:
    """The LoRA at `source` with no layer above that rank, or each within that relative error: the
    files written, and {"all", "layers"} with ranks and errors.

    A layer that is small enough keeps its bits; others have scale 1, in the file's own precision,
    whose rounding counts as error. `to` is the layout, the file's own if None; `base` as in
    `convert`. Lineage stays. Raises ConfigError or AdapterError.
    """
    from selma.adapters.formats import Adapter, write
    from selma.adapters.models import read_model
    from selma.adapters.reading import announce_left_out, read_adapter
    from selma.adapters.table import kind_of

    source, out = as_path(source), as_path(out)
    _require_one_way(rank, max_error)
    model = None if base is None else read_model(base)
    kind = kind_of(source)
    if kind.name != "lora":
        raise AdapterError(f"{source} is of the kind {kind.name}: only a LoRA has a rank to cut.")
    file = read_adapter(source, base=model.layers if model else None)
    if model:
        kind.require_fit(file, model.layers, source)
    announce_left_out(file)
    layers: dict[str, LayerFile] = {}
    tensors: dict[str, tuple[Tensor, Tensor]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for key in file.layers:
        layers[key], tensors[key], rows[key] = _resized(file, key, rank=rank, max_error=max_error)
    asked = {"rank": rank} if max_error is None else {"max_error": max_error}
    lineage = replace(file.lineage, made_by={**file.lineage.made_by, "resized": asked})
    adapter = Adapter(layers, tensors.__getitem__, lineage, {})
    return write(out, adapter, to=to or file.format, model=model), {
        "all": _total(rows),
        "layers": rows,
    }


def _require_one_way(rank: int | None, max_error: float | None) -> None:
    if (rank is None) == (max_error is None):
        raise ConfigError("Resizing needs one of --rank and --error, and not both.")
    if rank is not None and rank < 1:
        raise ConfigError(f"A rank must be 1 or more, but is {rank}.")
    if max_error is not None and not 0 < max_error < 1:
        raise ConfigError(f"An error must be between 0 and 1, but is {max_error}.")


def _resized(
    file: AdapterFile, key: str, *, rank: int | None, max_error: float | None
) -> tuple[LayerFile, tuple[Tensor, Tensor], dict[str, Any]]:
    from selma.merged.lowrank import norm, singular, stacked, truncated

    layer = file.layers[key]
    a, b = file.factors(key)
    factors = a, b.double() * layer.scale
    decomposed = singular(factors)
    cut = truncated(decomposed, rank=rank, max_error=max_error)
    row = {"rank_before": layer.rank, "rank": layer.rank, "norm": float(decomposed[1].norm())}
    keep = cut[0].shape[0]
    if keep >= layer.rank:
        return layer, file.tensors(key), {**row, "relative_error": 0.0}
    first, second = (factor.to(dtype) for factor, dtype in zip(cut, layer.dtypes, strict=True))
    wrong = norm(stacked([factors, (first.double(), second.double())], [1.0, -1.0]))
    row |= {"rank": keep, "relative_error": wrong / row["norm"] if row["norm"] else 0.0}
    return replace(layer, rank=keep, alpha=float(keep)), (first, second), row


def _total(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    size = math.sqrt(sum(row["norm"] ** 2 for row in rows.values()))
    wrong = math.sqrt(sum((row["norm"] * row["relative_error"]) ** 2 for row in rows.values()))
    return {
        "norm": size,
        "relative_error": wrong / size if size else 0.0,
        "rank_before": max(row["rank_before"] for row in rows.values()),
        "rank": max(row["rank"] for row in rows.values()),
    }
