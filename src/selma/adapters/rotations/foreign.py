"""Rotations that other programs wrote, read where they mean exactly one of ours.

| layout | what it is | here |
| --- | --- | --- |
| PEFT folder, exact Cayley | input side, (I - S)(I + S)⁻¹ | S times -1 |
| PEFT and OneTrainer, series | near (I + S)(I - S)⁻¹, but no rotation | if equal in float32 |
| released, `*_oft.R` and `.R` | (I - S)(I + S)⁻¹, control's shared blocks the other way | by sign |
| kohya, `oft_blocks` | output side, R W | refused: no W Rᵀ is that |
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # the error alone: nothing is unpickled here

import torch
from torch import Tensor

from selma.adapters import names
from selma.adapters.folders import PICKLES, SAFETENSORS, has_suffix
from selma.adapters.headers import lineage_of, opened, tensor_names
from selma.adapters.layers import Layers
from selma.adapters.models import Model, read_model
from selma.adapters.peft_settings import PEFT_FILE, PEFT_SETTINGS, peft_json
from selma.adapters.resolving import denoiser_keys
from selma.adapters.rotations.cayley import ball, triangle
from selma.adapters.rotations.files import (
    MAGNITUDES,
    MIXTURE,
    SKEW_ENTRIES,
    RotationFile,
    Turn,
    read_rotations,
    require_rotations_fit,
    write_rotations,
)
from selma.adapters.rotations.peft import (
    checked,
    of_series,
    read_peft_rotations,
    require_folder,
    write_peft_rotations,
)
from selma.backbones.text_to_image import ADAPTER_FILE, ROTATION_FILE
from selma.errors import AdapterError
from selma.texts import kind_in_words

RELEASED_FILES = ("pytorch_oft_weights.safetensors", "pytorch_oft_weights.bin")
OURS = tuple(f".{role}" for role in (SKEW_ENTRIES, MIXTURE, MAGNITUDES))

_ROTATES = re.compile(
    r"\.oft_(generator|mixture|log_magnitudes|R\.|blocks$)|_oft\.R$|^oft_|\.R$|\.scaling_factors$"
)


def is_rotation(source: Path) -> bool:
    """Whether an adapter's file or folder turns rather than adds; by names alone."""
    if source.is_dir():
        if (source / ROTATION_FILE).is_file():
            return True
        if (source / ADAPTER_FILE).is_file():
            return False
        if (source / PEFT_SETTINGS).is_file():
            return peft_json(source / PEFT_FILE).get("peft_type") == "OFT"
        return any((source / name).is_file() for name in RELEASED_FILES)
    if source.name == PEFT_FILE:
        return peft_json(source).get("peft_type") == "OFT"
    if has_suffix(source, *PICKLES):
        return True
    if not has_suffix(source, SAFETENSORS) or not source.is_file():
        return False
    with opened(source) as file:
        return any(_ROTATES.search(name) for name in tensor_names(file, source))


def read_any_rotations(
    source: Path,
    *,
    base: Layers | None = None,
    coft_eps: float | None = None,
    pickles: bool = False,
) -> RotationFile:
    """The rotations in a file or folder of ours, PEFT, OneTrainer or the released code.

    `coft_eps` is what a checkpoint of the released control code was trained with, which does not
    say so itself. Pickles are read (as tensors alone, running nothing) only if asked for. Raises
    AdapterError, with the reason where a layout says something that is no rotation of ours.
    """
    if source.is_dir() and (source / PEFT_SETTINGS).is_file():
        source = source / PEFT_FILE
    elif source.is_dir() and not (source / ROTATION_FILE).is_file():
        source = next((source / n for n in RELEASED_FILES if (source / n).is_file()), source)
    if source.name == PEFT_FILE:
        return read_peft_rotations(source, base=base)
    if has_suffix(source, *PICKLES):
        if not pickles:
            raise AdapterError(
                f"{source} is a pickle. Of the released OFT code: turn it into our file by `selma "
                "convert`. Any other: write its tensors anew as .safetensors where reading it does "
                "no harm."
            )
        return _foreign(source, _unpickled(source), {}, base, coft_eps)
    if source.is_dir() or source.name == ROTATION_FILE:
        return read_rotations(source, base=base)
    with opened(source) as file:
        all_names, metadata = tensor_names(file, source), file.metadata() or {}
        if any(name.endswith(OURS) for name in all_names):
            return read_rotations(source, base=base)
        wanted = [name for name in all_names if _ROTATES.search(name) or ".oft_" in name
                  or "_oft." in name]  # fmt: skip
        tensors = {name: file.get_tensor(name) for name in wanted}
    return _foreign(source, tensors, metadata, base, coft_eps)


def convert_rotations(
    source: Path, out: Path, *, to: str, base: str | None = None, coft_eps: float | None = None
) -> list[Path]:
    """The files written: the rotations at `source` as our file ("selma") or as a PEFT folder.

    Where `base` is given, they must fit it. Raises AdapterError where the layout cannot say them.
    """
    model = None if base is None else read_model(base)
    layers = model.layers if model else None
    file = read_any_rotations(source, base=layers, coft_eps=coft_eps, pickles=True)
    if model:
        require_rotations_fit(file, model.shapes, who=source)
    return write_as(out, file, to=to, model=model)


def write_as(out: Path, file: RotationFile, *, to: str, model: Model | None = None) -> list[Path]:
    """Write rotations in a layout that can say them; the model, if known, is their base."""
    require_layout(out, to=to)
    if to == "peft":
        return write_peft_rotations(out, file, shapes=model.shapes if model else None)
    out.parent.mkdir(parents=True, exist_ok=True)
    turns = {key: file.turn(key) for key in file.layers}
    write_rotations(out, turns, lineage=file.lineage, settings=file.about, notes=file.notes)
    return [out]


def require_layout(out: Path, *, to: str) -> None:
    """Raise AdapterError with the reason unless rotations can be written in this layout."""
    if to == "peft":
        require_folder(out)
    elif to == "kohya":
        raise AdapterError(
            "kohya's OFT turns a layer's output side, R W, and ours the input side, W Rᵀ: neither "
            "can be written as the other. Write it --to selma, peft or fused."
        )
    elif to == "onetrainer":
        raise AdapterError(
            "OneTrainer turns by a series of five terms, which is no rotation: it would generate "
            "other images with these numbers. Write it --to selma, peft or fused."
        )
    elif to != "selma":
        raise AdapterError(f"Rotations are written --to selma, peft or fused, but not {to!r}.")
    elif out.suffix != ".safetensors":
        raise AdapterError(f"Our adapter is one .safetensors file, but {out} came.")


def _foreign(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    base: Layers | None,
    coft_eps: float | None,
) -> RotationFile:
    if any(name.endswith(".oft_blocks") for name in tensors):
        raise AdapterError(
            f"{path} is kohya's OFT, which turns a layer's output side, R W. Ours turn the input "
            "side, W Rᵀ, and neither can be written as the other. Fuse it with kohya's own tools."
        )
    if any(name.endswith(".oft_R.weight") for name in tensors):
        return _onetrainer(path, tensors, metadata, base)
    return _released(path, tensors, metadata, base, coft_eps)


def _onetrainer(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], base: Layers | None
) -> RotationFile:
    spelled: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        if rest != "oft_R.weight":
            # scaled_oft divides by a number that the file does not hold in full.
            raise AdapterError(
                f"{path} must hold oft_R alone, but has {name!r}: {rest} is not read."
            )
        spelled[prefix] = tensor
    keys, models = denoiser_keys(path, spelled, base=base)
    vectors = {keys[name]: tensor for name, tensor in spelled.items()}

    def give(key: str) -> Turn:
        vector = vectors[key].float()
        checked(vector, path=path, key=key)
        return Turn(skew_entries=of_series(vector, 5, path=path, key=key))

    return RotationFile(
        path,
        "onetrainer",
        names.sorted_layers(vectors),
        give,
        lineage_of(metadata, path),
        models=models,
    )


@dataclass
class _Raw:
    """One layer of the released code."""

    r: Tensor
    """[r, b, b], or [b, b] of a block that all share."""
    other_way: bool = False
    """Cayley's other sign: shared blocks of the control code."""
    eps: float | None = None
    """COFT's, on the released scale."""
    scales: Tensor | None = None


def _released(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    base: Layers | None,
    coft_eps: float | None,
) -> RotationFile:
    if any("_oft." in name for name in tensors):
        spelled = dict(_of_processors(path, tensors))
    else:
        spelled = dict(_of_control(tensors, coft_eps))
    if not spelled:
        raise AdapterError(f"{path} must hold rotations of the released OFT code, but has none.")
    keys, models = denoiser_keys(path, spelled, base=base)
    raw = {keys[name]: layer for name, layer in spelled.items()}

    def give(key: str) -> Turn:
        layer = raw[key]
        return Turn(
            skew_entries=_of_released(layer, path=path, key=key),
            log_magnitudes=_logarithms(layer.scales, path=path, key=key),
        )

    return RotationFile(
        path,
        "released",
        names.sorted_layers(raw),
        give,
        lineage_of(metadata, path),
        models=models,
    )


def _of_processors(path: Path, tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, _Raw]]:
    """oft-db and oft-t2i: "<block>.attn1.processor.to_q_oft.R", with eps and a flag beside it."""
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.+)\.processor\.(to_(?:q|k|v|out))_oft\.R", name)
        if match is None:
            if not re.search(r"_oft\.(cross_attention_dim|hidden_size|oft_eps|oft_is_coft)$", name):
                raise AdapterError(f"{path} has {name!r}, which the released OFT code never wrote.")
            continue
        stem = name.removesuffix(".R")
        held = f"{stem}.oft_is_coft" in tensors and bool(tensors[f"{stem}.oft_is_coft"])
        eps = float(tensors[f"{stem}.oft_eps"]) if held else None
        to = "to_out.0" if match[2] == "to_out" else match[2]
        yield f"{match[1]}.{to}", _Raw(tensor, eps=eps)


def _of_control(tensors: Mapping[str, Tensor], eps: float | None) -> Iterable[tuple[str, _Raw]]:
    """oft-control: "model.diffusion_model.input_blocks.1.1....attn1.to_q.R", of a whole model."""
    for name, tensor in tensors.items():
        if name.endswith(".R"):
            stem = name.removesuffix(".R")
            shared = tensor.dim() == 2
            yield stem, _Raw(tensor, shared, eps, tensors.get(f"{stem}.scaling_factors"))


def _of_released(raw: _Raw, *, path: Path, key: str) -> Tensor:
    shared = raw.r.dim() == 2
    blocks = raw.r.float().reshape(-1, *raw.r.shape[-2:])
    if blocks.dim() != 3 or blocks.shape[1] != blocks.shape[2] or blocks.shape[1] < 2:
        raise AdapterError(f"{path}: R of {key} cannot be {list(raw.r.shape)}.")
    if raw.eps is not None:
        # Their projection looks at R itself, which training keeps skew, before it is made skew.
        size = blocks.shape[-1]
        radius = ball(raw.eps, "released", size=size, blocks=len(blocks), shared=shared)
        norm = blocks.flatten(1).norm(dim=1)[:, None, None]
        blocks = torch.where(norm > radius, blocks * (radius / norm.clamp(min=1e-30)), blocks)
    vector = triangle((blocks - blocks.mT) / 2)
    return vector if raw.other_way else -vector


def _logarithms(scales: Tensor | None, *, path: Path, key: str) -> Tensor | None:
    if scales is None:
        return None
    if not bool((scales > 0).all()):
        raise AdapterError(f"{path}: magnitudes of {key} must be positive to be kept.")
    return scales.float().flatten().log()


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The rotations of a pickle, of which nothing is run."""
    try:
        # Checkpoints of whole models are larger than what is wanted of them; old files cannot be
        # mapped into memory.
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, ValueError, RuntimeError, EOFError, LookupError, UnpicklingError) as error:
        raise AdapterError(
            f"{path} must be a checkpoint of plain tensors, but: {str(error).splitlines()[0]}."
        ) from error
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise AdapterError(f"{path} must hold tensors by name, but has {kind_in_words(state)}.")
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and (_ROTATES.search(name) or "_oft." in name)
    }
