"""An adapter inside its base: a pipeline folder with the weights that the adapter makes of its."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from selma.adapters import names
from selma.adapters.files import DTYPES, write_safetensors
from selma.adapters.headers import opened, tensor_names
from selma.adapters.kind import WeightChange
from selma.adapters.models import read_model, weight_key
from selma.adapters.table import kind_of
from selma.errors import AdapterError, ConfigError
from selma.paths import AnyPath, as_path

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_COPIED = {".json", ".txt", ".safetensors", ".model"}
"""What a pipeline needs; neither pickles nor code are carried on."""


def fuse(
    adapter: AnyPath, out: AnyPath, *, base: AnyPath | None, precision: str | None = None
) -> Path:
    """The folder `out`, new, which holds the base with the adapter in its weights.

    Tensors are changed in float32 or wider, one at a time, and keep their type unless the networks
    that change are written in another `precision` (fp32, fp16, bf16): a base in half precision
    would round what the adapter adds. Raises AdapterError if the adapter does not fit.
    """
    adapter, out = as_path(adapter), as_path(out)
    if precision is not None and precision not in PRECISIONS:
        raise ConfigError(f"A precision must be {', '.join(PRECISIONS)}, but {precision!r} came.")
    if base is None:
        raise AdapterError("Fusing needs the model that is fused into: give --base.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AdapterError(f"{out} must be a new folder, but something is there.")
    model = read_model(base)
    if not model.files:
        raise AdapterError(f"Fusing needs the base's own files, but {base} is no folder of them.")
    kind = kind_of(adapter)
    if kind.weight_changes is None:
        raise AdapterError(
            f"{adapter} is of the kind {kind.name}, which does not change a base layer by layer: "
            "it cannot be fused into one."
        )
    file = kind.read(adapter, base=model.layers)
    kind.require_fit(file, model.layers, adapter)
    changes = kind.weight_changes(file)
    changed = {
        path: component
        for component in {names.split(key)[0] for key in changes}
        for path in model.files[component]
    }
    for path in sorted(model.folder.rglob("*")):
        target = out / path.relative_to(model.folder)
        if path.suffix not in _COPIED or not path.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in changed:
            _write_fused(path, target, changed[path], changes, PRECISIONS.get(precision or ""))
        else:
            shutil.copyfile(path, target)
    return out


def _write_fused(
    source: Path,
    target: Path,
    component: str,
    changes: Mapping[str, WeightChange],
    wanted: torch.dtype | None,
) -> None:
    tensors: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    dtypes: dict[str, torch.dtype] = {}
    with opened(source) as file:
        metadata = file.metadata() or {"format": "pt"}
        for name in tensor_names(file, source):
            part = file.get_slice(name)
            own = _dtype(source, name, str(part.get_dtype()))
            dtypes[name] = wanted if wanted is not None and own.is_floating_point else own
            tensors[name] = (tuple(part.get_shape()), _weight(source, name, component, changes))
    write_safetensors(target, tensors, metadata=metadata, dtypes=dtypes)


def _weight(
    source: Path, name: str, component: str, changes: Mapping[str, WeightChange]
) -> Callable[[], Tensor]:
    change = changes.get(weight_key(component, name) or "")

    def give() -> Tensor:
        with opened(source) as file:
            weight: Tensor = file.get_tensor(name)
        return weight if change is None else change(weight.float())

    return give


def _dtype(source: Path, name: str, code: str) -> torch.dtype:
    if code == "I64":  # position ids of older text encoders
        return torch.int64
    if code not in DTYPES:
        raise AdapterError(f"{source}: {name} is {code}; only float weights can be fused into.")
    return DTYPES[code]
