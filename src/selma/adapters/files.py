"""Safetensors files, written whole or not at all; and the diffusers LoRA file of one training.

Equal adapters give equal bytes: tensors lie in the order of their names, and the header's entries
are sorted (the library writes metadata in an order that changes from process to process).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selma.disk import written
from selma.errors import AdapterError

PEFT_KEY = "lora_adapter_metadata"  # where diffusers looks for alpha and targets
OUR_KEY = "selma"
DIAGNOSTICS_KEY = "selma_merge_diagnostics"  # what a merge did (`merged.diagnostics`)

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that adapters come in, by safetensors' names."""

Tensors = Mapping[str, tuple[tuple[int, ...], Callable[[], Tensor]]]
"""Name → shape, and what gives the tensor when its turn to be written comes."""


@dataclass(frozen=True)
class Lineage:
    """Where an adapter comes from."""

    base: str | None = None
    """Fingerprint of the model that it was made for."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """For an expert its skill and key, for a merged adapter the experts and the method."""


def write_adapter(
    path: Path,
    tensors: Tensors,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    lineage: Lineage,
    component: str = "unet",
) -> None:
    """Write a file that plain `pipe.load_lora_weights` reads; whole or nothing.

    tensors: name without its component → (shape, function that gives the float32 tensor). One
    tensor at a time is held in memory.  component: the part of the pipeline that is changed.
    """
    settings = {
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": sorted(targets),
        "bias": "none",
    }
    metadata = {
        "format": "pt",
        PEFT_KEY: as_json({f"{component}.{key}": value for key, value in settings.items()}),
        OUR_KEY: lineage_json(lineage),
    }
    named = {f"{component}.{name}": entry for name, entry in sorted(tensors.items())}
    write_safetensors(path, named, metadata=metadata)


def write_safetensors(
    path: Path,
    tensors: Tensors,
    *,
    metadata: Mapping[str, str],
    dtypes: Mapping[str, torch.dtype] | None = None,
    each: Callable[[Any], object] = lambda data: None,
) -> None:
    """Write tensors as safetensors with a sorted header; whole or nothing.

    Each is float32 unless `dtypes` says otherwise. One tensor at a time is held in memory. `each`
    is called with all bytes of the file, in parts and in order.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()} | {torch.int64: "I64"}
    types = {name: (dtypes or {}).get(name, torch.float32) for name in tensors}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (shape, _) in tensors.items():
        size = types[name].itemsize * math.prod(shape)
        header[name] = {
            "dtype": codes[types[name]],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = as_json(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants tensors aligned to 8 bytes
    with written(path) as file:
        file.write(start := struct.pack("<Q", len(encoded)) + encoded)
        each(start)
        for name, (shape, tensor) in tensors.items():
            values = tensor().detach().to("cpu", types[name]).contiguous()
            if tuple(values.shape) != tuple(shape):
                raise AdapterError(f"{name} was announced as {shape}, but is {values.shape}.")
            file.write(data := values.reshape(-1).view(torch.uint8).numpy().data)
            each(data)


def given(tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors that are in memory, sorted, in the form that the writers take."""
    return {name: (tuple(t.shape), _giving(t)) for name, t in sorted(tensors.items())}


def _giving(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def notes_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """Entries of a header that go with the tensors, whatever the format: a merge's diagnostics."""
    return {key: metadata[key] for key in (DIAGNOSTICS_KEY,) if key in metadata}


def lineage_json(lineage: Lineage) -> str:
    """The header's entry for a lineage."""
    return as_json({"base": lineage.base, "made_by": dict(lineage.made_by)})


def as_json(value: Any) -> str:
    """JSON in which equal values are equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
