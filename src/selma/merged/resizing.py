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

    Layers that share one A, as files have it that join q, k and v, are cut as one and share it
    still. What is small enough keeps its bits; the rest has scale 1, in the file's own precision,
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
    resized: dict[str, _Resized] = {}
    for keys in _groups(file):
        resized |= _resized(file, keys, rank=rank, max_error=max_error)
    layers = {key: layer for key, (layer, _, _) in resized.items()}
    rows = {key: row for key, (_, _, row) in resized.items()}
    asked = {"rank": rank} if max_error is None else {"max_error": max_error}
    lineage = replace(file.lineage, made_by={**file.lineage.made_by, "resized": asked})
    adapter = Adapter(layers, lambda key: resized[key][1], lineage, {})
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


_Resized = tuple["LayerFile", tuple["Tensor", "Tensor"], dict[str, Any]]


def _groups(file: AdapterFile) -> list[list[str]]:
    """Layers that share one A in the file, which joins them, and each other layer by itself."""
    groups: dict[object, list[str]] = {}
    for key, layer in file.layers.items():
        shares = layer.cut is not None and not layer.block
        groups.setdefault((layer.path, layer.a) if shares else key, []).append(key)
    return list(groups.values())


def _resized(
    file: AdapterFile, keys: list[str], *, rank: int | None, max_error: float | None
) -> dict[str, _Resized]:
    """Layers that are cut as one: each with its factors, and what it was and is."""
    import torch

    from selma.merged.lowrank import norm, singular, stacked, truncated

    first = file.layers[keys[0]]
    factors = {key: (a, b.double() * first.scale) for key in keys for a, b in [file.factors(key)]}
    a, bs = factors[keys[0]][0], [b for _, b in factors.values()]
    cut_a, cut_b = truncated(singular((a, torch.cat(bs))), rank=rank, max_error=max_error)
    keep, resized = cut_a.shape[0], {}
    for key, b in zip(keys, cut_b.split([len(b) for b in bs]), strict=True):
        layer, size = file.layers[key], norm(factors[key])
        row = {"rank_before": layer.rank, "rank": layer.rank, "norm": size, "relative_error": 0.0}
        tensors = file.tensors(key)
        if keep < layer.rank:
            tensors = cut_a.to(layer.dtypes[0]), b.to(layer.dtypes[1])
            layer = replace(layer, rank=keep, alpha=float(keep))
            wrong = norm(stacked([factors[key], tensors], [1.0, -1.0]))
            row |= {"rank": keep, "relative_error": wrong / size if size else 0.0}
        resized[key] = (layer, tensors, row)
    return resized


def _total(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    size = math.sqrt(sum(row["norm"] ** 2 for row in rows.values()))
    wrong = math.sqrt(sum((row["norm"] * row["relative_error"]) ** 2 for row in rows.values()))
    return {
        "norm": size,
        "relative_error": wrong / size if size else 0.0,
        "rank_before": max(row["rank_before"] for row in rows.values()),
        "rank": max(row["rank"] for row in rows.values()),
    }
