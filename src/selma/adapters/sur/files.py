"""SUR-adapters as files: ours, with all settings inside, and the released ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from selma.adapters.files import OUR_KEY, Lineage, as_json, given, lineage_json, write_safetensors
from selma.adapters.folders import SAFETENSORS, has_suffix
from selma.adapters.headers import header_json, lineage_of, opened, tensor_names
from selma.adapters.sur.network import SurAdapter, Widths, as_settings, restored
from selma.backbones.preference.checkpoints import read_state
from selma.config.adapters import SurConfig
from selma.errors import AdapterError
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.texts import quoted

FILE = "sur_adapter.safetensors"
SUR_KEY = "sur"
PROJECTION = "projection."

WIDEST = 2**20
"""Of text features and what they are mapped to; the widest known are 4,096."""

UNUSED = ("encoder_layer.", "attention.value_layer.")
"""Parts of a released checkpoint that no forward pass ever reached."""


@dataclass(frozen=True)
class SurFile:
    """An adapter with what its file says of it."""

    kind: ClassVar[str] = "sur"
    format: ClassVar[str] = "selma"
    layers: ClassVar[tuple[str, ...]] = ()
    merge_space: ClassVar[None] = None

    path: Path
    adapter: SurAdapter
    projection: Mapping[str, Tensor]
    """The map from the language model's vectors, "weight" and "bias"; empty if it was not kept."""
    settings: Mapping[str, Any]
    lineage: Lineage
    """The base is the one that it was trained on."""


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: SurConfig,
    widths: Widths,
    *,
    lineage: Lineage,
    settings: Mapping[str, Any],
) -> None:
    """Write adapter and projection with their settings; equal adapters give equal bytes."""
    metadata = {
        "format": "pt",
        OUR_KEY: lineage_json(lineage),
        SUR_KEY: as_json({**as_settings(config, widths), **settings}),
    }
    write_safetensors(path, given(tensors), metadata=metadata)


def load(path: Path) -> SurFile:
    """The adapter in a file, or in a folder that holds `sur_adapter.safetensors`.

    Raises AdapterError.
    """
    path = path / FILE if path.is_dir() else path
    if not has_suffix(path, SAFETENSORS):
        raise AdapterError(
            f"{path} must be a SUR-adapter in safetensors. Turn a released checkpoint into one "
            "with `selma sur convert`."
        )
    with opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in tensor_names(file, path)}
    settings = header_json(metadata, SUR_KEY, path)
    config, widths = _sizes(path, settings, most=len(tensors))
    mine = {name: t for name, t in tensors.items() if not name.startswith(PROJECTION)}
    projection = {
        name.removeprefix(PROJECTION): t
        for name, t in tensors.items()
        if name.startswith(PROJECTION)
    }
    try:
        adapter = restored(config, widths, mine)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error
    return SurFile(path, adapter, projection, settings, lineage_of(metadata, path))


def _sizes(path: Path, settings: Mapping[str, Any], *, most: int) -> tuple[SurConfig, Widths]:
    """What the header says of the network, which is built by it even before its tensors' shapes
    are compared. most: blocks that a file of as many tensors can hold."""
    try:
        config = SurConfig.model_validate({"centred": False, **settings["adapter"]})
        widths = Widths(tuple(settings["widths"]["text"]), settings["widths"]["pooled"])
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{path} must be a SUR-adapter's file, with its settings, but its header says "
            f"{quoted(settings)}."
        ) from error
    sides = (*widths.all, config.hidden, config.heads)
    if not all(type(side) is int and 0 < side <= WIDEST for side in sides):
        raise AdapterError(
            f"{path}: widths, hidden and heads must be whole numbers up to {WIDEST:,}, but the "
            f"header says {quoted(sides)}."
        )
    blocks = len(widths.all) * (config.depth if config.form == "released" else 1)
    if blocks > most:
        raise AdapterError(
            f"{path} has {counted(most, 'tensor')}, too few for the {quoted(blocks)} blocks that "
            "its header says."
        )
    return config, widths


def is_sur(path: Path) -> bool:
    """Whether a file says in its header that it is a SUR-adapter."""
    if not has_suffix(path, SAFETENSORS) or not path.is_file():
        return False
    with opened(path) as file:
        return SUR_KEY in (file.metadata() or {})


def load_released(path: Path, *, weight: float, attention: str = "batch") -> SurAdapter:
    """The adapter in a checkpoint of the released code (adapter.pt, adapter_checkpoint<n>.pt).

    `weight` is not in such a file: the released code keeps it in the name of its folder. With
    `attention` "tokens", the same weights are used as they were meant. Raises ModelError for what
    is no plain checkpoint, AdapterError where its tensors are not the released ones.
    """
    state = {name.removeprefix("module."): t for name, t in read_state(path).items()}
    used = {name: t for name, t in state.items() if not name.startswith(UNUSED)}
    config, width = _shape(path, used, weight=weight, attention=attention)
    _require_unused(path, state, used)
    blocks = {f"blocks.0.{name}": tensor for name, tensor in used.items()}
    try:
        return restored(config, Widths((width,)), blocks)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error


def convert_released(
    path: AnyPath, out: AnyPath, *, weight: float, attention: str = "batch"
) -> Path:
    """Write a released checkpoint as our file, in the folder `out`. Raises as `load_released`."""
    path, out = as_path(path), as_path(out)
    adapter = load_released(path, weight=weight, attention=attention)
    out.mkdir(parents=True, exist_ok=True)
    save(
        out / FILE,
        adapter.state_dict(),
        adapter.config,
        adapter.widths,
        lineage=Lineage(made_by={"converted": path.name}),
        settings={},
    )
    return out / FILE


def _shape(
    path: Path, state: Mapping[str, Tensor], *, weight: float, attention: str
) -> tuple[SurConfig, int]:
    numbered = (re.match(r"transformer_encoder\.layers\.(\d+)\.", name) for name in state)
    layers = {match[1] for match in numbered if match}
    try:
        width = state["fc.weight"].shape[0]
        hidden = state["transformer_encoder.layers.0.linear1.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise AdapterError(
            f"{path} must hold the released SUR-adapter's tensors, but has no {error}."
        ) from error
    return (
        SurConfig.model_validate(
            {
                "form": "released",
                "centred": False,
                "mix": "shared",
                "weight": weight,
                "attention": attention,
                "depth": len(layers),
                "hidden": hidden,
            }
        ),
        width,
    )


def _require_unused(path: Path, state: Mapping[str, Tensor], used: Mapping[str, Tensor]) -> None:
    """The parts that are left out must be the known ones, in shapes that fit."""
    expected = {
        name.replace("transformer_encoder.layers.0.", "encoder_layer."): tuple(tensor.shape)
        for name, tensor in used.items()
        if name.startswith("transformer_encoder.layers.0.")
    } | {
        name.replace("query_layer", "value_layer"): tuple(tensor.shape)
        for name, tensor in used.items()
        if ".query_layer." in name
    }
    for name in state.keys() - used.keys():
        if tuple(state[name].shape) != expected.get(name):
            raise AdapterError(
                f"{path}: {name} is {list(state[name].shape)}, which the released SUR-adapter has "
                "not. It is another network's checkpoint."
            )
