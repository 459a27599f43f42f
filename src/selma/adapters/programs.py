"""Which of a file's keys a program would pass over: tables of the names that each one looks for.

A program that does not know a name leaves that layer as it is, most often without a word. Tests
hold the tables against diffusers' own loaders, and against ComfyUI's own maps of names as facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from selma.adapters import names
from selma.adapters.folders import lora_files
from selma.adapters.headers import opened, tensor_names
from selma.adapters.layers import Layers, titles
from selma.adapters.layouts.layout import Layout
from selma.adapters.models import require_possible
from selma.adapters.reading import AdapterFile, read_adapter
from selma.errors import AdapterError, ConfigError
from selma.paths import AnyPath, as_path
from selma.texts import quoted

AB = r"\.lora_[AB]\.weight"
DOWN_UP = r"\.lora_(down|up)\.weight"
ALPHA = r"\.alpha"
KOHYA = f"{DOWN_UP}|{ALPHA}"
ANY = f"{AB}|{KOHYA}|_lora\\.(down|up)\\.weight|\\.lora(_linear_layer)?\\.(down|up)\\.weight"
COMFY = f"{ANY}|\\.lora_[AB](\\.default\\.weight)?"
_BLOCKS = r"(single_)?transformer_blocks\..*|(layers|noise_refiner|context_refiner)\..*"


@dataclass(frozen=True)
class Looks:
    """One way in which a program names layers."""

    prefix: str
    original: bool = False
    """Whether by the original model's names, rather than by diffusers'."""
    joint: str = "."
    endings: str = AB
    """Pattern of what follows a layer's name."""
    only: str = ".*"
    """Pattern of diffusers' layers that it is looked for."""


def flat(prefix: str, *, original: bool = False, only: str = ".*") -> Looks:
    """kohya's way: joined by "_", with alphas."""
    return Looks(prefix, original, "_", KOHYA, only)


_SD3, _FLUX, _FLUX2 = "SD3Transformer2DModel", "FluxTransformer2DModel", "Flux2Transformer2DModel"
_CHROMA, _SANA = "ChromaTransformer2DModel", "SanaTransformer2DModel"
_ZIMAGE, _QWEN = "ZImageTransformer2DModel", "QwenImageTransformer2DModel"
_LUMINA = "Lumina2Transformer2DModel"
_ATTENTION = r".*\.attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_OUTER = r"(x|context)_embedder|norm_out\.linear|proj_out|time_text_embed\..*"

_FLUX_OF_DIFFUSERS = (
    Looks("transformer.", endings=f"{AB}|{ALPHA}"),
    flat("lora_unet_", original=True, only=_BLOCKS),
    Looks("diffusion_model.", True, ".", KOHYA, _BLOCKS),
    flat("lora_transformer_", only=f"{_ATTENTION}|{_OUTER}"),
)
_NATIVE = (
    Looks("lora_unet_", True, "_", COMFY),
    Looks("diffusion_model.", True, ".", COMFY),
)


def _comfy(*prefixes: str, only: str = ".*") -> tuple[Looks, ...]:
    """diffusers' names behind these prefixes, beside the original's."""
    own = [Looks(p, False, "_" if p.endswith("_") else ".", COMFY, only) for p in prefixes]
    return (*_NATIVE, *own)


_FLUX_OF_COMFY = ("transformer.", "lycoris_", "lora_transformer_", "")
TRANSFORMERS: dict[str, dict[str, tuple[Looks, ...]]] = {
    "diffusers": {
        _SD3: (Looks("transformer."),),
        _FLUX: _FLUX_OF_DIFFUSERS,
        _CHROMA: _FLUX_OF_DIFFUSERS,
        _FLUX2: (
            Looks("transformer."),
            flat(
                "lora_unet_",
                original=True,
                only=rf"{_BLOCKS}|(x|context)_embedder|proj_out|.*\.timestep_embedder\..*",
            ),
            Looks("diffusion_model.", original=True),
            Looks("base_model.model.", original=True),
            Looks("diffusion_model.", only=_BLOCKS),
            Looks("base_model.model.", only=_BLOCKS),
        ),
        _ZIMAGE: (
            Looks("transformer."),
            Looks("diffusion_model.", endings=f"{AB}|{KOHYA}"),
            flat("lora_unet_"),
            flat("lora_unet_", original=True, only=r".*\.attention\..*"),
        ),
        _QWEN: (
            Looks("transformer."),
            Looks("diffusion_model.", endings=f"{AB}|{KOHYA}"),
            flat("lora_unet_"),
        ),
        _LUMINA: (Looks("transformer."), Looks("diffusion_model.", True, only=_BLOCKS)),
        _SANA: (Looks("transformer."),),
    },
    "comfyui": {
        _SD3: _comfy("transformer.", "base_model.model.", "lora_transformer_", "lycoris_"),
        _FLUX: _comfy(*_FLUX_OF_COMFY),
        _FLUX2: _comfy(
            *_FLUX_OF_COMFY, only=rf"{_BLOCKS}|(x|context)_embedder|norm_out.*|proj_out"
        ),
        _CHROMA: _comfy(*_FLUX_OF_COMFY, only=r"(?!distilled).*"),
        _ZIMAGE: _comfy("diffusion_model.", "transformer.", "lycoris_", ""),
        _QWEN: _comfy("transformer.", "lycoris_", ""),
        _LUMINA: _NATIVE,
    },
    "kohya": {
        family: (flat("lora_unet_", original=family not in (_ZIMAGE, _QWEN)),)
        for family in (_SD3, _FLUX, _FLUX2, _CHROMA, _LUMINA, _ZIMAGE, _QWEN)
    },
    "a1111": {_SD3: (Looks("transformer.", only=r".*\.attn\.to_([qkv]|out\.0)"),)},
}
"""Program → diffusers' class → the ways in which it names this family's layers."""

_PROCESSORS = r"(?!.*\.to_(q|k|v|out)).*"
_OWN, _NUMBERED = flat("lora_unet_"), flat("lora_unet_", original=True)
_UNET_OF_COMFY = (
    *_NATIVE,
    Looks("lora_unet_", False, "_", COMFY),
    Looks("lycoris_", False, "_", COMFY),
    *(Looks(p, endings=COMFY, only=rf"(?!add_embedding){_PROCESSORS}") for p in ("unet.", "")),
)
UNETS: dict[str, tuple[tuple[Looks, ...], tuple[Looks, ...]]] = {
    "diffusers": (
        (Looks("unet.", endings=ANY), _OWN),
        (Looks("unet.", endings=ANY), _OWN, _NUMBERED),
    ),
    "comfyui": (_UNET_OF_COMFY, _UNET_OF_COMFY),
    "kohya": ((_OWN,), (_NUMBERED,)),
    "a1111": (
        (_OWN, _NUMBERED),
        # Of what has other numbers or other names in SDXL than it makes of diffusers'.
        (flat("lora_unet_", only=r"(?!add_embedding|up_blocks\.0\.upsamplers).*"), _NUMBERED),
    ),
}
"""Program → the ways in which it names the layers of SD's UNets, and those of SDXL's."""

TEXTS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "diffusers": {
        names.TEXT: ("text_encoder.", "lora_te_", "lora_te1_"),
        names.TEXT_2: ("text_encoder_2.", "lora_te2_"),
    },
    "comfyui": {
        names.TEXT: (
            "text_encoder.", "lora_te_", "lora_te1_", "text_encoders.clip_l.transformer.",
            "text_encoders.clip_h.transformer.",
        ),
        names.TEXT_2: ("text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer."),
    },
    "kohya": {names.TEXT: ("lora_te_", "lora_te1_"), names.TEXT_2: ("lora_te2_",)},
}  # fmt: skip
"""Program → text encoder → what stands before its layers, which begin "text_model.encoder"."""

A1111_TEXTS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "SD 1": {names.TEXT: ("lora_te_", "lora_te1_")},
    "SD 2": {names.TEXT: ("lora_te_",)},
    "SDXL": {names.TEXT: ("lora_te1_",), names.TEXT_2: ("lora_te2_",)},
}
"""A1111 looks for each model's own, and for none of a transformer's."""

OPEN_CLIP = {"SD 2": names.TEXT, "SDXL": names.TEXT_2}
"""The text encoder whose q, k, v and out are one layer in A1111, which it changes only if a file
has all four."""

_T5 = "text_encoders.t5xxl.transformer."
T5S: dict[str, Mapping[str, tuple[str, ...]]] = {
    "comfyui": {
        _SD3: (_T5, "lora_te3_"),
        _FLUX: (_T5, "lora_te2_", "lora_te3_"),
        _CHROMA: (_T5, "lora_te1_"),
    },
    "kohya": {_SD3: ("lora_te3_",), _FLUX: ("lora_te3_",), _CHROMA: ("lora_te3_",)},
}
"""Program → diffusers' class → what stands before the layers of its T5; none in other programs."""

GEMMAS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "comfyui": {_LUMINA: ("text_encoders.gemma2_2b.transformer.model.",)},
    "kohya": {_LUMINA: ("lora_te_",)},
}
"""As `T5S`, of Gemma's layers."""

PROGRAMS = tuple(TRANSFORMERS)

_COMFY_IN_UNETS = (
    "looks for the names that ComfyUI looks for, in files of SD 1, SD 2 and SDXL: for those, take "
    "--for comfyui. Of other models nothing is known"
)
RELATED = {
    "forge": f"Forge {_COMFY_IN_UNETS}.",  # lllyasviel's, dfdcbab
    "reforge": f"reForge {_COMFY_IN_UNETS}.",  # Panchovix's, 3b56b26
}
"""Program without a table of its own → what is known of it, in a sentence, by its code."""

ALIASES = {
    "comfy": "comfyui",
    "automatic1111": "a1111",
    "webui": "a1111",
    "stable-diffusion-webui": "a1111",
    "sd-scripts": "kohya",
    "kohya_ss": "kohya",
    "musubi-tuner": "kohya",
}
"""What else people call a program that is known; its table is not taken unsaid."""


def not_loaded(source: AnyPath, program: str, *, base: Layers | None = None) -> list[str]:
    """The names of the file's tensors that the program passes over, sorted.

    Raises AdapterError unless the file is a LoRA whose family is known; ConfigError for a program
    that is not.
    """
    if program not in PROGRAMS:
        raise ConfigError(_unknown(program))
    source = as_path(source)
    file = read_adapter(source, base=base)
    models = [base] if base else list(file.models)
    tensors = []
    for path, _ in lora_files(source):
        with opened(path) as opened_file:
            tensors += tensor_names(opened_file, path)
    if not models:
        raise AdapterError(
            f"{source} was made for a base that is none of the known models: name it with --base."
        )
    missed = [_missed(tensors, program, model) for model in dict.fromkeys(models)]
    if base is None:
        require_possible(file)
    else:
        missed = [sorted({*missed[0], *_of_other_shape(file, base)} & {*tensors})]
    if any(each != missed[0] for each in missed):
        raise AdapterError(
            f"What {program} loads of {source} depends on whether it is for "
            f"{titles(models, joint=' and ')}: name the model with --base."
        )
    return sorted(missed[0])


def _unknown(program: str) -> str:
    """What to ask for instead of a program without a table."""
    flat = program.lower().replace(" ", "-")
    said = f"A program is one of {', '.join(PROGRAMS)}, but {quoted(program)} came."
    same = {re.sub("[-_]", "", name): about for name, about in RELATED.items()}
    if about := same.get(re.sub("[-_]", "", flat)):
        return f"{said} {about}"
    near = get_close_matches(flat, [*PROGRAMS, *ALIASES], n=1)
    if near:
        return f"{said} Did you mean {ALIASES.get(near[0], near[0])}?"
    return f"{said} Of others it is not known which names they look for."


def _of_other_shape(file: AdapterFile, base: Layers) -> Iterator[str]:
    """Tensors of layers whose weights the base has in another shape: a program that finds them by
    name fails at them, or passes over them."""
    for key, layer in file.layers.items():
        if not base.fits(key, layer.weight_shape):
            stem = re.sub(f"({COMFY}|{ANY})$", "", layer.a)
            yield from (layer.a, layer.b, f"{stem}.alpha")


def _missed(tensors: Sequence[str], program: str, model: Layers) -> list[str]:
    missed = {name for name in tensors if not loads(name, program, model)}
    if program == "a1111":
        missed |= _in_parts(set(tensors) - missed, model)
    stems = {match[1] for name in missed if (match := re.fullmatch(f"(.+?)({COMFY})", name))}
    # An alpha alone is no layer.
    return [name for name in tensors if name in missed or name.removesuffix(".alpha") in stems]


def loads(name: str, program: str, model: Layers) -> bool:
    """Whether the program looks for a tensor of this name, if the rest of its layer is there."""
    return _loads_text(name, program, model) or any(
        (match := re.fullmatch(f"(.+?)({looks.endings})", name[len(looks.prefix) :]))
        and name.startswith(looks.prefix)
        and _is_layer(match[1], looks, model)
        for looks in _looks(program, model)
    )


def _looks(program: str, model: Layers) -> Sequence[Looks]:
    if model.layout is None:
        return UNETS[program]["unet.add_embedding.linear_1" in model.shapes]
    return TRANSFORMERS[program].get(model.layout.transformer, ())


def _is_layer(path: str, looks: Looks, model: Layers) -> bool:
    if model.layout is not None:
        return _in_table(path, looks, model.layout)
    key = model.key(names.UNET, path)
    if key is None:
        return False
    module = names.split(key)[1]
    own = model.originals.get(module, module) if looks.original else module
    return path == own.replace(".", looks.joint) and bool(re.fullmatch(looks.only, module))


def _in_table(path: str, looks: Looks, layout: Layout) -> bool:
    if looks.original:
        place = layout.original(path)
        modules = place.modules if place else ()
        spelled = place.path if place else ""
    else:
        own = layout.own(path)
        modules, spelled = ((own,), own) if own else ((), "")
    return path == spelled.replace(".", looks.joint) and any(
        re.fullmatch(looks.only, module) for module in modules
    )


def _loads_text(name: str, program: str, model: Layers) -> bool:
    return _text_key(name, program, model) is not None


def _text_key(name: str, program: str, model: Layers) -> str | None:
    """The layer of a text encoder that the program finds by this name."""
    endings = {"diffusers": ANY, "comfyui": COMFY}.get(program, KOHYA)
    for component, prefix, first in _text_prefixes(program, model):
        joint = "_" if prefix.endswith("_") else "."
        match = re.fullmatch(f"(.+?)({endings})", name[len(prefix) :])
        start = first.replace(".", joint)
        found = name.startswith(prefix) and match and match[1].startswith(start)
        if found and match and (key := model.key(component, match[1])):
            return key
    return None


def _text_prefixes(program: str, model: Layers) -> Iterator[tuple[str, str, str]]:
    """(text encoder, what stands before its layers, how their paths begin)."""
    clip = TEXTS[program] if program != "a1111" else A1111_TEXTS.get(_unet_of(model) or "", {})
    for component, prefixes in clip.items():
        yield from ((component, prefix, "text_model.encoder.") for prefix in prefixes)
    if model.layout is not None:
        for prefix in T5S.get(program, {}).get(model.layout.transformer, ()):
            yield names.T5, prefix, "encoder.block."
        for prefix in GEMMAS.get(program, {}).get(model.layout.transformer, ()):
            yield names.TEXT, prefix, "layers."


def _unet_of(model: Layers) -> str | None:
    """Whose shapes the model has, of those with a UNet; None of a transformer."""
    if model.layout is not None:
        return None
    if "unet.add_embedding.linear_1" in model.shapes:
        return "SDXL"
    width = (model.shape(f"{names.TEXT}.encoder.layers.0.self_attn.q_proj") or (768,))[0]
    return "SD 2" if width == 1024 else "SD 1"


def _in_parts(loaded: Iterable[str], model: Layers) -> set[str]:
    """Of the names that A1111 finds those of OpenCLIP's attention without one of its four."""
    encoder = OPEN_CLIP.get(_unet_of(model) or "")
    attention: dict[str, dict[str, set[str]]] = {}
    for name in loaded:
        block, found, part = (_text_key(name, "a1111", model) or "").partition(".self_attn.")
        if found and block.startswith(f"{encoder}."):
            attention.setdefault(block, {}).setdefault(part, set()).add(name)
    return {
        name
        for parts in attention.values()
        if len(parts) < 4
        for each in parts.values()
        for name in each
    }
