"""LoRA, the low-rank change W + (alpha / rank) B A (arXiv:2106.09685): attach, save, detach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selma.adapters import names
from selma.adapters.files import PEFT_KEY, Lineage, given, write_adapter
from selma.adapters.formats import convert_lora
from selma.adapters.headers import opened
from selma.adapters.kind import AdapterKind, WeightChange, autocast_kind, spread
from selma.adapters.layers import titles
from selma.adapters.models import require_fit
from selma.adapters.reading import AdapterFile, is_lora, read_adapter
from selma.backbones.families.stable_diffusion import FAMILY
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.adapters import LoraConfig
from selma.errors import ConfigError

ADAPTER = "expert"


def attach(
    denoiser: Any,
    config: LoraConfig,
    *,
    generator: torch.Generator,
    targets: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, nn.Parameter]:
    """The trainable factors by name ("<module>.lora_A.weight"), sorted; all else is frozen.

    They are float32 whatever the denoiser's type is. B is zero, so that at first nothing changes; A
    is drawn from the CPU generator.
    """
    factors = add(denoiser, config, targets)
    for name, parameter in factors.items():
        if ".lora_A." in name:
            if parameter.is_meta:  # who counts on shapes alone needs no numbers
                continue
            generated = INITS[config.init](torch.empty(parameter.shape), config.rank, generator)
            parameter.data.copy_(generated)
    return factors


def add(
    denoiser: Any, config: LoraConfig, targets: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, nn.Parameter]:
    """Attach with PEFT's own first values, for those who need no more than shapes."""
    import peft

    denoiser.requires_grad_(False)
    chosen = _chosen(denoiser, config.targets, FAMILY.targets if targets is None else targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=_alpha(config),
        target_modules=chosen,
        init_lora_weights=True,
    )
    try:
        denoiser.add_adapter(settings, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigError(
            f"experts.adapter.targets must name layers of the denoiser, but {chosen} came: {error}"
        ) from error
    factors = {
        name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in sorted(denoiser.named_parameters())
        if parameter.requires_grad
    }
    for parameter in factors.values():
        parameter.data = parameter.data.float()
    for layer in denoiser.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer._cast_input_dtype = _cast
    return factors


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer's input as its factors take it. Autocast gives every product its own type: what PEFT
    makes float32 of before would be copied twice, to be what it was."""
    return x if torch.is_autocast_enabled(autocast_kind(x)) else x.to(dtype)


def _chosen(
    denoiser: nn.Module, chosen: str | Sequence[str], targets: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """The layers by the endings of their names, or of a choice all that there are by name: what one
    block has a layer for, another may have a list of layers for."""
    if not isinstance(chosen, str):
        return list(chosen)
    if chosen not in targets:
        raise ConfigError(
            f"experts.adapter.targets must be {' or '.join(targets)} for this base, or endings of "
            f"names, but is {chosen}."
        )
    endings = tuple(f".{ending}" for ending in targets[chosen])
    linear = (name for name, m in denoiser.named_modules() if isinstance(m, nn.Linear))
    return [name for name in linear if name.endswith(endings)]


def detach(denoiser: Any) -> None:
    """Take the adapter off; the denoiser is what it was."""
    denoiser.unload_lora()


@contextmanager
def switched_off(denoiser: Any) -> Iterator[None]:
    """While the block runs, the denoiser predicts what it did before `attach`."""
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()


def save(
    path: Path,
    factors: dict[str, nn.Parameter],
    config: LoraConfig,
    *,
    lineage: Lineage,
    component: str = "unet",
) -> None:
    """Write the factors as a diffusers LoRA file; equal factors give equal bytes."""
    write_adapter(
        path,
        given(factors),
        rank=config.rank,
        alpha=_alpha(config),
        targets=_named(factors) if isinstance(config.targets, str) else config.targets,
        lineage=lineage,
        component=component,
    )


def _named(factors: Iterable[str]) -> tuple[str, ...]:
    """The layers of factors by name."""
    return tuple(sorted({name.partition(".lora_")[0] for name in factors}))


def _alpha(config: LoraConfig) -> float:
    return float(config.rank) if config.alpha is None else config.alpha


def _gaussian(a: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """A ~ N(0, 1/rank²), as PEFT's "gaussian" has it and the paper's scripts use it."""
    return a.normal_(std=1 / rank, generator=generator)


def _kaiming(a: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """PEFT's own default."""
    return nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)


INITS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "gaussian": _gaussian,
    "kaiming": _kaiming,
}


def weight_changes(adapter: AdapterFile, *, strength: float = 1.0) -> dict[str, WeightChange]:
    """Layer → W + strength x scale x B A."""
    return {key: _adding(adapter, key, strength) for key in adapter.layers}


def _adding(adapter: AdapterFile, key: str, strength: float) -> WeightChange:
    def change(weight: Tensor) -> Tensor:
        a, b = (factor.to(weight.device) for factor in adapter.factors(key))
        scale = adapter.layers[key].scale * strength
        return weight.float() + scale * (b @ a).reshape(weight.shape)

    return change


def describe(adapter: AdapterFile) -> list[str]:
    """Ranks and scales of its layers."""
    layers = adapter.layers.values()
    return [
        f"rank: {spread(layer.rank for layer in layers)}",
        f"scale: {spread(layer.scale for layer in layers)}",
        *([f"layers of: {titles(adapter.models, joint=' or ')}"] if adapter.models else []),
        *([adapter.left_out] if adapter.left_out else []),
    ]


def in_diffusers(adapter: AdapterFile, strength: float) -> list[str] | None:
    """diffusers' own loader, where it reads the file alike; fused, since an adapter that is not
    rounds otherwise."""
    path = adapter.path
    if adapter.embeddings or not _read_alike(adapter):
        return None
    return [
        f"pipe.load_lora_weights({str(path.parent)!r}, weight_name={path.name!r})",
        f"pipe.fuse_lora(lora_scale={strength!r}); pipe.unload_lora_weights()",
    ]


def _read_alike(adapter: AdapterFile) -> bool:
    """Whether diffusers (0.42) gives each layer its own scale, and passes over none.

    In a file of its own names it takes alphas from the header alone.
    """
    layers = adapter.layers
    texts = (module for part, module in map(names.split, layers) if part in names.TEXTS)
    if not all(module.startswith("encoder.layers.") for module in texts):
        return False  # of text encoders it knows CLIP's alone
    if adapter.format == "kohya":
        return _kohya_read_alike(adapter)
    if not all(layer.a in _diffusers_names(key) for key, layer in layers.items()):
        return False
    with opened(adapter.path) as file:
        return PEFT_KEY in (file.metadata() or {}) or all(
            layer.scale == 1 for layer in layers.values()
        )


_NUMBERED = tuple(
    f"lora_unet_{block}_" for block in ("input_blocks", "middle_block", "output_blocks")
)


def _kohya_read_alike(adapter: AdapterFile) -> bool:
    """diffusers gives a kohya file one alpha, knows a text encoder there by its output projections,
    and the numbers of the original UNet's blocks as those of SDXL alone."""
    layers = adapter.layers
    if any(names.split(key)[0] not in (names.UNET, *names.TEXTS) for key in layers):
        return False  # what diffusers makes of a transformer's file differs from family to family
    own = [layer.a for layer in layers.values()]
    texts = {c for c, _ in map(names.split, layers)} & set(names.TEXTS)
    known = {c for c, module in map(names.split, layers) if module.endswith(".out_proj")}
    numbered = any(name.startswith(_NUMBERED) for name in own)
    sdxl = all("unet.add_embedding.linear_1" in model.shapes for model in adapter.models)
    return (
        all(name.startswith("lora_") for name in own)
        and len({layer.alpha for layer in layers.values()}) == 1
        and texts <= known
        and (sdxl or not numbered)
    )


def _diffusers_names(key: str) -> tuple[str, str]:
    part, module = names.split(key)
    paths = (module, names.with_text_model(part, module))
    first, second = (f"{part}.{path}.lora_A.weight" for path in paths)
    return first, second


LORA = AdapterKind(
    name="lora",
    settings=LoraConfig,
    file=ADAPTER_FILE,
    read=read_adapter,
    recognizes=is_lora,
    attach=attach,
    detach=detach,
    switched_off=switched_off,
    save=save,
    weight_changes=weight_changes,
    require_fit=lambda adapter, base, who: require_fit(adapter.layers, base, who=who),
    convert=convert_lora,
    describe=describe,
    in_diffusers=in_diffusers,
)
