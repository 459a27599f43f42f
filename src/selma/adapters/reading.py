"""Adapter files are read here with suspicion: diffusers LoRA, kohya and PEFT folders alike.

What comes out are layers under one set of names (`names`), each with its own rank and scale; what
cannot be written as scale x B A is refused with the reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from selma.adapters import names
from selma.adapters.files import DTYPES, OUR_KEY, PEFT_KEY, Lineage, notes_of
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.adapters import MergeSpace
from selma.errors import AdapterError
from selma.workspace import file_sha256

PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
RANKS_KEY = "selma_ranks"  # layer → rank, where `formats` filled a kohya file up with zeros
PEFT_DEFAULT_ALPHA = 8  # of a header that gives none: what PEFT itself would take


@dataclass(frozen=True)
class LayerFile:
    """One layer that an adapter changes: delta = scale x B A. Where its factors lie."""

    path: Path
    a: str
    b: str
    """Names of A's and B's tensors in the file."""
    shape: tuple[int, int]
    """(output width, input width); a convolution's kernel belongs to the input: in x k x k."""
    kernel: tuple[int, int] | None
    """None for a linear layer."""
    rank: int
    alpha: float
    """scale x rank, whatever the file's own convention is."""
    dtypes: tuple[torch.dtype, torch.dtype]
    """Of A and B in the file."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class AdapterFile:
    """A low-rank adapter on disk. Its header is read; tensors are read when asked for."""

    kind: ClassVar[str] = "lora"
    merge_space: ClassVar[MergeSpace] = "deltas"

    path: Path
    format: str
    """"diffusers", "kohya" or "peft"."""
    layers: Mapping[str, LayerFile]
    """Sorted by name (`names`)."""
    lineage: Lineage
    notes: Mapping[str, str] = field(default_factory=dict)
    """Further entries of the header (`files.notes_of`)."""

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return {key: layer.shape for key, layer in self.layers.items()}

    @property
    def rank(self) -> int:
        """The largest of its layers' ranks."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in {layer.path for layer in self.layers.values()})

    def factors(self, key: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of one layer, float32. Raises AdapterError unless
        finite."""
        a, b = (tensor.float().flatten(1) for tensor in self.tensors(key))
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise AdapterError(f"{self.path}: the change of {key} must be finite, but is not.")
        return a, b

    def tensors(self, key: str) -> tuple[Tensor, Tensor]:
        """A and B as they lie in the file, in its shapes and type."""
        layer = self.layers[key]
        with opened(layer.path) as file:
            a, b = file.get_tensor(layer.a), file.get_tensor(layer.b)
        if a[layer.rank :].any() or b[:, layer.rank :].any():
            raise AdapterError(f"{self.path} has rank {layer.rank} for {key}, but more is filled.")
        return a[: layer.rank], b[:, : layer.rank]


def read_adapter(source: Path, *, layers_per_block: int = names.LAYERS_PER_BLOCK) -> AdapterFile:
    """The adapter in a file or folder, its header checked; `factors` checks the numbers.

    layers_per_block is the UNet's; only the original names of SDXL need it. If a folder has a
    manifest, the file's sha256 must be the manifest's. Raises AdapterError.
    """
    files = _files_of(source)
    by_layer: dict[str, dict[str, _Tensor]] = {}
    settings: dict[str, dict[str, Any]] = {}
    formats: set[str] = set()
    metadata: dict[str, str] = {}
    for path, component in files:
        if path.name == ADAPTER_FILE:
            as_the_manifest_says(path)
        with opened(path) as file:
            metadata |= file.metadata() or {}
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)  # the header's; no tensor is read here
                tensor = _Tensor(path, name, tuple(part.get_shape()), str(part.get_dtype()))
                kind, key, role = _named(tensor, component, layers_per_block)
                formats.add(kind)
                if role in by_layer.setdefault(key, {}):
                    raise AdapterError(f"{path} names {role} of {key} twice.")
                by_layer[key][role] = tensor
        settings |= _settings(path, component, metadata)
    if len(formats) > 1:
        raise AdapterError(f"{source} mixes the names of {' and '.join(sorted(formats))}.")
    filled = _header_json(metadata, RANKS_KEY, source)
    layers = {
        key: _without_zeros(_layer(source, key, by_layer[key], settings), filled.get(key))
        for key in names.sorted_layers(by_layer)
    }
    if not layers:
        raise AdapterError(f"{source} must change at least one layer, but is empty.")
    return AdapterFile(
        path=files[0][0] if len(files) == 1 else source,
        format=formats.pop(),
        layers=layers,
        lineage=lineage_of(metadata, source),
        notes=notes_of(metadata),
    )


def is_lora(source: Path) -> bool:
    """Whether a file or folder has low-rank factors alone, by names of tensors or PEFT's files."""
    if source.is_dir():
        parts = (source, *(source / component for component in names.components()))
        return any(is_lora(part / PEFT_FILE) for part in parts if (part / PEFT_FILE).is_file())
    if source.name == PEFT_FILE and source.with_name(PEFT_SETTINGS).is_file():
        return peft_json(source).get("peft_type", "LORA") == "LORA"
    if source.suffix != ".safetensors" or not source.is_file():
        return False
    with opened(source) as file:
        return all(any(pattern.fullmatch(name) for pattern in _SUFFIX) for name in file.keys())  # noqa: SIM118


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The safetensors file. Raises AdapterError if it is none."""
    if not path.is_file():
        raise AdapterError(f"{path} must be an adapter's file, but there is none.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} must be a whole safetensors file, but: {error}.") from error


def parameter_count(path: Path) -> int:
    """How many numbers a safetensors file holds; only its header is read."""
    with opened(path) as file:
        shapes = (file.get_slice(name).get_shape() for name in file.keys())  # noqa: SIM118
        return sum(math.prod(shape) for shape in shapes)


@dataclass(frozen=True)
class _Tensor:
    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def _files_of(source: Path) -> list[tuple[Path, str | None]]:
    """The adapter's files, and for those of a PEFT folder the component that they change."""
    if source.is_dir():
        if (source / PEFT_FILE).is_file() and not (source / ADAPTER_FILE).is_file():
            return [(source / PEFT_FILE, _component(source / PEFT_FILE))]
        parts = [(source / name / PEFT_FILE, name) for name in names.components()]
        present = [(path, name) for path, name in parts if path.is_file()]
        return [*present] or [(source / ADAPTER_FILE, None)]
    if source.name == PEFT_FILE:
        return [(source, _component(source))]
    if source.is_file() and source.suffix != ".safetensors":
        raise AdapterError(f"{source} must be a .safetensors file: others can run code when read.")
    return [(source, None)]


def _component(path: Path) -> str:
    """The component that a PEFT folder changes, by the class or the layers that it names."""
    mapping = peft_json(path).get("auto_mapping")
    about = str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""
    if about == "CLIPTextModelWithProjection":
        return names.TEXT_2
    if about == "CLIPTextModel":
        return names.TEXT
    with opened(path) as file:
        text = any(".self_attn." in name or ".mlp." in name for name in file.keys())  # noqa: SIM118
    return names.TEXT if text else names.UNET


# What cannot be written as scale x B A of a layer's weight. Found anywhere in a tensor's name.
_REFUSED = {
    r"dora_scale|lora_magnitude_vector": "DoRA: it also changes the norm of each column",
    r"\.hada_": "LoHa: its change is a product of entries, not of matrices",
    r"\.lokr_": "LoKr: its change is a Kronecker product",
    r"\.lora_mid\.": "a Tucker convolution (lora_mid): its change has a third factor",
    r"\.oft_|\.boft_": "OFT: it rotates weights instead of adding to them",
    r"lora_embedding_[AB]": "an embedding's change",
    r"\.diff(_b)?$": "a full difference rather than two factors",
    r"\.bias$": "biases, which no B A reaches",
    r"modules_to_save": "whole modules (modules_to_save)",
}
_FACTORS = {"A": "A", "B": "B", "down": "A", "up": "B"}
_SUFFIXES = (
    r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.\w+)?\.weight",
    r"(?P<module>.+)\.lora(?:_linear_layer)?\.(?P<factor>down|up)\.weight",
    r"(?P<module>.+)\.lora_(?P<factor>down|up)\.weight",
    r"(?P<module>.+\.)processor\.(?P<to>to_(?:q|k|v|out))_lora\.(?P<factor>down|up)\.weight",
    r"(?P<module>.+)\.(?P<factor>alpha)",
)
_SUFFIX = [re.compile(pattern) for pattern in _SUFFIXES]


def _named(tensor: _Tensor, component: str | None, layers_per_block: int) -> tuple[str, str, str]:
    """(format, our name of the layer, "A", "B" or "alpha") of a tensor in a file."""
    name = tensor.name
    for pattern, reason in _REFUSED.items():
        if re.search(pattern, name):
            raise AdapterError(f"{tensor.path} cannot be used, because of {name!r}: {reason}.")
    match = next((matched for suffix in _SUFFIX if (matched := suffix.fullmatch(name))), None)
    if match is None:
        raise AdapterError(
            f"{tensor.path} must hold pairs of low-rank factors alone, but has {name!r} of shape "
            f"{list(tensor.shape)}."
        )
    module = match["module"]
    if to := match.groupdict().get("to"):
        module += "to_out.0" if to == "to_out" else to
    module = module.replace(".processor.", ".")
    role = _FACTORS.get(match["factor"], "alpha")
    if component is not None:
        module = module.removeprefix("base_model.model.")
        return "peft", names.plain(component, module), role
    if name.startswith("lora_"):
        key = names.from_kohya(module, layers_per_block=layers_per_block)
        if key is None:
            raise AdapterError(
                f"{tensor.path} names a layer {module!r} that no SD 1, SD 2 or SDXL has."
            )
        return "kohya", key, role
    part, _, inside = module.partition(".")
    if part not in names.components() or not inside:
        raise AdapterError(
            f"{tensor.path} must name layers of {', '.join(names.components())}, but has {name!r}."
        )
    return "diffusers", names.plain(part, inside), role


def _layer(
    source: Path, key: str, tensors: Mapping[str, _Tensor], settings: Mapping[str, dict[str, Any]]
) -> LayerFile:
    shapes = {role: list(tensor.shape) for role, tensor in tensors.items() if role != "alpha"}
    a, b = tensors.get("A"), tensors.get("B")
    if a is None or b is None or not _fit(a.shape, b.shape):
        raise AdapterError(
            f"{source}: {key} needs A [r, in] and B [out, r], or A [r, in, k, k] and "
            f"B [out, r, 1, 1], but has {shapes}."
        )
    for tensor in (a, b):
        if tensor.dtype not in DTYPES:
            raise AdapterError(f"{source}: {key} must be float, but is {tensor.dtype}.")
    component, module = names.split(key)
    ours = settings.get(component, {})
    rank = a.shape[0]
    declared = _of_pattern(source, ours, "rank_pattern", module, ours.get("r", rank))
    if declared != rank:
        raise AdapterError(f"{source}: {key} has rank {rank}, but the header says {declared}.")
    return LayerFile(
        path=a.path,
        a=a.name,
        b=b.name,
        shape=(b.shape[0], math.prod(a.shape[1:])),
        kernel=(a.shape[2], a.shape[3]) if len(a.shape) == 4 else None,
        rank=rank,
        alpha=_alpha(source, module, rank, tensors.get("alpha"), ours),
        dtypes=(DTYPES[a.dtype], DTYPES[b.dtype]),
    )


def _without_zeros(layer: LayerFile, rank: Any) -> LayerFile:
    if not isinstance(rank, int) or not 0 < rank < layer.rank:
        return layer
    return replace(layer, rank=rank, alpha=layer.scale * rank)


def _fit(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    if len(a) != len(b) or len(a) not in (2, 4) or 0 in (*a, *b):
        return False
    return a[0] == b[1] and b[2:] == (1,) * (len(b) - 2)


def _alpha(
    source: Path, module: str, rank: int, own: _Tensor | None, settings: Mapping[str, Any]
) -> float:
    if own is not None:
        with opened(own.path) as file:
            value = file.get_tensor(own.name)
        alpha = float(value) if value.numel() == 1 else math.nan
    else:
        default = settings.get("lora_alpha", PEFT_DEFAULT_ALPHA if settings else rank)
        alpha = _of_pattern(source, settings, "alpha_pattern", module, default)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
        raise AdapterError(f"{source}: alpha of {module} must be a positive number, not {alpha!r}.")
    # rsLoRA (arXiv:2312.03732) divides by the root of the rank instead of the rank.
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha


def _of_pattern(
    source: Path, settings: Mapping[str, Any], key: str, module: str, default: Any
) -> Any:
    """The value of the header's pattern for a module, matched as PEFT matches it."""
    patterns = settings.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"{source}: the header's {key} must be a mapping.")
    for pattern, value in patterns.items():
        if not re.fullmatch(r"[\w.^$\\*-]+", pattern):
            raise AdapterError(f"{source}: {key} must be by names of layers, but has {pattern!r}.")
        for name in (module, f"text_model.{module}"):
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
    return default


def _settings(
    path: Path, component: str | None, metadata: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Component → its PEFT settings, of which none may change what B A means."""
    if component is not None:
        by_component = {component: peft_json(path)}
    else:
        header = _header_json(metadata, PEFT_KEY, path)
        by_component = {
            name: {
                key.removeprefix(f"{name}."): value
                for key, value in header.items()
                if key.startswith(f"{name}.")
            }
            for name in names.components()
        }
    for ours in by_component.values():
        for key, value in ours.items():
            if value and not _harmless(key, value):
                raise AdapterError(f"{path} is no plain LoRA: its header sets {key} to {value!r}.")
    return by_component


_HARMLESS = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "peft_version",
    "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config", "megatron_config", "megatron_core", "qalora_group_size", "eva_config",
}  # fmt: skip


def _harmless(key: str, value: Any) -> bool:
    """Whether a setting leaves the layer's change at scale x B A. One that is not known may not:
    a merge that passed over it could be wrong without a word."""
    if key == "init_lora_weights":
        # PiSSA, OLoRA, CorDA and LoftQ also change the frozen weights that the delta is added to.
        return value is True or value in ("gaussian", "eva", "orthogonal")
    return key in _HARMLESS or (key, value) in (("bias", "none"), ("peft_type", "LORA"))


def peft_json(path: Path) -> dict[str, Any]:
    """The settings beside a PEFT adapter's file. Raises AdapterError."""
    settings_path = path.with_name(PEFT_SETTINGS)
    try:
        value = json.loads(settings_path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(
            f"{settings_path} must be a PEFT adapter's settings, but: {error}."
        ) from error
    if not isinstance(value, dict):
        raise AdapterError(f"{settings_path} must be a mapping.")
    return value


def as_the_manifest_says(path: Path) -> None:
    """Raise AdapterError if a manifest beside the file has another sha256."""
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


def lineage_of(metadata: Mapping[str, str], path: Path) -> Lineage:
    """The lineage in a header."""
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
