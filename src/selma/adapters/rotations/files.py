"""Adapters that turn neurons, as files: what they do to a layer, how they lie on disk, and back.

A layer's weight becomes D W Rᵀ + Δ. R comes from a skew matrix (`cayley`); D are scales of neurons,
kept as logarithms so that they stay positive and a strength of 0 is 1; Δ is a low-rank change, of
LoRA experts that were merged with rotations. Each of them may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from selma.adapters import names
from selma.adapters.files import (
    DTYPES,
    OUR_KEY,
    Lineage,
    as_json,
    lineage_json,
    notes_of,
    write_safetensors,
)
from selma.adapters.headers import lineage_of, opened, tensor_names
from selma.adapters.layers import Layers
from selma.adapters.resolving import denoiser_keys
from selma.adapters.rotations.cayley import cayley, require_rotation, side, skew, turned
from selma.backbones.text_to_image import ROTATION_FILE
from selma.config.adapters import MergeSpace
from selma.errors import AdapterError
from selma.texts import quoted

ROTATION_KEY = "selma_rotations"
ABOUT = {"cayley": "(I+S)(I-S)^-1", "side": "input", "version": 1}
"""What the header says of the numbers; a file that says otherwise is not read."""

SKEW_ENTRIES, MIXTURE, MAGNITUDES = "oft_generator", "oft_mixture", "oft_log_magnitudes"
# "generator" stays in files: the order of names is the order in which tensors are trained.
LOW_RANK = ("lora_A.weight", "lora_B.weight")
ROLES = (SKEW_ENTRIES, MIXTURE, MAGNITUDES, *LOW_RANK)


@dataclass(frozen=True)
class Turn:
    """An adapter's tensors for one layer, float32."""

    skew_entries: Tensor | None = None
    """[r, b (b - 1) / 2], or one row that all blocks share; upper triangles of S."""
    mixture: Tensor | None = None
    """In place of a rotation: blocks [r, b, b] that are none, as some merges leave them."""
    log_magnitudes: Tensor | None = None
    """[out]."""
    low_rank: tuple[Tensor, Tensor] | None = None
    """A [k, in] and B [out, k]; the change is B A."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Role → tensor, of those that are there."""
        a, b = self.low_rank or (None, None)
        each = (self.skew_entries, self.mixture, self.log_magnitudes, a, b)
        return {
            role: tensor for role, tensor in zip(ROLES, each, strict=True) if tensor is not None
        }

    @property
    def size(self) -> int | None:
        """b, the side of a block; None where nothing is turned."""
        if self.mixture is not None:
            return self.mixture.shape[-1]
        return None if self.skew_entries is None else side(self.skew_entries.shape[-1])

    def scaled(self, strength: float) -> Turn:
        """The same in that strength: skew matrices times it, so that rotations stay rotations."""
        if strength == 1:
            return self
        mixture = self.mixture
        if mixture is not None:
            eye = torch.eye(mixture.shape[-1])
            mixture = eye + strength * (mixture - eye)
        return Turn(
            skew_entries=_times(strength, self.skew_entries),
            mixture=mixture,
            log_magnitudes=_times(strength, self.log_magnitudes),
            low_rank=self.low_rank and (self.low_rank[0], strength * self.low_rank[1]),
        )

    def changed(self, weight: Tensor, *, of: str = "a layer") -> Tensor:
        """D W Rᵀ + Δ, in the weight's type; computed in float64, where the device has it."""
        wide = torch.float32 if weight.device.type == "mps" else torch.float64
        result = weight.to(wide)

        def there(tensor: Tensor) -> Tensor:
            return tensor.to(weight.device, wide)

        if self.skew_entries is not None:
            blocks = cayley(skew(there(self.skew_entries)))
            result = turned(result, require_rotation(blocks, of=of))
        if self.mixture is not None:
            result = turned(result, there(self.mixture))
        if self.log_magnitudes is not None:
            result = there(self.log_magnitudes).exp()[:, None] * result
        if self.low_rank is not None:
            a, b = self.low_rank
            result = result + there(b) @ there(a)
        return result.to(weight.dtype)

    def require_fit(self, shape: tuple[int, ...], *, of: str) -> None:
        """Raise AdapterError unless a weight of this shape can be changed so."""
        problem = self._misfit(shape)
        if problem:
            raise AdapterError(f"{of}: its weight is {list(shape)}, but {problem}.")

    def _misfit(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) != 2:
            return "only linear layers can be turned"
        out, width = shape
        blocks = self.mixture if self.mixture is not None else self.skew_entries
        if self.size is not None and blocks is not None:
            rows = blocks.shape[0]
            if width % self.size or rows not in (1, width // self.size):
                return f"the adapter has {rows} blocks of side {self.size}"
        if self.log_magnitudes is not None and self.log_magnitudes.shape != (out,):
            return f"the adapter has {self.log_magnitudes.numel()} magnitudes"
        if self.low_rank and (self.low_rank[1].shape[0], self.low_rank[0].shape[1]) != shape:
            return "the adapter adds a change of another shape"
        return None


@dataclass(frozen=True)
class RotationFile:
    """An adapter that turns, wherever it lies: layers by our names, each read when asked for."""

    merge_space: ClassVar[MergeSpace] = "rotations"

    path: Path
    format: str
    """"selma", "peft", "onetrainer" or "released"."""
    layers: tuple[str, ...]
    """Sorted."""
    give: Callable[[str], Turn]
    """Unchecked; ask `turn`."""
    lineage: Lineage = field(default_factory=Lineage)
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further facts of the header: the adapter's settings."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Further entries of the header (`files.notes_of`)."""
    models: tuple[Layers, ...] = ()
    """The models that it may be for (`resolving.Reading`)."""

    @property
    def kind(self) -> str:
        """Of its training, if the header says so; the files of both kinds are alike."""
        return "coft" if self.about.get("kind") == "coft" else "oft"

    def turn(self, key: str) -> Turn:
        """The adapter's tensors for one layer. Raises AdapterError unless all numbers are finite
        and shapes go together."""
        turn = self.give(key)
        for role, tensor in turn.tensors.items():
            if not torch.isfinite(tensor).all():
                raise AdapterError(f"{self.path}: {role} of {key} must be finite, but is not.")
        _require_shapes(self.path, key, turn)
        return turn


def read_rotations(source: Path, *, base: Layers | None = None) -> RotationFile:
    """Our own file, or the one in a folder of ours; base: the model that it is for. Raises
    AdapterError.

    If the folder has a manifest, the file's sha256 must be the manifest's.
    """
    path = source / ROTATION_FILE if source.is_dir() else source
    spelled: dict[str, dict[str, str]] = {}
    with opened(path) as file:
        metadata = file.metadata() or {}
        about = _about(metadata, path)
        for name in tensor_names(file, path):
            key, role = _named(path, name)
            if str(file.get_slice(name).get_dtype()) not in DTYPES:
                raise AdapterError(f"{path}: {name} must be float.")
            spelled.setdefault(key, {})[role] = name
    if not spelled:
        raise AdapterError(f"{path} must change at least one layer, but is empty.")

    lineage = lineage_of(metadata, path)
    keys, models = denoiser_keys(path, spelled, base=base, own_base=lineage.base is not None)
    by_layer = {keys[name]: roles for name, roles in spelled.items()}

    def give(key: str) -> Turn:
        with opened(path) as file:
            tensors = {role: file.get_tensor(name).float() for role, name in by_layer[key].items()}
        return turn_of(tensors, path=path, key=key)

    return RotationFile(
        path=path,
        format="selma",
        layers=names.sorted_layers(by_layer),
        give=give,
        lineage=lineage,
        about=about,
        notes=notes_of(metadata),
        models=models,
    )


def write_rotations(
    path: Path,
    layers: Mapping[str, Turn],
    *,
    lineage: Lineage,
    settings: Mapping[str, Any] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write our own file, whole or nothing; equal layers give equal bytes.

    layers: by our names ("unet...."). `settings` are those of the adapter, `notes` further entries
    of the header.
    """
    tensors: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    for key, turn in layers.items():
        for role, tensor in turn.tensors.items():
            tensors[f"{key}.{role}"] = (tuple(tensor.shape), _giving(tensor))
    metadata = {
        "format": "pt",
        ROTATION_KEY: as_json({**ABOUT, "settings": dict(settings or {})}),
        OUR_KEY: lineage_json(lineage),
        **(notes or {}),
    }
    write_safetensors(path, dict(sorted(tensors.items())), metadata=metadata)


def turn_of(tensors: Mapping[str, Tensor], *, path: Path, key: str) -> Turn:
    """A layer's change from its tensors by role."""
    a, b = (tensors.get(role) for role in LOW_RANK)
    if (a is None) != (b is None) or {SKEW_ENTRIES, MIXTURE} <= tensors.keys():
        raise AdapterError(f"{path}: {key} has {', '.join(sorted(tensors))}, which cannot be all.")
    return Turn(
        skew_entries=tensors.get(SKEW_ENTRIES),
        mixture=tensors.get(MIXTURE),
        log_magnitudes=tensors.get(MAGNITUDES),
        low_rank=None if a is None or b is None else (a, b),
    )


def require_rotations_fit(
    file: RotationFile, shapes: Mapping[str, tuple[int, ...]], *, who: object
) -> None:
    """Raise AdapterError unless a model with weights of these shapes has each layer."""
    if not shapes:
        raise AdapterError(f"{who} turns layers of unknown shapes: name the base's folder.")
    missing = [key for key in file.layers if key not in shapes]
    if missing:
        raise AdapterError(f"{who} turns {missing[0]}, which this model has not.")
    for key in file.layers:
        file.turn(key).require_fit(shapes[key], of=f"{who}, {key}")


def _times(strength: float, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else strength * tensor


def _giving(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def _named(path: Path, name: str) -> tuple[str, str]:
    """(name of the layer, role) of a tensor."""
    for role in ROLES:
        key = name.removesuffix(f".{role}")
        if key != name:
            return key, role
    raise AdapterError(f"{path} must hold rotations, but has {name!r}.")


def _require_shapes(path: Path, key: str, turn: Turn) -> None:
    dimensions = {SKEW_ENTRIES: 2, MIXTURE: 3, MAGNITUDES: 1, LOW_RANK[0]: 2, LOW_RANK[1]: 2}
    for role, tensor in turn.tensors.items():
        if tensor.dim() != dimensions[role] or 0 in tensor.shape:
            raise AdapterError(f"{path}: {role} of {key} cannot be {list(tensor.shape)}.")
    if turn.skew_entries is not None:
        side(turn.skew_entries.shape[-1])
    if turn.mixture is not None and turn.mixture.shape[1] != turn.mixture.shape[2]:
        raise AdapterError(f"{path}: blocks of {key} must be square.")
    if turn.low_rank is not None and turn.low_rank[0].shape[0] != turn.low_rank[1].shape[1]:
        raise AdapterError(f"{path}: A and B of {key} do not go together.")


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get(ROTATION_KEY, "null"))
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or any(about.get(k) != v for k, v in ABOUT.items()):
        raise AdapterError(
            f"{path} must say by {ROTATION_KEY} in its header what its numbers mean, {ABOUT}, but "
            f"says {quoted(about)}. Another selma may have written it."
        )
    settings = about.get("settings")
    return settings if isinstance(settings, dict) else {}
