"""Adapter files are read here with suspicion: diffusers, kohya, ComfyUI and PEFT folders alike.

What comes out are layers under one set of names (`names`), each with its own rank and scale. A name
must lead to a layer that there is (`resolving`); what cannot be written as scale x B A is refused
with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from selma.adapters import names, spellings
from selma.adapters.files import DTYPES, Lineage, notes_of
from selma.adapters.folders import SAFETENSORS, has_suffix, lora_files
from selma.adapters.headers import (
    Kept,
    header_json,
    lineage_of,
    opened,
    tensor_names,
)
from selma.adapters.layers import Cut, Layers
from selma.adapters.peft_settings import (
    PEFT_FILE,
    PEFT_SETTINGS,
    PeftSettings,
    header_settings,
    peft_json,
)
from selma.adapters.resolving import Reading, resolved
from selma.adapters.spellings import BUNDLED, Spelling
from selma.config.adapters import MergeSpace
from selma.errors import AdapterError
from selma.plurals import counted
from selma.progress import console
from selma.texts import quoted

RANKS_KEY = "selma_ranks"  # layer → rank, where `formats` filled a kohya file up with zeros

MOST_ENTRIES = 2**29
"""Of the weight that factors change; the largest of a known model has 29 million."""

FLOATS = DTYPES | {
    "F8_E4M3": torch.float16,
    "F8_E5M2": torch.float16,
    "F64": torch.float32,
}
"""A tensor's type in a file → the type that it is read as. Half has every number of both kinds of
eight bits, so that they lose nothing, and programs that know no fp8 read what is written. What
doubles have beyond float32 no model computes with."""


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
    """Of A and B as they are read."""
    cut: Cut | None = None
    """What of the file's tensors is this layer's; None if all is."""
    block: bool = False
    """Whether each part of a layer that is cut has ranks of its own, side by side."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the weight that is changed: [out, in] or [out, in, k, k]."""
        out, inside = self.shape
        if self.kernel is None:
            return self.shape
        return (out, inside // math.prod(self.kernel), *self.kernel)


@dataclass(frozen=True)
class AdapterFile:
    """A low-rank adapter on disk. Its header is read; tensors are read when asked for."""

    kind: ClassVar[str] = "lora"
    merge_space: ClassVar[MergeSpace] = "deltas"

    path: Path
    format: str
    """"diffusers", "kohya", "comfyui", "peft", "onetrainer" or "simpletuner"."""
    layers: Mapping[str, LayerFile]
    """Sorted by name (`names`)."""
    lineage: Lineage
    notes: Mapping[str, str] = field(default_factory=dict)
    """Further entries of the header (`files.notes_of`)."""
    models: tuple[Layers, ...] = ()
    """The models that it may be for (`resolving.Reading`)."""
    embeddings: int = 0
    """Tensors that lie beside the factors and are not read: texts' embeddings of OneTrainer."""
    _kept: Kept = field(default_factory=Kept, repr=False, compare=False)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return {key: layer.shape for key, layer in self.layers.items()}

    @property
    def rank(self) -> int:
        """The largest of its layers' ranks."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def left_out(self) -> str | None:
        """What lies in the file and is not read, in a sentence; None if that is nothing."""
        if not self.embeddings:
            return None
        return (
            f"left out: {counted(self.embeddings, 'tensor')} of text embeddings ({BUNDLED}*), "
            "which change no layer; prompts with their words mean something else without them"
        )

    def factors(self, key: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of one layer, float32. Raises AdapterError unless
        finite."""
        a, b = (tensor.float().flatten(1) for tensor in self.tensors(key))
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise AdapterError(f"{self.path}: the change of {key} must be finite, but is not.")
        return a, b

    def tensors(self, key: str) -> tuple[Tensor, Tensor]:
        """A and B as they lie in the file, in its shapes and, but for eight bits, its type."""
        layer = self.layers[key]
        with self._kept.opened(layer.path) as file:
            a, b = (
                file.get_tensor(name).to(dtype)
                for name, dtype in zip((layer.a, layer.b), layer.dtypes, strict=True)
            )
        if layer.cut:
            a, b = _part_of(layer.cut, a, b, block=layer.block)
        if a[layer.rank :].any() or b[:, layer.rank :].any():
            raise AdapterError(f"{self.path} has rank {layer.rank} for {key}, but more is filled.")
        return a[: layer.rank], b[:, : layer.rank]


def read_adapter(source: Path, *, base: Layers | None = None) -> AdapterFile:
    """The adapter in a file or folder, its header checked; `factors` checks the numbers.

    base: the model that it is for. Without one its names must lead to layers of a known model, or
    its header must say that selma wrote it for another. If a folder has a manifest, the file's
    sha256 must be the manifest's. Raises AdapterError.
    """
    files = lora_files(source)
    header = _Header(source)
    for path, component in files:
        header.read(path, component)
    if not header.layers:
        raise AdapterError(f"{source} must change at least one layer, but is empty.")
    if {"onetrainer", "kohya"} == header.schemes:  # of text encoders both have the same names
        header.schemes.remove("kohya")
    if len(header.schemes) > 1:
        raise AdapterError(f"{source} mixes the names of {' and '.join(sorted(header.schemes))}.")
    lineage = lineage_of(header.metadata, source)
    shapes = {layer: _weight_shape(source, layer, parts) for layer, parts in header.layers.items()}
    reading = resolved(
        source,
        shapes,
        base=base,
        own_base=lineage.base is not None,
        own_names=header.schemes <= {"diffusers", "peft"},
    )
    by_key = _by_key(source, header, reading)
    filled = header_json(header.metadata, RANKS_KEY, source)
    return AdapterFile(
        path=files[0][0] if len(files) == 1 else source,
        format=header.schemes.pop(),
        layers={
            key: _without_zeros(_layer(source, key, *by_key[key], header, reading), filled.get(key))
            for key in names.sorted_layers(by_key)
            if filled.get(key) != 0  # a part of a joined layer that is not changed
        },
        lineage=lineage,
        notes=notes_of(header.metadata),
        models=reading.models,
        embeddings=header.embeddings,
        _kept=header.kept,
    )


def announce_left_out(file: AdapterFile) -> None:
    """Say on standard error what of the file is not read."""
    if file.left_out:
        console.print(
            f"{file.path}: {file.left_out}.", highlight=False, markup=False, soft_wrap=True
        )


def is_lora(source: Path) -> bool:
    """Whether a file or folder has low-rank factors alone, by names of tensors or PEFT's files."""
    if source.is_dir():
        parts = (source, *(source / component for component in names.components()))
        return any(is_lora(part / PEFT_FILE) for part in parts if (part / PEFT_FILE).is_file())
    if source.name == PEFT_FILE and source.with_name(PEFT_SETTINGS).is_file():
        return peft_json(source).get("peft_type", "LORA") == "LORA"
    if not has_suffix(source, SAFETENSORS) or not source.is_file():
        return False
    with opened(source) as file:
        return spellings.factors_alone(tensor_names(file, source))


@dataclass(frozen=True)
class _Tensor:
    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass
class _Header:
    """What the headers of an adapter's files say, by the layers' spelling."""

    source: Path
    layers: dict[Spelling, dict[str, _Tensor]] = field(default_factory=dict)
    """Layer → "A", "B" and "alpha", of those that are there."""
    schemes: set[str] = field(default_factory=set)
    settings: dict[str, PeftSettings] = field(default_factory=dict)
    """Component → what PEFT's settings say; under "" where they do not say of which."""
    metadata: dict[str, str] = field(default_factory=dict)
    embeddings: int = 0
    kept: Kept = field(default_factory=Kept)

    def read(self, path: Path, component: str | None) -> None:
        with self.kept.opened(path) as file:
            own = file.metadata() or {}
            tensors = list(_tensors(path, file))
        self.metadata |= own
        peft = path.name == PEFT_FILE
        for tensor in tensors:
            if tensor.name.startswith(BUNDLED):
                self.embeddings += 1
            else:
                self._add(tensor, component, peft=peft)
        beside = path.with_name(PEFT_SETTINGS).is_file()
        if peft or (self.schemes == {"peft"} and beside):
            of = "" if component in (None, names.T5) else component
            self.settings[of] = PeftSettings(path, peft_json(path))
        else:
            self.settings |= header_settings(path, own)

    def _add(self, tensor: _Tensor, component: str | None, *, peft: bool) -> None:
        named = spellings.read_name(tensor.name)
        if reason := spellings.refused(tensor.name):
            raise AdapterError(
                f"{tensor.path} cannot be used, because of {tensor.name!r}: {reason}."
            )
        if named is None:
            raise AdapterError(
                f"{tensor.path} must hold pairs of low-rank factors alone, but has "
                f"{tensor.name!r} of shape {list(tensor.shape)}."
            )
        self.schemes.add("peft" if peft else named.scheme)
        layer = named.layer
        if component is not None and layer.component in (None, component):
            layer = Spelling(component, layer.path)
        roles = self.layers.setdefault(layer, {})
        if named.role in roles:
            raise AdapterError(_twice(self.source, layer.path, roles[named.role], tensor))
        roles[named.role] = tensor

    def settings_of(self, component: str) -> PeftSettings:
        default = self.settings.get("", PeftSettings(self.source, {}))
        return self.settings.get(component, default)


def _tensors(path: Path, file: Any) -> Iterable[_Tensor]:
    """What the header says of each tensor; none is read."""
    for name in tensor_names(file, path):
        part = file.get_slice(name)
        yield _Tensor(path, name, tuple(part.get_shape()), str(part.get_dtype()))


_Named = tuple[Mapping[str, _Tensor], Cut | None]
"""A layer's tensors, and what of them is the layer's."""


def _by_key(source: Path, header: _Header, reading: Reading) -> dict[str, _Named]:
    """Our name → what is the layer's. Raises AdapterError if two names mean one layer, unless one
    is of a layer that joins several and says the same again."""
    by_key: dict[str, _Named] = {}
    for layer, tensors in header.layers.items():
        for key, cut in reading.parts[layer]:
            if key in by_key:
                named = sorted((by_key[key], (tensors, cut)), key=lambda pair: pair[1] is not None)
                if named[0][1] or not named[1][1] or not _same_change(header.kept, *named):
                    first, other = (next(iter(roles.values())) for roles, _ in named)
                    raise AdapterError(_twice(source, key, first, other))
                by_key[key] = named[0]
            else:
                by_key[key] = (tensors, cut)
    return by_key


def _same_change(files: Kept, *named: _Named) -> bool:
    """Whether two ways to say a layer say one change, but for rounding to a half."""
    factors = []
    for tensors, cut in named:
        with files.opened(tensors["A"].path) as file:
            a, b = (file.get_tensor(tensors[role].name).double().flatten(1) for role in "AB")
        alpha = _alpha_of(tensors.get("alpha"), files)
        scale = 1.0 if alpha is None else alpha / len(a)
        factors.append((a, scale * (b[slice(*cut.rows)] if cut else b)))
    (a, b), (other_a, other_b) = factors
    if a.shape[1] != other_a.shape[1] or len(b) != len(other_b):
        return False
    apart = product_norm(torch.cat([a, other_a]), torch.cat([b, -other_b], dim=1))
    return apart <= 1e-3 * product_norm(a, b)


def product_norm(a: Tensor, b: Tensor) -> float:
    """‖B A‖ in Frobenius' norm, without forming B A, which may be far larger; right where B A is
    nearly zero, too.  a: [r, in], b: [out, r], float64."""
    return float((torch.linalg.qr(b).R @ torch.linalg.qr(a.mT).R.mT).norm())


def _part_of(cut: Cut, a: Tensor, b: Tensor, *, block: bool) -> tuple[Tensor, Tensor]:
    """The factors of one part of a joined layer."""
    b = b[slice(*cut.rows)]
    if cut.swapped:
        b = torch.cat([*reversed(b.chunk(2))])
    if block:
        ranks = slice(cut.part * len(a) // cut.of, (cut.part + 1) * len(a) // cut.of)
        a, b = a[ranks], b[:, ranks]
    return a.contiguous(), b.contiguous()


def _is_block(cut: Cut, tensor: _Tensor) -> bool:
    """Whether B is zero but for one block for each part, with ranks of its own."""
    rank = tensor.shape[1]
    if cut.of == 1 or rank % cut.of:
        return False
    step = rank // cut.of
    first, last = cut.part * step, (cut.part + 1) * step
    with opened(tensor.path) as file:
        row = file.get_slice(tensor.name)[cut.rows[0] : cut.rows[0] + 1].flatten(1)
        if row[:, :first].any() or row[:, last:].any():  # most are no block
            return False
        b = file.get_tensor(tensor.name).flatten(1)
    mine = b[slice(*cut.rows)]
    return bool(b.any()) and not mine[:, :first].any() and not mine[:, last:].any()


def _twice(source: Path, layer: str, first: _Tensor, other: _Tensor) -> str:
    return (
        f"{source} names {layer} twice, as {first.name!r} and as {other.name!r}. Which of them is "
        "meant, or whether their sum is, the file does not say: take one of them out."
    )


def _weight_shape(source: Path, layer: Spelling, tensors: Mapping[str, _Tensor]) -> tuple[int, ...]:
    """[out, in] or [out, in, k, k] of the weight that the factors change."""
    a, b = tensors.get("A"), tensors.get("B")
    if a is None or b is None or not _fit(a.shape, b.shape):
        shapes = {role: list(t.shape) for role, t in tensors.items() if role != "alpha"}
        raise AdapterError(
            f"{source}: {layer.path} needs A [r, in] or [r, in, k, k] and B [out, r] or "
            f"[out, r, 1, 1], but has {shapes}."
        )
    for tensor in (a, b):
        if tensor.dtype not in FLOATS:
            raise AdapterError(f"{source}: {layer.path} must be float, but is {tensor.dtype}.")
    shape = (b.shape[0], *a.shape[1:])
    if math.prod(shape) > MOST_ENTRIES:
        raise AdapterError(
            f"{source}: {layer.path} changes a weight of {list(shape)}, larger than any model's."
        )
    return shape


def _fit(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    if len(a) not in (2, 4) or len(b) not in (2, 4) or 0 in (*a, *b):
        return False
    return a[0] == b[1] and b[2:] == (1,) * (len(b) - 2)


def _layer(
    source: Path,
    key: str,
    tensors: Mapping[str, _Tensor],
    cut: Cut | None,
    header: _Header,
    reading: Reading,
) -> LayerFile:
    a, b = tensors["A"], tensors["B"]
    component, module = names.split(key)
    settings = header.settings_of(component)
    rank = a.shape[0]
    declared = settings.rank(component, module, rank)
    if declared != rank:
        raise AdapterError(
            f"{source}: {key} has rank {rank}, but the header says {quoted(declared)}."
        )
    block = cut is not None and _is_block(cut, b)
    alpha = settings.alpha(component, module, rank, _alpha_of(tensors.get("alpha"), header.kept))
    shapes = [model.shape(key) for model in reading.models]
    return LayerFile(
        path=a.path,
        a=a.name,
        b=b.name,
        shape=(cut.rows[1] - cut.rows[0] if cut else b.shape[0], math.prod(a.shape[1:])),
        kernel=_kernel(a.shape[2:], [shape for shape in shapes if shape]),
        rank=rank // cut.of if cut and block else rank,
        alpha=alpha / cut.of if cut and block else alpha,
        dtypes=(FLOATS[a.dtype], FLOATS[b.dtype]),
        cut=cut,
        block=block,
    )


def _kernel(given: tuple[int, ...], weights: Iterable[tuple[int, ...]]) -> tuple[int, int] | None:
    """The kernel of the layer: a linear one and a convolution of one pixel are the same change, so
    that the models' word counts where they agree, whatever the file's shapes are."""
    kernels = {tuple(weight[2:]) for weight in weights}
    kernel = kernels.pop() if len(kernels) == 1 else given
    one_pixel = ((), (1, 1))
    if kernel not in one_pixel or given not in one_pixel:
        kernel = given
    return (kernel[0], kernel[1]) if kernel else None


def _alpha_of(tensor: _Tensor | None, files: Kept) -> float | None:
    if tensor is None:
        return None
    if math.prod(tensor.shape) != 1:
        raise AdapterError(
            f"{tensor.path}: {tensor.name!r} must be one number, but has the shape "
            f"{list(tensor.shape)}."
        )
    with files.opened(tensor.path) as file:
        return float(file.get_tensor(tensor.name))


def _without_zeros(layer: LayerFile, rank: Any) -> LayerFile:
    if not isinstance(rank, int) or not 0 < rank < layer.rank:
        return layer
    return replace(layer, rank=rank, alpha=layer.scale * rank)
