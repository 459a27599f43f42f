"""The same image without selma: lines of Python for plain diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from selma.adapters.layers import Layers, layer_shapes
from selma.adapters.table import kind_of
from selma.backbones.base_files import base_family, left_out, part_config, tokenizer_limit
from selma.backbones.bases import BASES, guidance_of, located, place_of, rescale_of, steps_of
from selma.backbones.families import FAMILIES, stable_diffusion
from selma.backbones.families.family import Family
from selma.config.networks import BaseConfig
from selma.config.section import require_kind
from selma.errors import AdapterError, ModelError
from selma.records.adapters import AppliedAdapter
from selma.toybox import base_folder

_DTYPES = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}


@dataclass(frozen=True)
class Origin:
    """Where a base's parts are, each as an expression of Python."""

    model: str
    config: str | None = None
    """Of a single file of weights: whose configs it has."""
    vae: str | None = None
    """Of an autoencoder in place of the model's own."""
    revision: str | None = None
    """Commit of a repository on the Hub; no expression."""
    imports: tuple[str, ...] = ()
    """Lines that the expressions need."""


def in_diffusers(
    text: str,
    *,
    base: BaseConfig,
    adapters: Sequence[AppliedAdapter] = (),
    seed: int,
    steps: int | None = None,
    guidance: float | None = None,
    origin: Origin | None = None,
    applying: Sequence[str] | None = None,
) -> str:
    """Python by which plain diffusers generates the image of `on_demand.generate`.

    Noise comes from a generator on the CPU, in float32 whatever the base's precision, so that a
    seed is the same image on every device.  origin: where the base is said to be, if not where it
    is on this machine.  applying: lines that apply the adapters, if not these. Raises AdapterError
    for adapters that diffusers does not read (`without_loader`).
    """
    require_kind(base, BaseConfig, maker="selma.config.networks.base_of(MODEL) makes them.")
    image = _sampling(
        base,
        steps=steps_of(base) if steps is None else steps,
        guidance=guidance_of(base) if guidance is None else guidance,
        guidance_rescale=rescale_of(base),
    )
    origin, noise = origin or _on_this_machine(base), _noise(base)
    latents = "" if noise is None else "latents=noise, "
    lines = [
        "import torch, diffusers",
        *origin.imports,
        *_pipeline(base, origin),
        *(applying_all(adapters, base) if applying is None else in_float32(applying, base)),
        f'seed = torch.Generator("cpu").manual_seed({seed})',
        *([] if noise is None else [noise]),
        f"image = pipe(prompt={text!r}, generator=seed, {latents}{_arguments(image)}).images[0]",
    ]
    return "\n".join(lines)


def _sampling(base: BaseConfig, **asked: Any) -> dict[str, Any]:
    """The pipeline's arguments; Stable Diffusion's where the base's configs are not at hand."""
    family = _family(base)
    if family is None:
        return stable_diffusion.FAMILY.sampling(**asked)
    size = {} if base.image_px is None else dict.fromkeys(("height", "width"), base.image_px)
    try:
        limit = family.text_limit(partial(tokenizer_limit, base))
    except ModelError:  # its tokenizer is not at hand
        limit = {}
    return family.sampling(**asked) | limit | size


def _noise(base: BaseConfig) -> str | None:
    """A line for a pipeline in half precision, which would draw noise in that itself."""
    family = _family(base)
    if base.precision == "fp32" or family is None or family.wide_noise:
        return None
    denoiser, vae = (part_config(base, part) or {} for part in (family.component, "vae"))
    shape = family.shape(denoiser, vae, base.image_px)
    noise = f"torch.randn({(1, *shape)}, generator=seed).to(pipe.dtype)"
    return f"noise = {family.pack_line.format(noise, *shape)}"


def _family(base: BaseConfig) -> Family | None:
    """The base's family; None where its configs are not at hand. A known name needs none."""
    if (known := BASES.get(base.model)) is not None:
        return FAMILIES[known.architecture.family]
    try:
        return base_family(base)
    except ModelError:
        return None


def _on_this_machine(base: BaseConfig) -> Origin:
    return Origin(
        model=repr(_where(base.model)),
        config=None if base.config is None else repr(_where(base.config)),
        vae=None if base.vae is None else repr(base.vae),
        revision=located(base).revision,
    )


def _where(model: str) -> str:
    """The folder, file or repository that a setting names."""
    embedded = base_folder(model)
    return str(embedded) if embedded is not None else place_of(model)


def _pipeline(base: BaseConfig, origin: Origin) -> list[str]:
    family = _family(base)
    name = "AutoPipelineForText2Image" if family is None else family.pipeline_class
    dtype = f"dtype={_DTYPES[base.precision]}"
    arguments = [dtype, *([f"revision={origin.revision!r}"] if origin.revision else [])]
    lines = []
    if origin.vae is not None:
        kind = "AutoencoderKL" if family is None else family.network_class("vae").__name__
        lines.append(f"vae = diffusers.{kind}.from_pretrained({origin.vae}, {dtype})")
        arguments.append("vae=vae")
    # What is published under a known name is whole, and need not be looked at.
    known = BASES.get(base.model)
    whole = family is None or (known is not None and known.repository is not None)
    missing = () if whole else left_out(base)
    if family is not None and (loading := family.loading | dict.fromkeys(missing)):
        arguments.append(_arguments(loading))
    loader = "from_pretrained"
    if origin.config is not None:
        loader, arguments = "from_single_file", [f"config={origin.config}", *arguments]
    call = ", ".join([origin.model, *arguments])
    return [*lines, f"pipe = diffusers.{name}.{loader}({call})"]


def applying_all(adapters: Sequence[AppliedAdapter], base: BaseConfig) -> list[str]:
    """Lines that apply the adapters to the pipeline."""
    if not adapters:
        return []
    if reasons := without_loader(adapters, base):
        raise AdapterError("\n".join(reasons))
    layers = layers_of(base)
    return in_float32([line for a in adapters for line in _applying(a, layers) or ()], base)


def without_loader(adapters: Sequence[AppliedAdapter], base: BaseConfig) -> list[str]:
    """Why plain diffusers cannot generate with these adapters, and what to do; empty if it can."""
    require_kind(base, BaseConfig, maker="selma.config.networks.base_of(MODEL) makes them.")
    layers = layers_of(base) if adapters else None
    return [
        _no_loader(adapter)
        for adapter in adapters
        if layers is not None and _applying(adapter, layers) is None
    ]


def _no_loader(adapter: AppliedAdapter) -> str:
    kind = kind_of(adapter.path)
    advice = (
        "`selma convert --to fused` makes a folder that it loads in place of the base"
        if kind.weight_changes
        else "generate with selma"
    )
    return f"diffusers has no loader that reads {adapter.path} ({kind.name}) right: {advice}."


def in_float32(lines: Sequence[str], base: BaseConfig) -> list[str]:
    """Weights are changed in float32 and rounded once, whatever the base's precision is."""
    if base.precision == "fp32" or not lines:
        return [*lines]
    return ["pipe.to(torch.float32)", *lines, f"pipe.to({_DTYPES[base.precision]})"]


def layers_of(base: BaseConfig) -> Layers:
    """The base's layers, by its configs. Raises ModelError."""
    family = base_family(base)
    configs = {part: part_config(base, part) for part in family.classes if part != "vae"}
    return Layers(
        base.model, layer_shapes(family, {part: c for part, c in configs.items() if c is not None})
    )


def _applying(adapter: AppliedAdapter, layers: Layers) -> list[str] | None:
    kind = kind_of(adapter.path)
    return kind.in_diffusers(kind.read(adapter.path, base=layers), adapter.strength)


def _arguments(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
