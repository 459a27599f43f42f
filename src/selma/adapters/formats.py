"""One LoRA as a file that others read: one row for each layout.

Tensors and scales come through each of them bit for bit; only names and headers differ. Equal
adapters give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

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
from selma.adapters.joining import joined
from selma.adapters.layers import Layers
from selma.adapters.layouts.layout import Layout
from selma.adapters.models import FAMILIES, Family, Model, read_model, require_fit, require_possible
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

Format = Literal["diffusers", "kohya", "peft", "comfyui", "onetrainer", "simpletuner"]
FORMATS: tuple[str, ...] = get_args(Format)

PROGRAMS: dict[str, str] = {
    "diffusers": "For diffusers' load_lora_weights. ComfyUI, A1111, Forge and sd-scripts find no "
    "layer of a UNet under these names, and generate without it: for them, convert it --to kohya. "
    "What of a transformer a program passes over, `selma inspect FILE --for PROGRAM` lists.",
    "kohya": "For ComfyUI, A1111, Forge and sd-scripts; of Z-Image for musubi-tuner, not ComfyUI.",
    "peft": "For PEFT's from_pretrained.",
    "comfyui": "For ComfyUI, by the original model's own names; ai-toolkit's files have them, too.",
    "onetrainer": "For OneTrainer; ComfyUI reads its SD 3 and FLUX files as well.",
    "simpletuner": "For SimpleTuner and LyCORIS, and ComfyUI.",
}
"""Format → which programs read it, and which do not."""


class Spelled(NamedTuple):
    """How a layout of one file that has no settings in its header names tensors."""

    denoiser: str
    """Before the layers of a transformer; a UNet's have "lora_unet_" where that joins by "_"."""
    original: bool
    """Whether layers have the original model's names, rather than diffusers'."""
    texts: Mapping[str, str] = {}
    """Text encoder → what its layers have before them."""
    joint: str = "_"
    factors: tuple[str, str] = ("lora_down", "lora_up")
    alphas: bool | None = True
    """Whether each layer says its alpha; None if those alone do that have another than the rank."""
    t5: Mapping[str, str] = {}
    """As `texts`, where the text encoder is a T5."""
    gemma: Mapping[str, str] = {}
    """As `texts`, where the text encoder is a Gemma."""

    def text(self, key: str) -> str | None:
        """What a text encoder's layer has before its path; None if the layout has no name."""
        component, module = names.split(key)
        if names.of_gemma(module):
            return self.gemma.get(component)
        return (self.t5 if names.of_t5(module) else self.texts).get(component)


_KOHYA_TEXTS = {names.TEXT: "lora_te1_", names.TEXT_2: "lora_te2_"}
SPELLED = {
    "kohya": Spelled(
        "lora_unet_",
        True,
        _KOHYA_TEXTS,
        t5=dict.fromkeys(names.TEXTS, "lora_te3_"),
        gemma={names.TEXT: "lora_te_"},
    ),
    "comfyui": Spelled(
        "diffusion_model.",
        True,
        {
            names.TEXT: "text_encoders.clip_l.transformer.",
            names.TEXT_2: "text_encoders.clip_g.transformer.",
        },
        joint=".",
        factors=("lora_A", "lora_B"),
        alphas=None,
        t5=dict.fromkeys(names.TEXTS, "text_encoders.t5xxl.transformer."),
        gemma={names.TEXT: "text_encoders.gemma2_2b.transformer.model."},
    ),
    "onetrainer": Spelled(
        "lora_transformer_",
        False,
        _KOHYA_TEXTS,
        t5={names.TEXT: "lora_te_", names.TEXT_2: "lora_te2_", names.TEXT_3: "lora_te3_"},
        gemma={names.TEXT: "lora_te_"},
    ),
    "simpletuner": Spelled("lycoris_", False),
}
"""Layout of one file → its names, of transformers; and of UNets but for kohya's."""

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
    else:
        require_possible(file)
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
    if to in SPELLED and _of_transformer(adapter.layers):
        _write_transformer(out, adapter, model, to=to)
    elif to == "kohya":
        _write_kohya(out, adapter, model)
    elif to in SPELLED:
        named = _unet_names(adapter.layers, adapter.lineage, model, to=to)
        _write(out, adapter, named, SPELLED[to].factors, {}, alphas=SPELLED[to].alphas)
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
    if to in SPELLED and _of_transformer(layers):
        _layout(layers, model, to=to)
    elif to == "kohya":
        _kohya_names(layers, lineage, model)
    elif to in SPELLED:
        _unet_names(layers, lineage, model, to=to)


def _write(
    path: Path,
    adapter: Adapter,
    named: Mapping[str, str],
    factors: tuple[str, str],
    metadata: Mapping[str, str],
    *,
    alphas: bool | None = False,
) -> None:
    """alphas: whether each layer's is said; None if only those are that are not the rank."""
    tensors: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for key, name in sorted(named.items(), key=lambda pair: f"{pair[1]}."):
        layer = adapter.layers[key]
        if alphas or (alphas is None and layer.alpha != layer.rank):
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
        own = _of(component, adapter.layers)
        model = names.T5 if any(map(names.of_t5, own)) else component
        about, library = names.PEFT_CLASSES.get(model, (None, None))
        settings = _peft_settings(component, own) | {
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


def _of_transformer(layers: Mapping[str, LayerFile]) -> bool:
    """Whether the layers are a transformer's, perhaps with text encoders, or a T5's or a
    Gemma's, which no UNet goes with."""
    parts = map(names.split, layers)
    return any(
        c not in (names.UNET, *names.TEXTS) or names.of_t5(m) or names.of_gemma(m) for c, m in parts
    )


def _write_transformer(path: Path, adapter: Adapter, model: Model | None, *, to: str) -> None:
    spelled, layout = SPELLED[to], _layout(adapter.layers, model, to=to)
    original = _original(layout, to=to)
    own = {key: layer for key, layer in adapter.layers.items() if not _is_text(key)}
    layers, give, notes = dict(adapter.layers), adapter.give, dict(adapter.notes)
    if original:
        shapes = model.shapes if model else {}
        whole = joined(own, adapter.give, layout, shapes=shapes)
        layers = {k: layer for k, layer in layers.items() if k not in own} | dict(whole.layers)
        give = lambda key: (whole.give if key in whole.layers else adapter.give)(key)  # noqa: E731
        notes |= {RANKS_KEY: as_json(whole.ranks)} if whole.ranks else {}
    named = {key: _spelled_name(key, spelled) for key in layers}
    changed = Adapter(layers, give, adapter.lineage, notes)
    metadata = {}
    if to == "kohya":
        module = {"ss_network_module": layout.kohya_module}
        metadata = kohya_metadata(changed, None, model) | module
    _write(path, changed, named, spelled.factors, metadata, alphas=spelled.alphas)


def _is_text(key: str) -> bool:
    return names.split(key)[0] in names.TEXTS


def _original(layout: Layout, *, to: str) -> bool:
    return SPELLED[to].original and not (to == "kohya" and layout.kohya_splits)


def _spelled_name(key: str, spelled: Spelled) -> str:
    component, path = names.split(key)
    prefix = spelled.denoiser
    if component in names.TEXTS:
        prefix, path = spelled.text(key) or "", names.with_text_model(component, path)
    return prefix + path.replace(".", spelled.joint)


def _layout(layers: Mapping[str, LayerFile], model: Model | None, *, to: str) -> Layout:
    """The names of the family that the layers are of. Raises AdapterError unless these names are
    known, the same in all families that the layers may be of, and there for each layer."""
    spelled = SPELLED[to]
    for key in layers:
        if _is_text(key) and spelled.text(key) is None:
            raise AdapterError(f"{to} has no name for {key}. Write it --to diffusers or peft.")
    if model and model.layout is None:
        raise AdapterError(f"No names but diffusers' are known of {model.folder}'s layers.")
    shapes = {key: layer.weight_shape for key, layer in layers.items()}
    known = (model.layers,) if model else models_of(shapes, exact=False)
    layouts = list(dict.fromkeys(layers.layout for layers in known if layers.layout))
    own = [names.split(key)[1] for key in layers if not _is_text(key)]
    ways: list[tuple[object, ...]] = []
    for layout in layouts:
        places = [layout.module(module) for module in own]
        ways.append(
            tuple(place and (place.path, place.modules) for place in places)
            if _original(layout, to=to)
            else ()
        )
    if not ways or any(way != ways[0] for way in ways):
        titles = " and ".join(layout.title for layout in layouts)
        raise AdapterError(
            f"{to}'s names are the original model's, which these layers do not tell"
            + (f": {titles} have them all" if titles else "")
            + ". Name the model with --base."
        )
    return layouts[0]


def _unet_names(
    layers: Mapping[str, LayerFile], lineage: Lineage, model: Model | None, *, to: str
) -> dict[str, str]:
    """Layer of a UNet or its text encoders → its name in this layout."""
    spelled = SPELLED[to]
    _, known = _families(layers, lineage, model) if spelled.original else (None, None)
    prefix = "lora_unet_" if to == "onetrainer" else spelled.denoiser
    named = {}
    for key in layers:
        component, path = names.split(key)
        if component in names.TEXTS and spelled.text(key) is not None:
            named[key] = _spelled_name(key, spelled)
            continue
        own = known.originals.get(path) if known else path
        if component in names.TEXTS or own is None:
            raise AdapterError(f"{to} has no name for {key}. Write it --to diffusers or peft.")
        named[key] = prefix + own.replace(".", spelled.joint)
    return named


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
    # Text encoders alone may be a transformer's, too, whose kohya names are the same.
    known = tuple(layers for layers in known if layers.layout is None)
    # toybox's layers are named as those of SD 1 and SD 2 are.
    families = {FAMILIES.get(layers.model) for layers in known}
    if not families or ("sdxl" in families and len(families) > 1):
        raise AdapterError(
            "kohya's names differ between SD and SDXL, and these layers do not tell which they "
            "belong to. Name the model with --base (a short name of selma bases, or a diffusers "
            "folder)."
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
