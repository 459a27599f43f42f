"""Adapter files: a diffusers LoRA of the UNet as safetensors, read with suspicion.

Equal adapters give equal bytes: tensors lie in the order of their names, and the header's entries
are sorted (the library writes metadata in an order that changes from process to process).
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from selma.backbones.text_to_image import ADAPTER_FILE
from selma.errors import AdapterError
from selma.workspace import file_sha256, promote

PEFT_KEY = "lora_adapter_metadata"  # where diffusers looks for alpha and targets
OUR_KEY = "selma"

Tensors = Mapping[str, tuple[tuple[int, ...], Callable[[], Tensor]]]
"""Name → shape, and what gives the tensor when its turn to be written comes."""

_FACTOR = re.compile(r"unet\.(?P<module>[\w.]+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True)
class Lineage:
    """Where an adapter comes from."""

    base: str | None = None
    """Fingerprint of the model that it was made for."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """For an expert its skill and key, for a merged adapter the experts and the method."""


@dataclass(frozen=True)
class AdapterFile:
    """A low-rank adapter on disk: delta of a module = scale x B A. Tensors are read when asked."""

    path: Path
    rank: int
    alpha: float
    targets: tuple[str, ...]
    shapes: Mapping[str, tuple[int, int]]
    """Module → (output width, input width)."""
    lineage: Lineage

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def factors(self, module: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of one module, float32. Raises AdapterError unless
        finite."""
        with _opened(self.path) as file:
            a, b = (
                file.get_tensor(f"unet.{module}.lora_{factor}.weight").float() for factor in "AB"
            )
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise AdapterError(f"{self.path}: the change of {module} must be finite, but is not.")
        return a, b


def read_adapter(folder: Path) -> AdapterFile:
    """The adapter in a folder, its header checked; `factors` checks the numbers.

    If the folder has a manifest, the file's sha256 must be the manifest's. Raises AdapterError.
    """
    path = folder / ADAPTER_FILE
    _as_the_manifest_says(path)
    with _opened(path) as file:
        metadata = file.metadata() or {}
        # Shapes are in the header: no tensor is read here.
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    settings = _peft_settings(metadata, path)
    shapes, ranks = _modules(found, path)
    rank = ranks.pop() if len(ranks) == 1 else 0
    if not rank or int(settings.get("r", rank)) != rank:
        raise AdapterError(
            f"{path} must have one rank throughout, but its tensors have {sorted(ranks) or [rank]} "
            f"and its header says {settings.get('r')}."
        )
    return AdapterFile(
        path=path,
        rank=rank,
        alpha=float(settings.get("lora_alpha", rank)),
        targets=tuple(sorted(settings.get("target_modules") or shapes)),
        shapes=shapes,
        lineage=_lineage(metadata, path),
    )


def write_adapter(
    path: Path,
    tensors: Tensors,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    lineage: Lineage,
) -> None:
    """Writes a file that plain `pipe.load_lora_weights` reads; whole or nothing.

    tensors: name without "unet." → (shape, function that gives the float32 tensor). One tensor at
    a time is held in memory.
    """
    settings = {
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": sorted(targets),
        "bias": "none",
    }
    metadata = {
        "format": "pt",
        PEFT_KEY: _json({f"unet.{key}": value for key, value in settings.items()}),
        OUR_KEY: _json({"base": lineage.base, "made_by": dict(lineage.made_by)}),
    }
    named = {f"unet.{name}": entry for name, entry in sorted(tensors.items())}
    write_safetensors(path, named, metadata=metadata)


def write_safetensors(
    path: Path,
    tensors: Tensors,
    *,
    metadata: Mapping[str, str],
) -> None:
    """Writes float32 tensors as safetensors with a sorted header; whole or nothing."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (shape, _) in tensors.items():
        size = 4 * _count(shape)
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = _json(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants tensors aligned to 8 bytes
    aside = path.with_name(f".{path.name}.partial")
    with open(aside, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, (shape, tensor) in tensors.items():
            values = tensor().detach().to("cpu", torch.float32).contiguous()
            if tuple(values.shape) != tuple(shape):
                raise AdapterError(f"{name} was announced as {shape}, but is {values.shape}.")
            file.write(values.reshape(-1).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    promote(aside, path)


def given(tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors that are in memory, sorted, in the form that the writers take."""
    return {name: (tuple(t.shape), _giving(t)) for name, t in sorted(tensors.items())}


def _giving(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise AdapterError(f"{path} must be an adapter's file, but there is none.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} must be a whole safetensors file, but: {error}.") from error


def _as_the_manifest_says(path: Path) -> None:
    manifest = path.parent / "manifest.json"
    if not manifest.is_file():
        return
    try:
        wanted = json.loads(manifest.read_text("utf-8"))["files"][path.name]["sha256"]
    except (ValueError, KeyError, TypeError):
        return  # a manifest of something else
    if not path.is_file() or file_sha256(path) != wanted:
        raise AdapterError(
            f"{path} is damaged: its sha256 is not the manifest's. Remove {path.parent} and train "
            "this expert again."
        )


def _modules(
    found: Mapping[str, tuple[int, ...]], path: Path
) -> tuple[dict[str, tuple[int, int]], set[int]]:
    """Module → (out, in), and all ranks; refuses whatever is no plain low-rank change."""
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in found.items():
        match = _FACTOR.fullmatch(name)
        if match is None or len(shape) != 2:
            raise AdapterError(
                f"{path} must hold lora_A and lora_B matrices of the UNet alone, but has {name!r} "
                f"of shape {list(shape)}. DoRA, biases, convolutions and text encoders are not "
                "merged."
            )
        factors.setdefault(match["module"], {})[match["factor"]] = shape
    shapes, ranks = {}, set()
    for module, pair in sorted(factors.items()):
        if set(pair) != {"A", "B"} or pair["A"][0] != pair["B"][1]:
            raise AdapterError(f"{path}: {module} needs A [r, in] and B [out, r], but has {pair}.")
        shapes[module] = (pair["B"][0], pair["A"][1])
        ranks.add(pair["A"][0])
    if not shapes:
        raise AdapterError(f"{path} must change at least one layer, but is empty.")
    return shapes, ranks


def _peft_settings(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    settings = {
        key.removeprefix("unet."): value
        for key, value in _header_json(metadata, PEFT_KEY, path).items()
        if key.startswith("unet.")
    }
    # Each of these changes what B A means; a merge that ignored it would be silently wrong.
    for key in ("use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern"):
        if settings.get(key):
            raise AdapterError(f"{path} is no plain LoRA: its header sets {key}.")
    alpha = settings.get("lora_alpha", 1)
    if not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
        raise AdapterError(f"{path}: lora_alpha must be a positive number, but is {alpha!r}.")
    return settings


def _lineage(metadata: Mapping[str, str], path: Path) -> Lineage:
    ours = _header_json(metadata, OUR_KEY, path)
    made_by = ours.get("made_by")
    return Lineage(
        base=str(ours["base"]) if ours.get("base") else None,
        made_by=made_by if isinstance(made_by, dict) else {},
    )


def _header_json(metadata: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: the header's {key} must be JSON, but: {error}.") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path}: the header's {key} must be a mapping.")
    return value


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
