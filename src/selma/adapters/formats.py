"""One LoRA as a file that others read: diffusers, kohya, PEFT folder.

Tensors and scales come through each of them bit for bit; only names and headers differ. Equal
adapters give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from selma.adapters import names
from selma.adapters.files import (
    OUR_KEY,
    PEFT_KEY,
    Lineage,
    as_json,
    lineage_json,
    write_safetensors,
)
from selma.adapters.layers import Layers
from selma.adapters.models import FAMILIES, Family, Model, read_model, require_fit
from selma.adapters.peft_settings import PEFT_FILE, PEFT_SETTINGS
from selma.adapters.reading import (
    RANKS_KEY,
    AdapterFile,
    LayerFile,
    announce_left_out,
    read_adapter,
)
from selma.adapters.resolving import models_of
from selma.disk import make_folder
from selma.errors import AdapterError
from selma.progress import console
from selma.workspace import write_bytes

Format = Literal["diffusers", "kohya", "peft"]
FORMATS: tuple[str, ...] = get_args(Format)

PROGRAMS: dict[str, str] = {
    "diffusers": "For diffusers' load_lora_weights. ComfyUI, A1111, Forge and sd-scripts find no "
    "layer under these names, and generate without it: for them, convert it --to kohya.",
    "kohya": "For ComfyUI, A1111, Forge and sd-scripts.",
    "peft": "For PEFT's from_pretrained.",
}
"""Format → which programs read it, and which do not."""

Give = Callable[[str], tuple[Tensor, Tensor]]
"""Layer → its A and B, of any shape with the right number of entries."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA to be written: layers by our names, and a function that gives their factors."""

    layers: Mapping[str, LayerFile]
    give: Give
    lineage: Lineage
    notes: Mapping[str, str]
    """Further entries of the header."""


def convert_lora(source: Path, out: Path, *, to: str, base: str | None = None) -> list[Path]:
    """The files written: the LoRA at `source` in another format, its tensors unchanged.

    `base` ("toybox" or a diffusers folder) is needed only where the layers do not tell which names
    the format has for them; where it is given, the adapter must fit it.
    """
    model = None if base is None else read_model(base)
    file = read_adapter(source, base=model.layers if model else None)
    if model:
        require_fit(file.layers, model.layers, who=source)
    announce_left_out(file)
    return write(out, loaded(file), to=to, model=model)


def loaded(file: AdapterFile) -> Adapter:
    """An adapter on disk, ready to be written again."""
    return Adapter(file.layers, file.tensors, file.lineage, file.notes)


def write(out: Path, adapter: Adapter, *, to: str, model: Model | None = None) -> list[Path]:
    """Write the adapter; a PEFT format makes `out` a folder. Whole or nothing, file by file."""
    require_writable(out, adapter.layers, adapter.lineage, to=to, model=model)
    if to == "peft":
        return _write_peft(out, adapter)
    make_folder(out.parent)
    if to == "kohya":
        _write_kohya(out, adapter, model)
    else:
        metadata = {PEFT_KEY: as_json(_diffusers_settings(adapter.layers))}
        named = {key: _diffusers_name(key) for key in adapter.layers}
        _write(out, adapter, named, ("lora_A", "lora_B"), metadata)
    return [out]


def require_writable(
    out: Path,
    layers: Mapping[str, LayerFile],
    lineage: Lineage,
    *,
    to: str,
    model: Model | None = None,
) -> None:
    """Raise AdapterError unless a LoRA of these layers can be written at `out` in this format."""
    if to not in FORMATS:
        raise AdapterError(f"The format must be one of {', '.join(FORMATS)}, but is {to!r}.")
    if to == "peft" and out.suffix == ".safetensors":
        raise AdapterError(f"A peft adapter is a folder, but {out} came.")
    if to != "peft" and out.suffix != ".safetensors":
        raise AdapterError(f"A {to} adapter is one .safetensors file, but {out} came.")
    if to == "kohya":
        _kohya_names(layers, lineage, model)


def _write(
    path: Path,
    adapter: Adapter,
    named: Mapping[str, str],
    factors: tuple[str, str],
    metadata: Mapping[str, str],
    *,
    alphas: bool = False,
) -> None:
    tensors: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for key, name in sorted(named.items(), key=lambda pair: f"{pair[1]}."):
        layer = adapter.layers[key]
        if alphas:
            tensors[f"{name}.alpha"] = ((), _constant(layer.alpha))
        for which, factor in enumerate(factors):
            full = f"{name}.{factor}.weight"
            shape = shapes(layer)[which]
            tensors[full] = (shape, _giving(adapter.give, key, which, shape))
            dtypes[full] = layer.dtypes[which]
    header = {
        "format": "pt",
        OUR_KEY: lineage_json(adapter.lineage),
        **adapter.notes,
        **metadata,
    }
    write_safetensors(path, tensors, metadata=header, dtypes=dtypes)


def shapes(layer: LayerFile) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A's and B's shapes in a file: [r, in] and [out, r], or those of convolutions."""
    out, inside = layer.shape
    if layer.kernel is None:
        return (layer.rank, inside), (out, layer.rank)
    high, wide = layer.kernel
    return (layer.rank, inside // (high * wide), high, wide), (out, layer.rank, 1, 1)


def _giving(give: Give, key: str, which: int, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    return lambda: give(key)[which].reshape(shape)


def _constant(value: float) -> Callable[[], Tensor]:
    return lambda: torch.tensor(value, dtype=torch.float32)


def _diffusers_name(key: str) -> str:
    component, module = names.split(key)
    # diffusers takes "text_model." off where the installed encoder has none, but never adds it.
    return f"{component}.{names.with_text_model(component, module)}"


def _diffusers_settings(layers: Mapping[str, LayerFile]) -> dict[str, Any]:
    """The header that tells diffusers ranks and alphas; without it alpha would be the rank."""
    settings = {}
    for component in names.components():
        ours = _of(component, layers)
        for key, value in (_peft_settings(component, ours) if ours else {}).items():
            settings[f"{component}.{key}"] = value
    return settings


def _of(component: str, layers: Mapping[str, LayerFile]) -> dict[str, LayerFile]:
    """Module → layer, of one component."""
    return {
        module: layer
        for key, layer in layers.items()
        for part, module in [names.split(key)]
        if part == component
    }


def _peft_settings(component: str, layers: Mapping[str, LayerFile]) -> dict[str, Any]:
    rank = _commonest(layer.rank for layer in layers.values())
    alpha = _commonest(layer.alpha for layer in layers.values())
    # A text encoder's layers may lie below "text_model.", which the pattern must not exclude.
    start = "" if component in names.TEXTS else "^"
    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": _number(alpha),
        "target_modules": sorted(layers),
        "bias": "none",
    }
    ranks = {f"{start}{m}": layer.rank for m, layer in layers.items() if layer.rank != rank}
    alphas = {
        f"{start}{m}": _number(layer.alpha) for m, layer in layers.items() if layer.alpha != alpha
    }
    return settings | ({"rank_pattern": ranks} if ranks else {}) | (
        {"alpha_pattern": alphas} if alphas else {}
    )  # fmt: skip


def _commonest(values: Iterable[Any]) -> Any:
    return min(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))[0]


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _write_peft(out: Path, adapter: Adapter) -> list[Path]:
    """One folder, or one for each component where there are several."""
    components = [c for c in names.components() if _of(c, adapter.layers)]
    written = []
    for component in components:
        folder = out if len(components) == 1 else out / component
        make_folder(folder)
        named = {
            f"{component}.{module}": f"base_model.model.{_in_model(component, module)}"
            for module in _of(component, adapter.layers)
        }
        _write(folder / PEFT_FILE, adapter, named, ("lora_A", "lora_B"), {})
        about, library = names.PEFT_CLASSES.get(component, (None, None))
        settings = _peft_settings(component, _of(component, adapter.layers)) | {
            "peft_type": "LORA",
            "inference_mode": True,
            "base_model_name_or_path": None,
            "auto_mapping": about and {"base_model_class": about, "parent_library": library},
        }
        write_bytes(folder / PEFT_SETTINGS, as_json(settings).encode())
        written += [folder / PEFT_SETTINGS, folder / PEFT_FILE]
    return written


def _in_model(component: str, module: str) -> str:
    # As transformers 5 has them: only the encoder with a projection has a "text_model" inside.
    return names.with_text_model(component, module) if component == names.TEXT_2 else module


def _write_kohya(path: Path, adapter: Adapter, model: Model | None) -> None:
    families, named = _kohya_names(adapter.layers, adapter.lineage, model)
    family = next(iter(families)) if len(families) == 1 else None
    adapter = _of_one_rank(adapter)
    _warn_of_scales(path, adapter)
    metadata = kohya_metadata(adapter, family, model)
    _write(path, adapter, named, ("lora_down", "lora_up"), metadata, alphas=True)


def _kohya_names(
    layers: Mapping[str, LayerFile], lineage: Lineage, model: Model | None
) -> tuple[set[Family | None], dict[str, str]]:
    """What files may call the family, and layer → kohya's name of it."""
    families, known = _families(layers, lineage, model)
    named = {}
    for key in layers:
        name = known.kohya_name(key, sdxl=families == {"sdxl"})
        if name is None:
            raise AdapterError(f"kohya has no name for {key}. Write it --to diffusers or peft.")
        named[key] = name
    return families, named


def _families(
    layers: Mapping[str, LayerFile], lineage: Lineage, model: Model | None
) -> tuple[set[Family | None], Layers]:
    """What files call the family, where it may be several of one way to name layers; and these."""
    if model:
        return {model.family}, model.layers
    shapes = {key: layer.weight_shape for key, layer in layers.items()}
    # An adapter that names its base may be for any, whose layers only seem to be a known model's.
    known = models_of(shapes, exact=lineage.base is not None)
    # toybox's layers are named as those of SD 1 and SD 2 are.
    families = {FAMILIES.get(layers.model) for layers in known}
    if not families or ("sdxl" in families and len(families) > 1):
        raise AdapterError(
            "kohya's names differ between SD and SDXL, and these layers do not tell which they "
            "belong to. Name the model with --base (toybox or a diffusers folder)."
        )
    return families, known[0]


def _of_one_rank(adapter: Adapter) -> Adapter:
    """The adapter with zeros up to its largest rank, if its layers' scales are equal.

    diffusers (0.42) gives all layers of a kohya file one alpha, so that layers of different ranks
    would be scaled wrongly there. The header says what the ranks were, and `reading` takes the
    zeros off again. Layers of different scales stay as they are: those other programs read right.
    """
    ranks = {key: layer.rank for key, layer in adapter.layers.items()}
    scales = {layer.scale for layer in adapter.layers.values()}
    if len(set(ranks.values())) == 1 or len(scales) > 1:
        return adapter
    top, scale = max(ranks.values()), scales.pop()

    def give(key: str) -> tuple[Tensor, Tensor]:
        a, b = (factor.flatten(1) for factor in adapter.give(key))
        more = top - ranks[key]
        return torch.cat([a, a.new_zeros(more, a.shape[1])]), torch.cat(
            [b, b.new_zeros(b.shape[0], more)], dim=1
        )

    layers = {k: replace(layer, rank=top, alpha=scale * top) for k, layer in adapter.layers.items()}
    return Adapter(layers, give, adapter.lineage, {**adapter.notes, RANKS_KEY: as_json(ranks)})


def _warn_of_scales(path: Path, adapter: Adapter) -> None:
    scales = sorted({layer.scale for layer in adapter.layers.values()})
    if len(scales) > 1:
        console.print(
            f"{path}: the layers have {len(scales)} different scales (alpha / rank), from "
            f"{scales[0]:g} to {scales[-1]:g}. kohya, ComfyUI and A1111 read them right, but "
            "diffusers (0.42) misreads such a kohya file. For diffusers, write it --to diffusers.",
            highlight=False,
            soft_wrap=True,
        )


_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
_SIZES = {"sd1": 512, "sd2": 768, "sdxl": 1024}


def kohya_metadata(adapter: Adapter, family: Family | None, model: Model | None) -> dict[str, str]:
    """kohya's ss_* entries and those of ModelSpec 1.0.1, without times: all are strings.

    Where the family is not known (SD 1 and SD 2 have the same layers), nothing is said of the base.
    """
    made_by = adapter.lineage.made_by
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": _one_or_dynamic(layer.rank for layer in adapter.layers.values()),
        "ss_network_alpha": _one_or_dynamic(
            float(layer.alpha) for layer in adapter.layers.values()
        ),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": _title(made_by),
        **(_about_base(family, model) if family else {}),
    }
    if isinstance(made_by.get("experts"), Mapping):
        metadata["modelspec.merged_from"] = ", ".join(sorted(made_by["experts"]))
    return metadata


def _about_base(family: Family, model: Model | None) -> dict[str, str]:
    # Whether SD 2 predicts velocity only the model tells; most of its adapters are for that one.
    velocity = model.prediction == "v_prediction" if model else family == "sd2"
    sd2 = "stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512"
    architecture = {
        "sd1": "stable-diffusion-v1",
        "sd2": sd2,
        "sdxl": "stable-diffusion-xl-v1-base",
    }[family]
    size = model.image_px if model else _SIZES[family]
    return {
        "ss_base_model_version": _VERSIONS[family] + ("_v" if velocity and family == "sd2" else ""),
        "ss_v2": str(family == "sd2"),
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": (
            "https://github.com/Stability-AI/generative-models" if family == "sdxl" else "diffusers"
        ),
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }


def _one_or_dynamic(values: Iterable[Any]) -> str:
    """The one value, or "Dynamic", kohya's word for layers that differ."""
    different = set(values)
    return str(different.pop()) if len(different) == 1 else "Dynamic"


def _title(made_by: Mapping[str, Any]) -> str:
    if "method" in made_by:
        return f"SELMA merge ({made_by['method']})"
    return f"SELMA expert {made_by['skill']}" if "skill" in made_by else "LoRA"
